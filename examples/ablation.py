"""Which graph, which scales, which values, which masks? Small experiments that answer one question each.

    python examples/ablation.py --images PHOTOS --sequences HPATCHES --cache FOLDER --workers 2
    python examples/ablation.py --images PHOTOS --device cuda --steps 300 --batch-size 16 --keypoints 512 --budget 8
    python examples/ablation.py --table     # only the tables and plots, from the records that are there
    python examples/ablation.py --smoke     # a tiny version of everything, to see whether it works

Every option of every question starts from the official ALIKED+LightGlue weights and is fine-tuned for the same few
steps on the same pairs, once for each seed. A run leaves one JSON file, named by a hash of all its settings, when it is
finished; options that are the same in several questions are run once. Killed or out of budget, the same command
goes on with the runs that are missing.

Features of the photos are found once and kept in --cache: as those of training with the same data settings, whose cache
may be given. The sequences have the layout of HPatches.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from ablation_laboratory import Laboratory, do_runs
from ablation_options import (
    BASE,
    QUESTIONS,
    SMOKE,
    SMOKE_QUESTIONS,
    TITLES,
    Settings,
    completed,
    merged,
    plain,
)
from ablation_tables import Record, filled, report

from pyg_match.files import write_whole
from pyg_match.training import TrainingConfig, config_from_dict

ROOT = Path(__file__).resolve().parents[1]


def record_file(folder: Path, settings: Settings) -> Path:
    """The file of a run, named by all its settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:16]}.json"


def plan(
    questions: Mapping[str, Mapping[str, Settings]], base: Settings, seeds: int
) -> dict[str, TrainingConfig]:
    """All different runs, by a name for each: all options with the first seed, then with the next one."""
    runs: dict[str, TrainingConfig] = {}
    for seed in range(seeds):
        for question, options in questions.items():
            for option, changes in options.items():
                config = config_from_dict(merged(merged(base, changes), {"seed": seed}))
                if config not in runs.values():
                    runs[f"{question}: {option}, seed {seed}"] = config
    return runs


def read_records(folder: Path) -> list[Record]:
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    if len({json.dumps(record["settings"]["data"], sort_keys=True) for record in records}) > 1:
        raise SystemExit(f"error: {folder} holds records of different data; give another --records")
    return records


def by_seed(records: Sequence[Record], base: Settings, changes: Settings) -> dict[int, Record]:
    """The records of an option."""
    wanted = plain(config_from_dict(merged(base, changes)))
    del wanted["seed"]
    found = {}
    for record in records:
        settings = completed(record["settings"]["training"])
        seed = settings.pop("seed")
        if settings == wanted:
            found[seed] = record
    return dict(sorted(found.items()))


