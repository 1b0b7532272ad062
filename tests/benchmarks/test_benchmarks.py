import copy
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
import torch
from helpers import write_images
from scipy.spatial import cKDTree

from pyg_match import knn_graph
from pyg_match.nn import GraphMatcher

FOLDER = Path(__file__).parents[2] / "benchmarks"
SIBLINGS = {file.stem for file in FOLDER.glob("*.py")} | {"tables"}
FAST = ("--budget", "0", "--threads", "1")


@pytest.fixture
def load(monkeypatch):
    """Import a benchmark the way it imports its siblings, and forget all of them afterwards.

    What is timed is called once to warm up and once for each sample, however quick it is.
    """
    monkeypatch.syspath_prepend(str(FOLDER))
    for name, seconds in (("SAMPLE_SECONDS", 1e-4), ("SLOW_SECONDS", 0.0), ("FIRST_SECONDS", 0.0)):
        monkeypatch.setattr(importlib.import_module("common"), name, seconds)
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in [name for name in sys.modules if name.partition(".")[0] in SIBLINGS]:
        del sys.modules[name]


def read(file: Path) -> dict:
    results = json.loads(file.read_text())
    assert not list(file.parent.glob("*.tmp"))
    assert results["versions"]["torch"] == torch.__version__ and results["machine"]["cores"] >= 1
    assert results["command"].startswith("python benchmarks/") and str(file) not in results["command"]
    for row in results["rows"]:
        assert row["seconds"] is None or 0 < row["low"] <= row["seconds"] <= row["high"]
        assert row["seconds"] is not None or row["note"]
    return results


def test_callables_take_turns(load):
    common = load("common")
    calls = []
    timings = common.interleave(
        {name: lambda name=name: calls.append(name) for name in "ab"}, 0.0, max_rounds=4
    )
    assert timings["a"].samples == timings["b"].samples == 3
    turns = [name for before, name in zip(["", *calls[:-1]], calls, strict=True) if name != before]
    assert turns == list("ab" * 4)  # once to warm up, three rounds


def test_very_slow_callables_take_one_turn(load, monkeypatch):
    common = load("common")
    monkeypatch.setattr(common, "RARE_SECONDS", 0.0)
    timing = common.interleave({"a": lambda: None}, 0.0)["a"]
    assert timing.samples == 1 and timing.low == timing.seconds == timing.high


def test_exponent_and_targets(load):
    common = load("common")
    rows = [{"n": n, "peer": "a", "seconds": 3e-9 * n**2} for n in (1024, 2048, 4096)]
    rows += [{"n": 128, "peer": "a", "seconds": 1.0}, {"n": 2048, "peer": "b", "seconds": None}]
    assert common.exponent(rows, "a") == pytest.approx(2.0)
    assert common.exponent(rows, "b") is None
    assert common.find(rows, "a", n=128) == 1.0 and common.find(rows, "b", n=2048) is None
    assert str(common.Target("x", 4.0, 3.0)) == "x: 4x (wanted >= 3x) met"
    assert common.Target("x", 4.0, 3.0, at_least=False).met is False
    assert common.Target("x", None, 3.0).met is None


