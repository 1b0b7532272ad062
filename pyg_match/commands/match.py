"""The command for two images: parse, call, print."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeAlias

import typer

from pyg_match.commands.errors import check_ending, check_files, check_outputs, error_line
from pyg_match.commands.options import (
    DeviceOption,
    FilterThreshold,
    MaxKeypoints,
    Resize,
    Weights,
    chosen_device,
)
from pyg_match.files import check_format, shown_path
from pyg_match.spinner import spinner
from pyg_match.weight_registry import check_matcher

if TYPE_CHECKING:
    from pyg_match.match_result import MatchResult
    from pyg_match.model_selection import Geometry

Estimator: TypeAlias = Literal["poselib", "opencv"]

_EDGES_DEFAULT = "as trained, all if only the other kind is given"


def match(
    image0: Annotated[Path, typer.Argument(help="First image.", metavar="A")],
    image1: Annotated[Path, typer.Argument(help="Second image.", metavar="B")],
    out: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="Picture of the matches to write (.png, .jpg, .pdf, .svg)."),
    ] = None,
    save: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="File of the matches to write (.npz, .json).")
    ] = None,
    weights: Weights = "aliked-sparse",
    max_keypoints: MaxKeypoints = 2048,
    resize: Resize = 1024,
    candidates: Annotated[
        Optional[int],
        typer.Option(
            min=0,
            metavar="N",
            help="Cross edges for each keypoint; 0 draws all.",
            show_default=_EDGES_DEFAULT,
        ),
    ] = None,
    neighbors: Annotated[
        Optional[int],
        typer.Option(
            min=0,
            metavar="N",
            help="Self edges for each keypoint; 0 draws all.",
            show_default=_EDGES_DEFAULT,
        ),
    ] = None,
    geometry: Annotated[
        Literal["auto", "homography", "fundamental", "none"],
        typer.Option(
            metavar="MODEL",
            help="Model to fit: homography, fundamental, auto for the one that explains the matches, or none.",
        ),
    ] = "auto",
    estimator: Annotated[
        Estimator, typer.Option(metavar="NAME", help="Library that fits it: poselib or opencv.")
    ] = "poselib",
    threshold: Annotated[
        Optional[float],
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Largest error of an inlier. By default 3 for a homography and 1 for a fundamental matrix; with "
            "auto 3 and 2, scaled up for images above 1,024 pixels.",
            show_default=False,
        ),
    ] = None,
    filter_threshold: FilterThreshold = None,
    device: DeviceOption = "auto",
) -> None:
    """Match two images."""
    images = (image0, image1)
    with error_line():
        _check(images, out, save, weights, geometry, threshold)
        with spinner("loading weights") as say:
            from pyg_match.matcher import Matcher

            changes: dict[str, Any] = (
                {} if filter_threshold is None else {"filter_threshold": filter_threshold}
            )
            changes |= _edges(neighbors, candidates)
            matcher = Matcher.from_pretrained(
                weights, max_keypoints, resize=resize or None, device=chosen_device(device), **changes
            )
            say("finding keypoints")
            start = time.perf_counter()
            keypoints = matcher.extractor.extract_batch(images, resize=matcher.resize)
            found = time.perf_counter() - start
            say("matching")
            result = matcher(*keypoints)
            result.seconds["extract"] += found
            if geometry != "none":
                say("fitting a model")
            model = _fit(result, geometry, estimator, threshold)
            if save is not None:
                fitted = {} if model is None else {"inliers": model.inliers, model.kind: model.model}
                result.save(save, **fitted)
            if out is not None:
                say("drawing")
                names = " and ".join(shown_path(path.name) for path in images)
                title = f"{names}, {Path(weights).name}"
                color_by = "score" if model is None else "inlier"
                result.plot(*images, path=out, geometry=model, color_by=color_by, title=title)
    _report(result, model, estimator, save, out)


def _check(
    images: tuple[Path, Path],
    out: Optional[Path],
    save: Optional[Path],
    weights: str,
    geometry: str,
    threshold: Optional[float],
) -> None:
    """Refuse what can be refused before anything is loaded.

    Raises:
        FileNotFoundError: If an image, or a folder to write to, is missing.
        ValueError: If an option is not as expected, or a file to write is one to read.
    """
    check_matcher(weights)
    if threshold is not None and not 0 < threshold < math.inf:
        raise ValueError(f"'--threshold' must be a positive number, got {threshold:g}")
    if threshold is not None and geometry == "none":
        raise ValueError("'--threshold' is that of a model, but '--geometry none' fits none")
    check_files("image", *images)
    if save is not None:
        check_ending("--save must end in", save, ".npz", ".json")
    if out is not None:
        check_format(out)
    check_outputs({"--save": save, "--out": out}, [*images, weights])


def _edges(neighbors: Optional[int], candidates: Optional[int]) -> dict[str, Any]:
    """What to load a matcher with to match on the edges asked for, and on no others after some layers."""
    if neighbors is None and candidates is None:
        return {}
    from torch_geometric.transforms import Compose

    from pyg_match.transforms import CandidateEdges, KNNGraph

    steps: list[Any] = [KNNGraph(neighbors, loop=True)] if neighbors else []
    steps += [CandidateEdges(candidates)] if candidates else []
    return {"transform": Compose(steps), "redraw_after": None}


def _fit(
    result: "MatchResult", choice: str, estimator: Estimator, threshold: Optional[float]
) -> Optional["Geometry"]:
    """The model of the matches; ``None`` if none was asked for."""
    from pyg_match.model_selection import Geometry

    if choice == "none":
        return None
    start = time.perf_counter()
    if choice == "auto":
        model = result.geometry(estimator, threshold)
    elif choice == "homography":
        threshold = 3.0 if threshold is None else threshold
        model = Geometry("homography", *result.homography(estimator, threshold), threshold)
    else:
        threshold = 1.0 if threshold is None else threshold
        model = Geometry("fundamental", *result.fundamental(estimator, threshold), threshold)
    result.seconds["geometry"] = time.perf_counter() - start
    return model


def _report(
    result: "MatchResult",
    model: Optional["Geometry"],
    estimator: Estimator,
    save: Optional[Path],
    out: Optional[Path],
) -> None:
    typer.echo(f"keypoints  {len(result.keypoints0)} {len(result.keypoints1)}")
    typer.echo(f"matches    {len(result.matches)}")
    if model is not None and model.model is None:
        sought = "homography or fundamental matrix" if model.kind == "none" else f"{model.kind} found"
        typer.echo(f"inliers    0 (no {sought}, {estimator})")
    elif model is not None:
        told = f"{model.kind}, {estimator}, {model.threshold:.3g} px"
        typer.echo(f"inliers    {int(model.inliers.sum())} ({told})")
    if save is not None:
        typer.echo(f"saved      {shown_path(save)}")
    if out is not None:
        typer.echo(f"picture    {shown_path(out)}")
    typer.echo("seconds    " + " ".join(f"{stage}={value:.3f}" for stage, value in result.seconds.items()))
