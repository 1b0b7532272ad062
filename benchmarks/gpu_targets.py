"""What the project aims at on a GPU, and what a run of gpu.py has found of it."""

from collections.abc import Iterable, Sequence
from typing import Any

from common import Row, Target, find, ratio

RECORDED = "bf16 recorded"  # the matcher whose launches are recorded
LIGHTGLUES = ("kornia", "official")
EXACT = ("padded and recorded scores bit for bit", "forwards of a prepared batch that never wait")
OUTPUT = 2 * 4 * 64  # bytes of what attention gives for a node, in bfloat16


def targets(rows: Sequence[Row], pairs_at_once: int, errors: Sequence[Row]) -> list[Target]:
    """What the project aims at, and what the rows and errors of a run say of it."""
    found = [
        Target(
            f"attention bf16 {labels['pass']} against SDPA, {n} nodes",
            ratio(rows, ["sdpa bf16"], "ours bf16", n=n, **labels),
            wanted,
        )
        for labels, sizes in (
            ({"section": "operator", "pass": "forward"}, {2048: 1.0, 8192: 2.5, 16384: 5.0, 32768: 10.0}),
            ({"section": "operator", "pass": "backward"}, {8192: 1.5, 32768: 5.0}),
        )
        for n, wanted in sizes.items()
    ]
    faster = ratio(
        rows, ["TransformerConv fp32"], "ours fp32", n=8192, section="operator", **{"pass": "forward"}
    )
    found.append(Target("attention fp32 against TransformerConv, 8192 nodes", faster, 30.0))
    whole = "sparse bf16, edges included"
    for n, pairs, wanted in ((2048, 16, 1000.0), (512, 64, 3500.0), (2048, 32, 1200.0)):
        seconds = find(rows, whole, section="batches", n=n, pairs=pairs)
        name = f"pairs a second, {pairs} of {n}" if pairs != 32 else "pairs a second, 32 of 512 to 2048"
        found.append(Target(name, seconds and pairs / seconds, wanted, ""))
    recorded, of_one = f"sparse {RECORDED}, edges included", {"section": "matcher", "n": 2048, "pairs": 1}
    one = find(rows, recorded, **of_one)
    found.append(Target("one pair of 2048", one and 1e3 * one, 2.0, " ms", at_least=False))
    for kind, peers, wanted in (
        ("eager", [f"{name} {precision}" for name in LIGHTGLUES for precision in ("fp32", "fp16")], 7.0),
        ("compiled", [f"{name} fp16, compiled" for name in LIGHTGLUES], 4.0),
    ):
        faster = ratio(rows, peers, recorded, **of_one)
        found.append(Target(f"one pair of 2048 against {kind} LightGlue", faster, wanted))
    for name, labels, wanted in (
        ("a window forward, 65536 nodes", {"section": "windows", "n": 65536, "pass": "forward"}, 0.12),
        ("a training step, 32 x 512", {"section": "training", "n": 512, "pairs": 32}, 80.0),
    ):
        peer = "ours bf16" if labels["section"] == "windows" else "sparse bf16"
        seconds = find(rows, peer, **labels)
        found.append(Target(name, seconds and 1e3 * seconds, wanted, " ms", at_least=False))
    passes = [
        find(rows, "ours bf16", section="windows", n=65536, **{"pass": name})
        for name in ("forward", "backward")
    ]
    slower = passes[1] / passes[0] if passes[0] and passes[1] else None
    found.append(Target("a window with gradients against without", slower, 4.0, at_least=False))
    for name, peer, labels, wanted in (
        ("a pair of 8192", whole, {"section": "matcher", "n": 8192, "pairs": 1}, 1.0),
        ("a training step, 32 x 512", "sparse bf16", {"section": "training", "n": 512, "pairs": 32}, 5.0),
    ):
        memory = _memory(rows, peer, "peak", **labels)
        found.append(Target(f"memory of {name}", memory and memory / 1e9, wanted, " GB", at_least=False))
    memory = _memory(rows, "ours bf16", "memory", section="operator", n=32768, **{"pass": "forward"})
    outputs = memory and memory / (32768 * OUTPUT)
    found.append(Target("memory of attention, 32768 nodes", outputs, 1.2, " outputs", at_least=False))
    made = find(rows, "all of it", section="live")
    found.append(Target("pairs a second, trained on from photos", made and pairs_at_once / made, 100.0, ""))
    for row in errors:
        if "forward" in row:
            limit = 1e-5 if row["what"].endswith("fp32") else 1e-2
            found.append(Target(f"error of {row['what']}", row["forward"], limit, "", at_least=False))
        else:
            wanted = 1.0 if row["what"] in EXACT else 0.995
            found.append(Target(row["what"], row["share"], wanted, ""))
    return found


def _memory(rows: Iterable[Row], peer: str, kind: str, **labels: Any) -> int | None:
    """Bytes that a peer needed in the row with these labels, beyond its inputs or with them, or ``None``."""
    wanted = {"peer": peer, **labels}
    return next((row.get(kind) for row in rows if wanted.items() <= row.items()), None)