def smoke_data(folder: Path) -> tuple[Path, Path]:
    """Four photos of scikit-image, and a sequence made of one of them."""
    import numpy as np
    from PIL import Image
    from skimage import data

    from pyg_match.datasets import warped_pair
    from pyg_match.features import load_image

    photos, sequence = folder / "photos", folder / "sequences" / "v_cat"
    for place in (photos, sequence):
        place.mkdir(parents=True)
    for name in ("astronaut", "brick", "chelsea", "coffee"):
        Image.fromarray(getattr(data, name)()).resize((320, 240)).save(photos / f"{name}.png")
    pair = warped_pair(load_image(photos / "chelsea.png"), seed=0)
    for number, image in ((1, pair.image0), (2, pair.image1)):
        pixels = (255 * image.permute(1, 2, 0)).round().byte().numpy()
        Image.fromarray(pixels).save(sequence / f"{number}.png")
    np.savetxt(sequence / "H_1_2", pair.homography.numpy())
    return photos, sequence.parent


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of photos to make training and held-out pairs of")
    parser.add_argument("--sequences", type=Path, help="folder of real sequences in HPatches layout")
    parser.add_argument(
        "--cache", type=Path, default=Path("ablation-features"), help="of features (%(default)s)"
    )
    parser.add_argument("--records", type=Path, help="folder of the records (docs/ablation)")
    parser.add_argument("--page", type=Path, help="page that gets the tables (docs/ablation.md)")
    parser.add_argument("--plots", type=Path, help="folder of the plots (docs/images)")
    parser.add_argument(
        "--questions", nargs="+", choices=list(QUESTIONS), metavar="QUESTION", help="only these runs"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each option (%(default)s)")
    parser.add_argument("--steps", type=int, help=f"of training ({BASE['steps']})")
    parser.add_argument("--batch-size", type=int, help=f"pairs of a step ({BASE['batch_size']})")
    parser.add_argument("--device", default="cpu", help="to train on, such as cuda (%(default)s)")
    parser.add_argument("--keypoints", type=int, default=256, help="of an image (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each (%(default)s)")
    parser.add_argument(
        "--budget", type=float, default=float("inf"), help="minutes after which no run is started"
    )
    parser.add_argument("--table", action="store_true", help="only tables and plots")
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny version, in a folder that is deleted again"
    )
    return parser


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = options()
    args = parser.parse_args(arguments)
    for name in ("seeds", "keypoints", "workers"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be positive, got {getattr(args, name)}")
    base, questions = (merged(BASE, SMOKE), SMOKE_QUESTIONS) if args.smoke else (BASE, QUESTIONS)
    for name in ("steps", "batch_size"):
        if getattr(args, name) is not None:
            base = merged(base, {name: getattr(args, name)})
    with tempfile.TemporaryDirectory() as folder:
        docs = ROOT / "docs"
        if args.smoke:
            docs, args.cache, args.seeds = Path(folder) / "docs", Path(folder) / "features", 1
            args.images, args.sequences = smoke_data(Path(folder))
        args.records = args.records or docs / "ablation"
        args.page = args.page or docs / "ablation.md"
        args.plots = args.plots or docs / "images"
        if not args.table:
            if args.images is None:
                parser.error("give a folder of photos as --images, or --table, or --smoke")
            chosen = {name: it for name, it in questions.items() if name in (args.questions or questions)}
            experiment(args, base, chosen)
        records = read_records(args.records)
        found = {
            question: {option: by_seed(records, base, changes) for option, changes in options.items()}
            for question, options in questions.items()
        }
        text = report(found, TITLES, args.plots, args.page)
        write_whole(args.page, filled(args.page, text).encode())
        print(text)


def experiment(
    args: argparse.Namespace, base: Settings, questions: Mapping[str, Mapping[str, Settings]]
) -> None:
    """Do the runs that have no record."""
    began = time.time()
    given = (base, args.images, args.sequences, args.cache, args.keypoints, args.device)
    laboratory = Laboratory(*given)
    runs = plan(questions, base, args.seeds)
    files = {
        name: record_file(args.records, {"training": plain(config), "data": laboratory.data})
        for name, config in runs.items()
    }
    records = read_records(args.records)
    if records and records[0]["settings"]["data"] != laboratory.data:
        raise SystemExit(f"error: {args.records} holds records of different data; give another --records")
    done = [completed(record["settings"]["training"]) for record in records]
    missing = {name: config for name, config in runs.items() if plain(config) not in done}
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done", flush=True)
    if not missing:
        return
    laboratory.prepare(args.workers)
    left = len(missing)
    for name, record in do_runs(given, missing, args.workers, began + 60 * args.budget):
        if record is None:
            continue
        args.records.mkdir(parents=True, exist_ok=True)
        write_whole(files[name], (json.dumps(record, indent=1) + "\n").encode())
        left -= 1
        pace = (time.time() - began) / (len(missing) - left)
        shown = "  ".join(f"{place} R {found['recall']:.3f}" for place, found in record["metrics"].items())
        print(
            f"{name}: {shown}  {record['seconds']['all']:.0f} s; {left} left, {left * pace / 60:.0f} min",
            flush=True,
        )
    if left:
        print(f"the budget of {args.budget:g} minutes is used up; {left} runs are missing")


if __name__ == "__main__":
    main()
