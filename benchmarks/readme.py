"""Write the tables of README.md, of the documentation and of the model cards from the JSON files of the benchmarks.

    python benchmarks/readme.py                                  # rewrite what stands between the markers
    python benchmarks/readme.py --check                          # only tell whether the pages are up to date
    python benchmarks/readme.py --hpatches outputs/hpatches/results.json outputs/pose/results.json

A section NAME stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`. Sections without results stay as they
are. `--hpatches` takes over results of examples/hpatches_eval.py and examples/pose_eval.py, without the folders of
whoever ran it; those of a folder named "synthetic", of other keypoints than ALIKED's, and of another limit of them get
files of their own.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePath

from common import write_json
from tables import accuracy, gpu, many_images, matchers, speed
from tables.layout import Results, captions, short_caption
from tables.summaries import SUMMARIES

SLOT = "<!-- to be filled -->"  # contents may hold backslashes, which a replacement of re would read
SECTIONS: dict[str, Callable[[Path], tuple[str, list[Results]] | None]] = {
    "end to end": matchers.end_to_end,
    "operator": speed.operator,
    "layers": speed.layers,
    "knn": speed.knn,
    "matcher": matchers.matcher,
    "training memory": matchers.training_memory,
    "hpatches": accuracy.hpatches,
    "trained": accuracy.trained,
    "trained disk": partial(accuracy.trained, features="disk"),
    "seeds": accuracy.seeds,
    "pose": accuracy.pose,
    "graphs": speed.graphs,
    "explorer": speed.explorer,
    "gpu": gpu.gpu,
    "many pairs": many_images.many_pairs,
    "costs": many_images.costs,
    "interrupted": many_images.interrupted,
    "scenes": many_images.scenes,
    **SUMMARIES,
}
CARDS = [Path(f"pyg_match/weights/{name}-sparse.md") for name in ("aliked", "disk")]
DOCS = [
    Path(f"docs/{name}.md")
    for name in ("accuracy", "benchmarks", "choosing", "explorer", "many-images", "training")
]
PAGES = [Path("README.md"), *DOCS, *CARDS]
PLOTS = {"operator": ("attention_forward", "attention_backward"), "matcher": ("matcher",)}


def rewritten(text: str, folder: Path, images: Path, short: bool = False) -> str:
    """A page with all its sections that have results.

    Args:
        text: The page.
        folder: The results.
        images: Where pictures of results lie.
        short: Whether captions leave out what the documentation says.
    """
    for name, make in SECTIONS.items():
        marked = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        made = make(folder) if marked.search(text) else None
        if made is None:
            continue
        body, results = made
        told = short_caption(results) if short else captions(results, name in SUMMARIES)
        content = "\n\n".join([body, *_pictures(name, images), told])
        text = marked.sub(rf"\1{SLOT}\n\2", text).replace(SLOT, content)
    return text


def _pictures(section: str, images: Path) -> list[str]:
    names = [name for name in PLOTS.get(section, ()) if (images / f"{name}.svg").exists()]
    if not names:
        return []
    return [" ".join(f"![{name.replace('_', ' ')}](images/{name}.svg)" for name in names)]


def file_name(results: Results) -> str:
    """Where results of hpatches_eval and pose_eval are kept."""
    settings = results["settings"]
    limit = settings["max_keypoints"]
    if "scenes" in settings:
        return accuracy.accuracy_file("pose" if limit > 1024 else "pose_1024", settings["features"])
    name = "synthetic" if settings["roots"] == ["synthetic"] else "hpatches"
    name = name if limit <= 1024 else f"{name}_{limit}"
    trained = PurePath(settings.get("trained", {}).get("weights", "")).stem
    if f"{trained}_" in accuracy.SEEDS:
        return f"{trained}_{name}"
    return accuracy.accuracy_file(name, settings["features"])


def without_folders(results: Results) -> Results:
    """Results in which folders are only named by their last part."""
    words = [
        PurePath(word).name if PurePath(word).is_absolute() or word.startswith("../") else word
        for word in results["command"].split()
    ]
    words[1:2] = [f"examples/{PurePath(word).name}" for word in words[1:2]]
    settings = dict(results["settings"])
    if "roots" in settings:
        settings["roots"] = [PurePath(root).name for root in settings["roots"]]
    if "trained" in settings:
        settings["trained"] = {
            **settings["trained"],
            "weights": PurePath(settings["trained"]["weights"]).name,
        }
    return {**results, "command": " ".join(words), "settings": settings}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if a page is out of date"
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--readme", type=Path, nargs="+", default=PAGES, help="pages to rewrite")
    parser.add_argument(
        "--hpatches", type=Path, nargs="+", default=[], help="results.json to take over first"
    )
    args = parser.parse_args(arguments)
    for file in args.hpatches:
        results = without_folders(json.loads(file.read_text(encoding="utf-8")))
        write_json(args.results / f"{file_name(results)}.json", results)
    outdated = False
    for page in args.readme:
        old = page.read_text(encoding="utf-8")
        new = rewritten(old, args.results, page.parent / "images", short=page == Path("README.md"))
        if old == new:
            print(f"{page} is up to date")
        elif args.check:
            print(f"{page} is out of date: run python benchmarks/readme.py", file=sys.stderr)
            outdated = True
        else:
            page.write_text(new, encoding="utf-8")
            print(f"written: {page}")
    return int(outdated)


if __name__ == "__main__":
    sys.exit(main())