def test_peak_memory_counts_every_library(load, tmp_path, monkeypatch):
    (tmp_path / "allocate.py").write_text(
        "import numpy, torch\n"
        "def prepare(size):\n"
        "    def call(n):\n"
        "        return numpy.ones(n << 20, numpy.uint8), torch.ones(n << 20, dtype=torch.uint8)\n"
        "    return lambda: call(1), lambda: call(size)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    prepare = importlib.import_module("allocate").prepare
    megabytes = load("common").peak_memory(prepare, 1, 48) / 2**20
    assert megabytes == pytest.approx(96, abs=1)


def test_graphs_of_the_operator_benchmark(load):
    ops = load("attention_ops")
    for edges in ("random", "local"):
        for degrees in ("equal", "powerlaw"):
            graph = ops.draw_graph(100, 8, edges, degrees, seed=0)
            assert bool((graph[1].diff() >= 0).all()) and graph.unique(dim=1).size(1) == graph.size(1)
            count = torch.bincount(graph[1], minlength=100)
            assert int(count.min()) >= 1 and (int(count.max()) > 8) == (degrees == "powerlaw")
    # Local edges join nodes that have many neighbours in common, and random ones do not.
    shared = {}
    for edges in ("random", "local"):
        source, target = ops.draw_graph(100, 8, edges, "equal", seed=0)
        adjacency = torch.zeros(100, 100).index_put((target, source), torch.ones(()))
        shared[edges] = float((adjacency @ adjacency.T)[target, source].mean())
    assert shared["local"] > 3 * shared["random"]


def test_attention_forward(load, tmp_path, monkeypatch, capsys):
    ops = load("attention_ops")
    assert ops.matmul_rate(size=64, repeats=2) > 0
    monkeypatch.setattr(ops, "matmul_rate", lambda: 1e11)
    monkeypatch.setattr(ops, "first_calls", lambda: {"loaded": 0.003})  # takes a while
    monkeypatch.setattr(ops, "MEMORY_PEERS", ("ours", "messages"))
    out, plot = tmp_path / "a" / "x.json", tmp_path / "x.svg"
    peers = [peer for peer in ops.PEERS if peer != "flex"]  # its compilation takes a minute
    graphs = ["--sizes", "64", "128", "--k", "8", "--degrees", "equal", "powerlaw", "--memory-size", "512"]
    shape = ["--heads", "2", "--channels", "16", "--peers", *peers]
    ops.main([*graphs, *shape, *FAST, "--out", str(out), "--plot", str(plot)])
    results = read(out)
    assert len(results["rows"]) == 2 * 2 * len(peers)
    einsum = [row for row in results["rows"] if row["peer"] == "gather-einsum"]
    assert {row["degrees"] for row in einsum if row["seconds"] is None} == {"powerlaw"}
    assert all(row["reached"] > 0 and row["name"] in ("reading", "computing") for row in results["bounds"])
    memory = {row["peer"]: row["outputs"] for row in results["memory"]}
    assert set(memory) == set(ops.MEMORY_PEERS) and memory["messages"] > memory["ours"]
    assert all(target["met"] is None for target in results["targets"])  # they speak of other sizes
    assert plot.read_text().count("<svg") == 1
    printed = capsys.readouterr().out
    assert "degrees differ" in printed and "Targets" in printed and "GFLOP/s" in printed


def test_attention_backward(load, tmp_path):
    out = tmp_path / "x.json"
    arguments = [
        "--backward",
        "--sizes",
        "64",
        "--k",
        "8",
        "--edges",
        "local",
        "--heads",
        "2",
        "--channels",
        "16",
    ]
    load("attention_ops").main([*arguments, *FAST, "--out", str(out)])
    notes = {row["peer"]: row.get("note") for row in read(out)["rows"]}
    assert notes["flex"] == "FlexAttention has no backward on CPUs"
    assert notes["ours"] is None and notes["messages-csr"] is None


def test_wrong_peers_are_found(load, monkeypatch):
    ops = load("attention_ops")
    problem = ops.Problem(64, ops.draw_graph(64, 8, "random", "equal", 0), 2, 16)
    ops.check(problem, ["ours", "messages"])
    monkeypatch.setitem(ops.PEERS, "messages", ops.sdpa)
    with pytest.raises(RuntimeError, match="'messages' differs from masked attention"):
        ops.check(problem, ["ours", "messages"])


def test_slow_peers_are_left_out_of_larger_sizes(load, tmp_path):
    out = tmp_path / "x.json"
    load("knn").main(["--sizes", "32", "64", "--k", "4", *FAST, "--limit", "0", "--out", str(out)])
    for row in read(out)["rows"]:
        assert (row["seconds"] is None) == (row["n"] == 64)


def test_knn(load, tmp_path):
    knn = load("knn")
    out = tmp_path / "x.json"
    knn.main(["--sizes", "64", "--k", "4", *FAST, "--out", str(out)])
    rows = read(out)["rows"]
    assert {row["points"] for row in rows} == {"uniform", "clustered"}
    assert {"auto", "scipy", "torch", "cdist+topk"} <= {row["peer"] for row in rows}
    x = knn.draw_points(200, "uniform", seed=0).double()
    edges = [{tuple(edge) for edge in found.T.tolist()} for found in (knn.cdist_topk(x, 4), knn_graph(x, 4))]
    assert edges[0] == edges[1]
    x = knn.draw_points(200, "clustered", seed=0)
    spread = [
        float(cKDTree(knn.draw_points(200, kind, 0)).query(x, k=[8])[0].mean())
        for kind in ("uniform", "clustered")
    ]
    assert spread[1] < spread[0]


def test_layers(load, tmp_path):
    out = tmp_path / "x.json"
    load("layers").main(
        ["--sizes", "48", "--k", "4", "--heads", "2", "--channels", "8", *FAST, "--out", str(out)]
    )
    rows = read(out)["rows"]
    assert len(rows) == 2 * 6 and all(row["seconds"] for row in rows)


ACCURACY = {
    "method": "complete",
    "pairs": 3,
    "matches": 9.0,
    "precision": 70.0,
    "recall": None,
    "threshold": 1.0,
    "ms": 1.0,
}
ACCURACY |= {name: [1.0, 2.0, 45.6] for name in ("DLT", "OpenCV", "PoseLib")}


@pytest.fixture
def hpatches(tmp_path) -> Path:
    """A file such as examples/hpatches_eval.py writes."""
    content = {
        "date": "2020-01-02T00:00:00+00:00",
        "command": "python examples/hpatches_eval.py /home/somebody/photos --out outputs/x",
        "settings": {
            "roots": ["/home/somebody/photos"],
            "features": "aliked",
            "max_keypoints": 64,
            "short_side": 480,
            "poselib_iterations": 20000,
        },
        "versions": {"python": "3"},
        "machine": {"platform": "Linux", "cpus": 2, "threads": 2},
        "caption": "A caption.",
        "results": {"sets": {"photos": [ACCURACY], "all": [ACCURACY]}},
        "false_matches": {"kornia": 7.25},
    }
    file = tmp_path / "hpatches_results.json"
    file.write_text(json.dumps(content))
    return file


def test_matcher(load, tmp_path, hpatches, capsys):
    matcher = load("matcher")
    out = tmp_path / "x.json"
    words = [
        "--sizes",
        "32",
        "--side",
        "192",
        *FAST,
        "--accuracy",
        str(hpatches),
        "--out",
        str(out),
        "--bf16",
    ]
    matcher.main(words)
    results = read(out)
    names = {row["peer"] for row in results["rows"]}
    depth = GraphMatcher.from_pretrained(matcher.TRAINED).config.num_layers
    assert names == {
        *matcher.PEERS,
        *([f"official-{depth}"] if depth < 9 else []),
        *(f"{name} bf16" for name in matcher.PEERS),
        *matcher.GRAPHS,
        "edges of candidates-16",
        "edges of sparse",
        "edges of trained",
        "edges of trained-listed",
        *(f"{name}, early exit" for name in (*matcher.PEERS, "trained")),
        "GEMMs alone",
    }
    whole = {row["peer"]: row for row in results["summary"]}
    drawn, own = (matcher_row(results, name)["seconds"] for name in ("edges of sparse", "sparse-edges"))
    assert whole["sparse-edges"]["total"] == pytest.approx(drawn + own)
    fastest = min(s for name in matcher.PEERS if (s := matcher_row(results, name)["seconds"]))
    assert whole["complete"]["ratio"] == pytest.approx(fastest / whole["complete"]["total"])
    fastest = min(s for name in matcher.PEERS if (s := matcher_row(results, f"{name} bf16")["seconds"]))
    halved = whole["trained-bfloat16"]
    assert halved["ratio_bf16"] == pytest.approx(fastest / halved["total"])
    if depth < 9:
        shorter = matcher_row(results, f"official-{depth}")["seconds"]
        assert whole["trained"]["ratio_short"] == pytest.approx(shorter / whole["trained"]["total"])
    assert {row["peer"] for row in results["answers"]} == set(matcher.GRAPHS)
    assert "R@3 -, PoseLib AUC@5 45.6, 3 pairs" in capsys.readouterr().out
    with pytest.raises(ValueError, match="choose a larger --side"):
        matcher.detect(32, 1000, seed=0)


def test_end_to_end(load, tmp_path, capsys):
    out, text = tmp_path / "end_to_end.json", tmp_path / "README.md"
    words = ["--sizes", "96", "--thread-counts", "1", "--max-keypoints", "24", "--features", "aliked", *FAST]
    bench = load("end_to_end")
    bench.main([*words, "--out", str(out)])
    results = read(out)
    kinds = {(row["what"], row["peer"]) for row in results["rows"]}
    assert {kind for kind in kinds if kind[0] == "match"} == {
        ("match", name)
        for name in (
            "aliked-sparse",
            "aliked-sparse, kornia's detector",
            "aliked-lightglue",
            "kornia",
            "official",
            "aliked-sparse, early exit",
            "kornia, early exit",
            "official, early exit",
        )
    }
    assert {name for what, name in kinds if what == "detect"} == {
        *bench.DETECTORS, "aliked, kornia", "disk, kornia"
    }  # fmt: skip
    assert all(row["mib"] >= 0 for row in results["memory"]) and len(results["targets"]) == 5
    assert "peak memory aliked, kornia" in capsys.readouterr().out
    text.write_text("<!-- begin: end to end -->\n<!-- end: end to end -->\n")
    assert load("readme").main(["--results", str(tmp_path), "--readme", str(text)]) == 0
    assert "| aliked-sparse, 96 px, 1 |" in text.read_text()
    assert "What detection adds to memory at its peak: aliked" in text.read_text()
    assert "with early exit and pruning, as LightGlue has them by default" in text.read_text()


def matcher_row(results: dict, peer: str) -> dict:
    return next(row for row in results["rows"] if row["peer"] == peer)


def test_graphs(load, tmp_path, monkeypatch, capsys):
    graphs = load("graphs")
    monkeypatch.setattr(graphs, "K", 8)
    monkeypatch.setattr(graphs, "SHARE_AT", 96)
    out, plot = tmp_path / "x.json", tmp_path / "x.svg"
    size = ["--sizes", "96", "--max-keypoints", "64", "--out", str(out), "--plot", str(plot)]
    graphs.main([*size, *FAST])
    results = read(out)
    names = {row["peer"] for row in results["rows"]} - {"matcher"}
    assert names == {row["peer"] for row in results["summary"]} and "diverse kNN 8, descriptors" in names
    whole = matcher_row(results, "matcher")["seconds"]
    for row in results["summary"]:
        own = matcher_row(results, row["peer"])["seconds"]
        assert row["seconds"] == own and row["share"] == pytest.approx(100 * own / whole)
        assert row["exponent"] is None  # of sizes from 1024 on
    assert [row["weight"] for row in results["diversity"]] == list(graphs.WEIGHTS)
    assert results["diversity"][-1]["cosine"] < results["diversity"][0]["cosine"]
    assert len(results["targets"]) == 2 * len(names) + 1 and plot.exists()
    printed = capsys.readouterr().out
    assert "% of the matcher" in printed and "Targets" in printed


def test_run_all(load, tmp_path, monkeypatch, capsys):
    run_all = load("run_all")
    scripts = tmp_path / "benchmarks"
    scripts.mkdir()
    target = {"name": "a target", "found": 2.0, "wanted": 3.0, "met": False}
    (scripts / "good.py").write_text(
        f"import sys, pathlib\npathlib.Path(sys.argv[-1]).write_text({json.dumps(json.dumps({'targets': [target]}))})\n"
    )
    (scripts / "bad.py").write_text("raise SystemExit(2)\n")
    (tmp_path / "results").mkdir()
    names = ("good", "bad", "missing")
    jobs = [run_all.Job(name, f"{name}.py", quick="--quick") for name in names]
    monkeypatch.setattr(run_all, "JOBS", (*jobs, run_all.Job("full", "good.py")))
    monkeypatch.setattr(run_all, "ROOT", tmp_path)
    assert run_all.main(["--quick", "--folder", "results"]) == 1
    assert {file.name for file in (tmp_path / "results").iterdir()} == {"good.json"}
    printed = capsys.readouterr().out
    assert "2 benchmarks in" in printed and "FAILED bad: exit code 2" in printed
    assert "0 targets met, 1 not met" in printed and "good: a target: 2, wanted 3" in printed
    assert run_all.main(["--only", "full", "--folder", "results"]) == 0
    assert (tmp_path / "results" / "full.json").exists()


def test_run_all_passes_arguments_that_exist(load):
    run_all = load("run_all")
    for job in run_all.JOBS:
        options = load(Path(job.script).stem).options()
        for quick in (True, False):
            args = options.parse_args(run_all.command(job, quick, "folder"))
            assert args.out == Path("folder") / f"{job.name}.json"


def timing(seconds: float, **labels) -> dict:
    return {**labels, "seconds": seconds, "low": seconds, "high": 1.1 * seconds, "samples": 3}


def benchmark(name: str, rows: list[dict], **more) -> dict:
    return {
        "date": "2020-01-02T00:00:00+00:00",
        "command": f"python benchmarks/{name}.py",
        "machine": {"cpu": "A CPU", "cores": 2, "memory_gib": 8},
        "versions": {"torch": "2"},
        "settings": {"threads": 2},
        "cores_used_by_others": 0.5,
        "rows": rows,
        "exponents": [],
        **more,
    }


def pose_record() -> dict:
    dense = {"method": "kornia", "pairs": 3, "matches": 9, "precision": 90.0, "PoseLib": [1.0, 2.0, 3.0]}
    rows = [dense, {**dense, "method": "mine", "matches": 8, "precision": 91.0, "PoseLib": [1.5, 2.0, 3.0]}]
    gains = {"precision": [1, 0.5, 1.5], "AUC@5": [0.5, -1, 2], "AUC@10": [0, -1, 1], "AUC@20": [0, -1, 1]}
    return {
        "date": "2020-01-02T03:04:05+00:00",
        "command": "python /home/somebody/examples/pose_eval.py /home/somebody/yard",
        "settings": {"scenes": ["yard"], "max_keypoints": 2048, "features": "aliked"},
        "versions": {"torch": "2.0"},
        "machine": {"platform": "Linux", "cpus": 2},
        "results": {"sets": {"yard": rows, "all": rows}, "differences": [{"method": "mine", **gains}]},
    }


def seed_record(results: dict) -> dict:
    """Results of weights that are not the package's."""
    dense = {**ACCURACY, "method": "kornia", "recall": 80.0}
    sparse = {**dense, "method": "trained", "recall": 81.5, "DLT": [0.0, 0.0, 40.0]}
    gains = {"precision": [0, -1, 1], "recall": [1.5, 0.5, 2.5], "DLT": [-5.6, -9, -1], "PoseLib": [0, -3, 3]}
    found = {"sets": {"photos": [], "all": [dense, sparse]}, "differences": [{"method": "trained", **gains}]}
    trained = {"weights": "/home/somebody/seed1.safetensors", "sha256": "0"}
    return {**results, "results": found, "settings": {**results["settings"], "trained": trained}}


def test_readme(load, tmp_path, hpatches, capsys):
    readme = load("readme")
    folder, text = tmp_path / "results", tmp_path / "README.md"
    markers = "\n".join(f"<!-- begin: {name} -->\nSTALE\n<!-- end: {name} -->" for name in readme.SECTIONS)
    text.write_text(f"# Title\n{markers}\nthe end\n")
    options = ["--results", str(folder), "--readme", str(text)]
    assert readme.main(options) == 0 and text.read_text().count("STALE") == len(readme.SECTIONS)

    main = {"pass": "forward", "k": 32, "edges": "random", "degrees": "equal"}
    rows = [timing(0.001 * n, n=n, peer="ours", **main) for n in (1, 2)]
    rows += [timing(0.0005, n=1, peer="sdpa", **main), timing(0.05, n=2, peer="sdpa", **main)]
    rows.append({"n": 2, "peer": "flex", "seconds": None, "note": "does not compile", **main})
    bounds = [{"n": 2, "name": "reading", "reached": 0.5, **main}]
    forward = benchmark(
        "attention_ops",
        rows,
        bounds=bounds,
        memory=[{"peer": "ours", "n": 2, "outputs": 1.5}],
        first_calls={"compiled": 9.0, "cached": 0.31},
    )
    folder.mkdir()
    (folder / "attention_forward.json").write_text(json.dumps(forward))
    measures = ("precision", "recall", "auc@5_poselib", "false_matches")
    chosen = [
        {"section": "accuracy", "peer": "parts", "steps": steps, **dict.fromkeys(measures, value)}
        for steps, value in ((0, 0.5), (9, 0.625))
    ]
    chosen.append(timing(1.25, n=2048, peer="parts", section="times", part="graph and matcher"))
    (folder / "graph_choice.json").write_text(json.dumps(benchmark("graph_choice", chosen)))
    knn = [timing(0.0123, n=5, peer="auto", points="uniform", k=8)]
    (folder / "knn.json").write_text(json.dumps(benchmark("knn", knn)))
    drawn = [timing(0.01, n=5, peer=r"rings \1"), timing(0.5, n=5, peer="matcher")]
    costs = [{"peer": r"rings \1", "n": 5, "seconds": 0.01, "share": 2.0, "exponent": 1.05}]
    costs.append({"peer": "parts", "n": 5, "seconds": None, "share": None, "exponent": None})
    cosines = [{"weight": 0.25, "cosine": 0.1234, "distance": 12.34}]
    (folder / "graphs.json").write_text(
        json.dumps(benchmark("graphs", drawn, summary=costs, diversity=cosines))
    )
    steps = [timing(s, n=1024, pairs=2, peer=peer, memory=m << 20)
             for peer, s, m in (("plain", 2.0, 1000), ("checkpointed", 3.0, 450))]  # fmt: skip
    (folder / "training_memory.json").write_text(json.dumps(benchmark("training_memory", steps)))
    posed, seed = tmp_path / "pose.json", tmp_path / "seed.json"
    posed.write_text(json.dumps(pose_record()))
    seed.write_text(json.dumps(seed_record(json.loads(hpatches.read_text()))))
    assert readme.main([*options, "--check"]) == 1 and "out of date" in capsys.readouterr().err
    assert readme.main([*options, "--hpatches", str(hpatches), str(posed), str(seed)]) == 0
    written = text.read_text()
    assert "| 1 | 1.00 | **0.50×** |" in written and "| 2 | 2.00 | 25× |" in written
    assert "FlexAttention" not in written and "50% at N=2 (reading)" in written and "ours 1.5." in written
    assert "9.0 s to compile, 0.3 s in later" in written
    assert "| 5, uniform | 12.3 |" in written
    assert "| 2 pairs of 1,024 keypoints | 2.00 s, 1,000 MiB | 3.00 s, 450 MiB |" in written
    assert (
        "| yard, 3 pairs, 2,048 keypoints | mine | 9 → 8 | 90.0 → 91.0 | 1.0 → 1.5 | 2.0 → 2.0 |" in written
    )
    assert (
        "| all, 3 pairs, 2,048 keypoints | mine | 9 → 8 | 90.0 → 91.0 (+0.5 to +1.5) | 1.0 → 1.5 (−1.0 to +2.0) |"
        in written
    )
    assert "`python examples/pose_eval.py yard`" in written
    assert "somebody" not in (folder / "seed1_hpatches.json").read_text()
    assert (
        "|  | seed 1 | 70.0 (−1.0 to +1.0) | 81.5 (+0.5 to +2.5) | 40.0 (−9.0 to −1.0) | 45.6 (−3.0 to +3.0) |"
        in written
    )
    assert "| parts | 50.0 → 62.5 | 50.0 → 62.5 | 50.0 → 62.5 | 0.5 → 0.6 | 1,250 |" in written
    assert r"| rings \1 | 10.0 | 2.0% | N^1.05 |" in written and "| parts | – | – | – |" in written
    assert "the 500 ms that a sparse matcher takes" in written and "| 0.25 | 0.123 | 12.3 |" in written
    assert "2020-01-02; A CPU, 2 cores, 2 threads, 8 GiB, others used 0.50 cores; torch 2." in written
    assert (
        "`python examples/hpatches_eval.py photos --out outputs/x`" in written and "somebody" not in written
    )
    assert (
        "| all (3) | complete | 9 | 70.0 | – | 1.0 / 2.0 / 45.6 |" in written
        and "| photos (3) | complete |" in written
    )
    assert (
        written.count("STALE") == 15 and written.startswith("# Title\n") and written.endswith("\nthe end\n")
    )
    assert readme.main([*options, "--check"]) == 0
    assert "somebody" not in (folder / "hpatches.json").read_text()

    forward["first_calls"] = {"loaded": 0.0042}  # of kernels that need no compiling
    (folder / "attention_forward.json").write_text(json.dumps(forward))
    assert readme.main([*options, "--hpatches", str(hpatches)]) == 0
    assert "First use: 4.2 ms." in text.read_text()

    results = json.loads(hpatches.read_text())
    results["settings"] |= {"roots": ["/home/somebody/synthetic"], "max_keypoints": 2048}
    dense = {**ACCURACY, "method": "kornia", "recall": 80.0}
    sparse = {**dense, "method": "trained", "recall": 81.5, "DLT": [0.0, 0.0, 40.0]}
    results["results"]["sets"] = {"synthetic": [], "all": [dense, sparse]}
    other_file = tmp_path / "more.json"
    other_file.write_text(json.dumps(results))
    (folder / "hpatches.json").unlink()
    assert readme.main([*options, "--hpatches", str(other_file)]) == 0
    assert (folder / "synthetic_2048.json").exists() and not (folder / "hpatches.json").exists()
    written = text.read_text()
    assert "| the same, at most 2048 keypoints | dense | 70.0 | 80.0 | 45.6 | 45.6 | 7.2 |" in written
    assert "|  | aliked-sparse | 70.0 (+0.0) | 81.5 (+1.5) | 40.0 (-5.6) | 45.6 (+0.0) | – |" in written

    assert "| 3 warped photos, 2,048 keypoints | 70.0 → 70.0 | 80.0 → 81.5 | 45.6 → 45.6 | – |" in written

    interval = {
        "method": "trained",
        "precision": [0, -1, 1],
        "recall": [1.5, 0.5, 2.5],
        "PoseLib": [0, -3, 3],
    }
    results["results"]["differences"] = [interval]
    other_file.write_text(json.dumps(results))
    assert readme.main([*options, "--hpatches", str(other_file)]) == 0
    assert "| 70.0 → 70.0 (−1.0 to +1.0) | 80.0 → 81.5 (+0.5 to +2.5) |" in text.read_text()

    results["settings"]["features"] = "disk"
    other_file.write_text(json.dumps(results))
    assert readme.main([*options, "--hpatches", str(other_file)]) == 0
    assert (folder / "disk_synthetic_2048.json").exists()
    assert "|  | disk-sparse | 70.0 (+0.0) | 81.5 (+1.5) | 40.0 (-5.6)" in text.read_text()
    (folder / "disk_synthetic_2048.json").unlink()

    text.write_text(written)
    other = benchmark("attention_ops", rows, machine={"cpu": "Another CPU", "cores": 4})
    (folder / "attention_backward.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="ran on another machine"):
        readme.main(options)


def test_short_tables(load):
    """Those of several records name each machine once; README's are short."""
    readme, folder = load("readme"), FOLDER / "results"
    body, results = readme.SECTIONS["speed summary"](folder)
    assert body.count("\n") == 8 and "| aliked-sparse | " in body and "| aliked-sparse, early exit | " in body
    text = "<!-- begin: speed summary -->\n<!-- end: speed summary -->\n"
    short = readme.rewritten(text, folder, folder, short=True)
    assert "pyg-match" in short and "Made by" not in short and body in short
    assert readme.rewritten(text, folder, folder).count("Made by") == len(
        {json.dumps([result["machine"], result["versions"]]) for result in results}
    )
    detectors, _ = readme.SECTIONS["detectors"](folder)
    assert [line.split(" | ")[0] for line in detectors.splitlines()[2:]] == [
        "| ALIKED", "| DISK", "| XFeat", "| RootSIFT"
    ]  # fmt: skip
    assert "`aliked-sparse`: self 24" in readme.SECTIONS["graph choices"](folder)[0]
    trained = readme.SECTIONS["trained graphs"](folder)[0].splitlines()[2:]
    assert trained[0].startswith("| 24 neighbours, 288 anchors | 59.9 → ") and len(trained) > 2
    assert all(line.count(" → ") == 4 for line in trained)


def test_readme_takes_what_the_benchmarks_write(load, tmp_path):
    out = tmp_path / "results"
    load("layers").main(
        [
            "--sizes",
            "16",
            "--k",
            "4",
            "--heads",
            "1",
            "--channels",
            "8",
            *FAST,
            "--out",
            str(out / "layers.json"),
        ]
    )
    text = tmp_path / "README.md"
    text.write_text("<!-- begin: layers -->\n<!-- end: layers -->\n")
    assert load("readme").main(["--results", str(out), "--readme", str(text)]) == 0
    line = next(line for line in text.read_text().splitlines() if line.startswith("| 16 |"))
    assert (
        not math.isnan(float(line.split("|")[2]))
        and "python benchmarks/layers.py --sizes 16" in text.read_text()
    )


def test_explorer(load, tmp_path):
    pytest.importorskip("bokeh")
    pytest.importorskip("playwright")
    bench = load("explorer")
    if not bench.CHROMIUM.exists():
        pytest.skip(f"no browser at {bench.CHROMIUM}")
    out, text = tmp_path / "explorer.json", tmp_path / "page.md"
    # In a process of its own: the tests of the page may drive a browser in this one.
    words = ["--sizes", "48", "--hovers", "4", "--out", str(out)]
    subprocess.run([sys.executable, bench.__file__, *words], check=True, stdout=subprocess.DEVNULL)
    rows = read(out)["rows"]
    assert [(row["peer"], row["samples"]) for row in rows] == [("one setting", 4), ("two settings", 4)]
    assert all(0 < row["low"] <= row["seconds"] <= row["most"] and row["megabytes"] > 1 for row in rows)
    text.write_text("<!-- begin: explorer -->\n<!-- end: explorer -->\n")
    assert load("readme").main(["--results", str(tmp_path), "--readme", str(text)]) == 0
    assert "| 48, two settings | " in text.read_text()


def test_many_pairs(load, tmp_path):
    out = tmp_path / "pairs.json"
    words = ("--sizes", "32", "--pairs", "8", "--written", "20", "--out", str(out))
    load("many_pairs").main([*FAST, *words])
    results = read(out)
    assert [(row["what"], row["peer"]) for row in results["rows"]] == [
        ("match", "packed"),
        ("match", "one by one"),
        ("write", "ours"),
        ("write", "h5py, one file"),
        ("write", "h5py, opened for each pair"),
    ]
    assert all(row["pairs_per_second"] > 0 for row in results["rates"]) and len(results["rates"]) == 5


def test_interrupted(load, tmp_path):
    from PIL import Image
    from skimage import data

    for i in range(6):
        Image.fromarray(data.astronaut()[10 * i :, 5 * i :]).save(tmp_path / f"{i}.png")
    out = tmp_path / "out.json"
    words = ("--images", str(tmp_path), "--sizes", "6", "--kills", "1", "--resize", "160", "--out", str(out))
    load("interrupted").main([*FAST, *words])
    (row,) = json.loads(out.read_text())["rows"]
    assert row["same_file"] and row["pairs"] == 15 and 0 < row["gib_of_one_pair"] < row["gib"] + 0.1


def test_tables_of_many_images(load, tmp_path):
    readme, folder = load("readme"), FOLDER / "results"
    records = {
        name: json.loads((folder / f"{name}.json").read_text()) for name in ("many_pairs", "reconstruction")
    }
    rates = {(row["n"], row["peer"]): row["pairs_per_second"] for row in records["many_pairs"]["rates"]}
    packed, one = rates[256, "packed"], rates[256, "one by one"]
    assert (
        f"| 256 | {packed:.1f} | {one:.1f} | {packed / one:.1f}× |"
        in readme.many_images.many_pairs(folder)[0]
    )
    # A core costs 4 cents an hour; 2 cores match so many pairs in a second.
    assert f"| {1e6 / packed * 2 / 3600 * 0.04:.2f} |" in readme.many_images.costs(folder)[0]
    assert "101,025 pairs" in readme.many_images.interrupted(folder)[0]
    lines = readme.many_images.scenes(folder)[0].splitlines()
    assert len(lines) == 2 + len(records["reconstruction"]["rows"])
    for row, line in zip(records["reconstruction"]["rows"], lines[2:], strict=True):
        assert f"| {row['pose_error']:.3f} |" in line and line.startswith(
            f"| {row['scene']}, {row['peer']} |"
        )
    repeated = copy.deepcopy(records["reconstruction"])
    repeated["settings"]["repeats"] = 3
    repeated["rows"][0] |= {"pose_errors": [0.25, 0.5, 0.3], "pose_error": 0.3}
    (tmp_path / "reconstruction.json").write_text(json.dumps(repeated))
    header, _, line, *_ = readme.many_images.scenes(tmp_path)[0].splitlines()
    assert "| of 3 models |" in header and "| 0.300 | 0.250 to 0.500 |" in line


def stand_in(load, monkeypatch):
    """The benchmark of a GPU on the CPU, without what takes minutes to compile."""
    gpu = load("gpu")

    def no_flex(edges):
        raise NotImplementedError("its compilation takes a minute")

    monkeypatch.setattr("gpu_operators.flex", no_flex)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # it takes minutes here
    monkeypatch.setattr("lightglue_peers._COMPILED", 24)
    monkeypatch.setattr("gpu_operators.PART", 16)
    monkeypatch.setattr("gpu_operators.GROUP", 64)
    for name, few in (("FIRST", 1), ("LEAST", 2), ("SAMPLE_SECONDS", 0.0)):
        monkeypatch.setattr(f"gpu_clock.{name}", few)
    return gpu


SMALL = [
    "--device",
    "cpu",
    "--sizes",
    "64",
    "--keypoints",
    "24",
    "--windows",
    "128",
    "--pairs",
    "2",
    "--photos",
    "1",
]


def test_gpu(load, tmp_path, monkeypatch, capsys):
    """On the CPU, which stands in for the device."""
    gpu = stand_in(load, monkeypatch)
    out = tmp_path / "gpu.json"
    gpu.main([*SMALL, *FAST, "--out", str(out)])
    results = json.loads(out.read_text())
    rows = {(row["section"], row["peer"]): row for row in results["rows"]}
    assert {section for section, _ in rows} == {
        "operator",
        "windows",
        "matcher",
        "batches",
        "training",
        "live",
    }
    assert results["failed"] == {}
    assert rows["live", "all of it"]["seconds"] > rows["live", "views, keypoints and edges"]["seconds"] > 0
    failed = {peer for (_, peer), row in rows.items() if row["seconds"] is None}
    assert failed == {"flex bf16"} and "takes a minute" in rows["operator", "flex bf16"]["note"]
    errors = {row["what"]: row for row in results["errors"]}
    for kind in ("as on the CPU", "in a batch as alone"):
        assert errors[f"matches {kind}"]["share"] > 0.99
    assert all(
        row["forward"] < 1e-2 and row["gradients"] < 2e-2 for row in errors.values() if "forward" in row
    )
    met = {target["name"]: target["met"] for target in results["targets"]}
    assert met["error of windows fp32"] and met["one pair of 2048"] is None
    for name in ("kornia", "official"):
        assert {f"{name} fp16", f"{name} fp16, compiled", f"{name} fp16, padded"} <= {
            peer for _, peer in rows
        }
    assert "sdpa bf16, parts and anchors" in {peer for _, peer in rows}
    assert "written" in capsys.readouterr().out
    page = "<!-- begin: gpu -->\nnot yet\n<!-- end: gpu -->\n"
    shown = load("readme").rewritten(page, tmp_path, tmp_path)
    (one,) = (row for row in results["rows"] if row["peer"] == "complete fp32" and row["pairs"] == 1)
    seconds = f"{1e3 * one['seconds']:.3g}"
    assert seconds in shown and "| 2 × 24 to 24 |" in shown
    verdicts = [verdict for verdict in met.values() if verdict is not None]
    assert len(verdicts) == 9 and f"{sum(verdicts)} of 9 targets are met" in shown
    assert "Made by `python benchmarks/gpu.py" in shown
    assert "FlexAttention" not in shown and "kornia's, compiled" in shown


def test_gpu_records_are_there_when_a_section_fails_and_can_be_joined(load, tmp_path, monkeypatch):
    gpu = stand_in(load, monkeypatch)
    first, second, joined = (tmp_path / name for name in ("a.json", "b.json", "gpu.json"))

    def lost(bench):
        assert json.loads(first.read_text())["rows"]  # of the section before
        raise RuntimeError("the device is lost\nand more")

    monkeypatch.setitem(gpu.SECTIONS, "windows", lost)
    gpu.main([*SMALL, *FAST, "--sections", "operator", "windows", "--out", str(first)])
    assert json.loads(first.read_text())["failed"] == {"windows": "RuntimeError: the device is lost"}
    gpu.main([*SMALL, *FAST, "--sections", "training", "--minutes", "0", "--out", str(second)])
    late = json.loads(second.read_text())["rows"]
    assert late and all(row["seconds"] is None and "minutes are over" in row["note"] for row in late)
    gpu.main(["--merge", str(first), str(second), "--out", str(joined)])
    result = read(joined)
    assert {row["section"] for row in result["rows"]} == {"operator", "training"}
    assert result["command"].count("--sections") == 2 and result["failed"] and len(result["targets"]) == 20
    second.write_text(json.dumps({**json.loads(second.read_text()), "machine": {"cpu": "another"}}))
    with pytest.raises(SystemExit, match=r"b.json was made on another machine"):
        gpu.main(["--merge", str(first), str(second), "--out", str(joined)])


def test_graph_choice(load, tmp_path, capsys):
    choice = load("graph_choice")
    photos = {name: getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    write_images(tmp_path / "photos", photos, (200, 150))
    small = (
        "weights=null", "teacher=null", "loss.distill_assignment=0", "loss.distill_descriptors=0", "data.related=0",
        "matcher={hidden_channels: 32, num_layers: 2, redraw_after: 1, redraw_k: 8}", "data.size=[160, 120]",
        "data.num_pairs=2", "data.validation_pairs=1", "data.max_num_keypoints=48", "data.min_num_keypoints=32",
    )  # fmt: skip
    out = tmp_path / "choice.json"
    names = ("24 neighbours, 288 anchors", "shifted parts of 64, 256 anchors")
    options = ["--runs", str(tmp_path / "runs"), "--steps", "1", "--sizes", "100", "--graphs", *names]
    choice.main([*FAST, "--images", str(tmp_path / "photos"), *options, "--out", str(out), "--set", *small])
    rows = json.loads(out.read_text())["rows"]
    accuracy = [(row["peer"], row["steps"]) for row in rows if row["section"] == "accuracy"]
    assert accuracy == [(name, step) for name in names for step in (0, 1)]
    assert all(0 <= row["recall"] <= 1 for row in rows if "recall" in row)
    times = {(row["peer"], row["part"]): row["seconds"] for row in rows if row["section"] == "times"}
    assert len(times) == 4 and all(times[name, "graph"] > 0 for name in names)
    assert "shifted parts of 64" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        choice.main(["--images", str(tmp_path / "nowhere")])
    assert "must be a folder of photos" in capsys.readouterr().err


def test_training_memory(load, tmp_path):
    out = tmp_path / "memory.json"
    load("training_memory").main([*FAST, "--sizes", "300", "--pairs", "1", "--out", str(out)])
    rows = {row["peer"]: row for row in read(out)["rows"]}
    assert set(rows) == {"plain", "checkpointed", "checkpointed, huge pages"}
    # Of 300 keypoints, layers keep several times as much as the gradients of the weights need.
    assert 0 < rows["checkpointed"]["memory"] < 0.9 * rows["plain"]["memory"]
    assert "THP_MEM_ALLOC_ENABLE" not in os.environ
