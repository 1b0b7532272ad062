"""The command line: parse, call, print."""

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

app = typer.Typer(
    help="Match local image features with graph networks.", add_completion=False, no_args_is_help=True
)


@app.callback()
def _commands() -> None:
    """Match local image features with graph networks."""


@app.command()
def match(
    image0: Annotated[Path, typer.Argument(help="First image.", metavar="A")],
    image1: Annotated[Path, typer.Argument(help="Second image.", metavar="B")],
    out: Annotated[
        Optional[Path], typer.Option(help="Picture of the matches to write (.png, .pdf, .svg).")
    ] = None,
    save: Annotated[Optional[Path], typer.Option(help="File of the matches to write (.npz, .json).")] = None,
    weights: Annotated[str, typer.Option(help="Pretrained matcher and its detector.")] = "aliked-lightglue",
    max_keypoints: Annotated[
        int, typer.Option(min=1, help="Largest number of keypoints in an image.")
    ] = 2048,
    resize: Annotated[
        int, typer.Option(min=0, help="Longer side for detection in pixels; 0 keeps the size.")
    ] = 1024,
    candidates: Annotated[int, typer.Option(min=0, help="Cross edges for each keypoint; 0 draws all.")] = 0,
    neighbors: Annotated[int, typer.Option(min=0, help="Self edges for each keypoint; 0 draws all.")] = 0,
    geometry: Annotated[
        str, typer.Option(help="Model to fit: homography, fundamental or none.")
    ] = "homography",
    estimator: Annotated[str, typer.Option(help="Who fits it: poselib or opencv.")] = "poselib",
    threshold: Annotated[float, typer.Option(min=0, help="Largest error of an inlier in pixels.")] = 3.0,
) -> None:
    """Match two images."""
    try:
        _match(
            (image0, image1), out, save, weights, max_keypoints, resize, candidates, neighbors,
            geometry, estimator, threshold,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _match(
    images: tuple[Path, Path],
    out: Optional[Path],
    save: Optional[Path],
    weights: str,
    max_keypoints: int,
    resize: int,
    candidates: int,
    neighbors: int,
    geometry: str,
    estimator: str,
    threshold: float,
) -> None:
    import time

    from torch_geometric.transforms import Compose

    from pyg_match.matcher import Matcher
    from pyg_match.transforms import CandidateEdges, KNNGraph

    for name, value, known in (
        ("--geometry", geometry, ("homography", "fundamental", "none")),
        ("--estimator", estimator, ("poselib", "opencv")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if save is not None and save.suffix not in (".npz", ".json"):
        raise ValueError(f"--save must end in .npz or .json, got {save.name!r}")
    steps: list[Any] = [KNNGraph(neighbors, loop=True)] if neighbors else []
    steps += [CandidateEdges(candidates)] if candidates else []
    matcher = Matcher.from_pretrained(
        weights,
        max_num_keypoints=max_keypoints,
        resize=resize or None,
        transform=Compose(steps) if steps else None,
    )
    result = matcher(*images)
    typer.echo(f"keypoints  {len(result.keypoints0)} {len(result.keypoints1)}")
    typer.echo(f"matches    {len(result.matches)}")
    model, inliers = None, None
    start = time.perf_counter()
    if geometry != "none":
        fit: Any = result.homography if geometry == "homography" else result.fundamental
        model, inliers = fit(method=estimator, threshold=threshold)
        typer.echo(f"inliers    {int(inliers.sum())} ({geometry}, {estimator}, {threshold:g} px)")
        result.seconds["geometry"] = time.perf_counter() - start
    if save is not None:
        result.save(save, inliers=inliers, **{geometry: model})
        typer.echo(f"saved      {save}")
    if out is not None:
        from pyg_match.visualization import plot_matches

        plot_matches(*images, result, correct=inliers, path=out)
        typer.echo(f"picture    {out}")
    typer.echo("seconds    " + " ".join(f"{stage}={value:.3f}" for stage, value in result.seconds.items()))


def main() -> None:
    """Entry point of the console script."""
    app()
