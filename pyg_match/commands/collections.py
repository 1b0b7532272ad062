"""Commands for many images: parse, call, print."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, get_args

import typer
from typer.core import TyperCommand

from pyg_match.commands.errors import check_files, check_folder, check_outputs, error_line, printable
from pyg_match.commands.options import (
    Detector,
    DeviceOption,
    FilterThreshold,
    MaxKeypoints,
    Resize,
    Weights,
    chosen_device,
)
from pyg_match.files import shown_path, user_path
from pyg_match.spinner import spinner

_NEEDS = "this command"
_ADDRESS = re.compile(r"auto|local|ray://.+|[^/\\]+:\d+")  # of a Ray cluster
_SHOWN = 20  # names in a report


FeaturesArgument = Annotated[
    Path,
    typer.Argument(
        help="HDF5 file of hloc's layout, COLMAP database or folder of .npz files.", metavar="FEATURES"
    ),
]


class OptionalAddress(TyperCommand):
    """A command whose option ``--ray`` may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        for i, word in enumerate(args):
            if word == "--ray" and not (i + 1 < len(args) and _ADDRESS.fullmatch(args[i + 1])):
                given[i] = "--ray=local"
        return super().parse_args(ctx, given)


def extract(
    images: Annotated[Path, typer.Argument(help="Folder of images, with its subfolders.", metavar="IMAGES")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="File of features to write, in hloc's layout.")
    ],
    detector: Annotated[
        Detector, typer.Option(metavar="NAME", help=f"One of {', '.join(get_args(Detector))}.")
    ] = "aliked",
    max_keypoints: MaxKeypoints = 2048,
    resize: Resize = 1024,
    half: Annotated[
        bool,
        typer.Option(
            "--half", metavar="", help="Write keypoints in half precision, as hloc does by default."
        ),
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Find the keypoints of all images of a folder."""
    with error_line(_NEEDS, "collections"):
        check_folder("IMAGES", images)
        check_outputs({"--out": out})
        _warn_of_spaces(images)
        with spinner("loading weights"):
            from pyg_match.collections import extract_features
            from pyg_match.features import extractor

            found = extractor(detector, max_num_keypoints=max_keypoints).to(chosen_device(device))
        summary = extract_features(images, out, found, resize or None, half, progress=True)
    typer.echo(f"images     {summary.num_images} ({summary.extracted} new, {summary.seconds:.1f} s)")
    typer.echo(f"saved      {shown_path(summary.output)}")
    _report("images could not be used", (f"{name}: {reason}" for name, reason in summary.failed.items()))


def pairs(
    features: FeaturesArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="List of pairs to write.")],
    method: Annotated[
        Literal["exhaustive", "sequential", "retrieval", "list"],
        typer.Option(metavar="NAME", help="exhaustive, sequential, retrieval or list."),
    ] = "exhaustive",
    window: Annotated[
        int, typer.Option(min=1, metavar="N", help="sequential: next images that each is paired with.")
    ] = 10,
    loop_step: Annotated[
        Optional[int],
        typer.Option(
            min=1, metavar="N", help="sequential: pair every so many-th image with all other such images."
        ),
    ] = None,
    top_k: Annotated[
        int, typer.Option(min=1, metavar="N", help="retrieval: images that each is paired with.")
    ] = 20,
    source: Annotated[
        Optional[Path],
        typer.Option(
            "--list", metavar="FILE", help="list: file of pairs, each taken once if both have features."
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """List the pairs of images to match."""
    with error_line(_NEEDS, "collections"):
        _check_there("features", features)
        if source is not None:
            check_files("list of pairs", source)
        check_outputs({"--out": out}, [features, source])
        if (source is None) == (method == "list"):
            raise ValueError(
                f"--method list and --list FILE go together, got --method {method} and --list {source}"
            )
        with spinner("listing pairs"):
            from pyg_match.collections import (
                exhaustive_pairs,
                listed_pairs,
                open_features,
                sequential_pairs,
                write_pairs,
            )
            from pyg_match.collections.pair_lists import check_listable

            with open_features(features) as opened:
                if method != "list":
                    check_listable(opened.names())
                if source is not None:
                    chosen: Any = listed_pairs(source, opened)
                elif method == "retrieval":
                    from pyg_match.collections.retrieval import retrieval_pairs

                    chosen = retrieval_pairs(opened, top_k, device=chosen_device(device))
                elif method == "sequential":
                    chosen = sequential_pairs(opened.names(), window, loop_step)
                else:
                    chosen = exhaustive_pairs(opened.names())
                count = write_pairs(out, chosen)
    typer.echo(f"pairs      {count}\nsaved      {shown_path(out)}")


def match_pairs(
    features: FeaturesArgument,
    pairs: Annotated[
        Path, typer.Argument(help="List of pairs, a line 'name0 name1' for each.", metavar="PAIRS")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="File of matches to write, in hloc's layout.")
    ],
    weights: Weights = "aliked-sparse",
    filter_threshold: FilterThreshold = None,
    bfloat16: Annotated[
        bool, typer.Option("--bf16", metavar="", help="Compute linear layers in bfloat16.")
    ] = False,
    device: DeviceOption = "auto",
    batch_keypoints: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            metavar="N",
            help="Keypoints of a batch.",
            show_default="4,096 on a CPU, 131,072 elsewhere",
        ),
    ] = None,
    block: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Images of a block; a shard has at most its square of pairs."),
    ] = 32,
    shard: Annotated[
        str, typer.Option(help="Do the i-th of n equal parts, as in an array of jobs.", metavar="I/N")
    ] = "1/1",
    shards: Annotated[
        bool, typer.Option("--shards", metavar="", help="Keep shards instead of one file.")
    ] = False,
    ray: Annotated[
        Optional[str],
        typer.Option(
            help="Match on a Ray cluster: local, the default if no address is given, auto or HOST:PORT.",
            metavar="[ADDRESS]",
        ),
    ] = None,
) -> None:
    """Match the pairs of a list; goes on where it was interrupted."""
    with error_line(_NEEDS, "ray" if ray else "collections"):
        _check_there("features", features)
        check_files("list of pairs", pairs)
        check_outputs({"--out": out}, [features, pairs, weights])
        part = _part(shard)
        from pyg_match import collections

        options = {} if filter_threshold is None else {"filter_threshold": filter_threshold}
        options |= {"bfloat16": True} if bfloat16 else {}
        summary = collections.match_pairs(
            features,
            pairs,
            out,
            weights,
            device if ray and device != "auto" else str(chosen_device(device)),  # of the cluster's machines
            batch_keypoints,
            block,
            part,
            shards,
            ray,
            progress=True,
            **options,
        )
    seconds = " ".join(f"{stage}={value:.1f}" for stage, value in summary.seconds.items())
    typer.echo(
        f"pairs      {summary.num_pairs} ({summary.matched} new), {summary.repeated} listed again left out"
    )
    typer.echo(f"seconds    {seconds}" if seconds else "seconds    0 (was there already)")
    typer.echo(f"saved      {shown_path(summary.output)}")
    if shard != "1/1":
        typer.echo(
            "next       the same command without --shard puts all parts together once they are finished"
        )
    lines = (f"{name} (line {line})" for name, line in summary.missing.items())
    _report(f"pairs were left out; images without features: {len(summary.missing)}", lines, summary.left_out)


def to_colmap(
    features: FeaturesArgument,
    matches: Annotated[Path, typer.Argument(help="File or shards of matches.", metavar="MATCHES")],
    images: Annotated[Path, typer.Argument(help="Folder of the images.", metavar="IMAGES")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="COLMAP database to write or go on with.")
    ],
    pairs: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="List of pairs.", show_default="all that there are matches of"),
    ] = None,
    camera_model: Annotated[
        str, typer.Option(metavar="NAME", help="COLMAP's name of a camera model.")
    ] = "SIMPLE_RADIAL",
    camera_mode: Annotated[
        Literal["auto", "single", "per-folder", "per-image"],
        typer.Option(
            metavar="NAME", help="Images that share a camera: auto, single, per-folder or per-image."
        ),
    ] = "auto",
    camera_params: Annotated[
        str,
        typer.Option(metavar="X,X,...", help="Parameters of the cameras.", show_default="from EXIF"),
    ] = "",
    verify: Annotated[bool, typer.Option(metavar="", help="Estimate the geometry of each pair.")] = True,
    max_error: Annotated[
        float, typer.Option(min=0.1, metavar="PIXELS", help="Largest error of an inlier.")
    ] = 4.0,
) -> None:
    """Write features, matches and verified geometries to a COLMAP database."""
    with error_line(_NEEDS, "collections"):
        _check_there("features", features)
        _check_there("matches", matches)
        check_folder("IMAGES", images)
        if pairs is not None:
            check_files("list of pairs", pairs)
        check_outputs({"--out": out}, [features, matches, pairs])
        from pyg_match.collections.colmap_database import write_colmap

        summary = write_colmap(
            features, matches, out, images, pairs, camera_model, camera_mode, camera_params, verify, max_error,
            progress=True,
        )  # fmt: skip
    typer.echo(f"images     {summary.num_images}")
    typer.echo(
        f"pairs      {summary.num_pairs} new, {summary.verified} of them verified, {summary.present} before"
    )
    typer.echo(f"saved      {shown_path(summary.database)}")
    _report("pairs have no matches or no features", (" ".join(pair) for pair in summary.missing))


def _check_there(what: str, path: Path) -> None:
    """Refuse files and folders that are not there, before anything is loaded.

    Raises:
        FileNotFoundError: If there is neither such a file nor such a folder.
    """
    if not os.path.exists(user_path(path)):
        raise FileNotFoundError(f"there are no {what} at {str(path)!r}")


def _warn_of_spaces(images: Path) -> None:
    """Say before the work which names lists of pairs cannot hold."""
    from pyg_match.datasets.sources import find_images

    spaced = [name for name in find_images(images)[1] if re.search(r"\s", name)]
    if spaced:
        typer.echo(
            f"warning: lists of pairs cannot hold names with spaces, of which there are {len(spaced)}, such as "
            f"{shown_path(spaced[0])!r}",
            err=True,
        )


def _part(text: str) -> tuple[int, int]:
    """Which of how many parts: ``"2/4"``."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard must be I/N with I from 1 to N, such as 1/4, got {text!r}")
    return int(match[1]), int(match[2])


def _report(what: str, lines: Iterable[str], count: Optional[int] = None) -> None:
    """Say what was left out, and end with status 1 if anything was."""
    all_lines = list(lines)
    count = len(all_lines) if count is None else count
    if count == 0:
        return
    typer.echo(f"warning: {count} {what}", err=True)
    for line in all_lines[:_SHOWN]:
        typer.echo(f"  {printable(line)}", err=True)
    if len(all_lines) > _SHOWN:
        typer.echo(f"  and {len(all_lines) - _SHOWN} more", err=True)
    raise typer.Exit(1)
