"""The command line: parse, call, print."""

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from pyg_match._version import __version__
from pyg_match.commands import collections
from pyg_match.commands.errors import error_line, refuse_inputs
from pyg_match.commands.options import DeviceOption, MaxKeypoints, Resize, Weights, chosen_device
from pyg_match.files import user_path

app = typer.Typer(
    help="Match local image features with graph networks.", add_completion=False, no_args_is_help=True
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pyg-match {__version__}")
        raise typer.Exit()


@app.callback()
def _commands(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Match local image features with graph networks."""


@app.command()
def match(
    image0: Annotated[Path, typer.Argument(help="First image.", metavar="A")],
    image1: Annotated[Path, typer.Argument(help="Second image.", metavar="B")],
    out: Annotated[
        Optional[Path], typer.Option(help="Picture of the matches to write (.png, .pdf, .svg).")
    ] = None,
    save: Annotated[Optional[Path], typer.Option(help="File of the matches to write (.npz, .json).")] = None,
    weights: Weights = "aliked-lightglue",
    max_keypoints: MaxKeypoints = 2048,
    resize: Resize = 1024,
    candidates: Annotated[
        Optional[int],
        typer.Option(
            min=0,
            help="Cross edges for each keypoint; 0 draws all.",
            show_default="as trained, all if only the other kind is given",
        ),
    ] = None,
    neighbors: Annotated[
        Optional[int],
        typer.Option(
            min=0,
            help="Self edges for each keypoint; 0 draws all.",
            show_default="as trained, all if only the other kind is given",
        ),
    ] = None,
    geometry: Annotated[
        str, typer.Option(help="Model to fit: homography, fundamental or none.")
    ] = "homography",
    estimator: Annotated[str, typer.Option(help="Who fits it: poselib or opencv.")] = "poselib",
    threshold: Annotated[
        Optional[float],
        typer.Option(
            min=0,
            help="Largest error of an inlier in pixels; 3 for homographies, else 1.",
            show_default=False,
        ),
    ] = None,
    filter_threshold: Annotated[
        Optional[float],
        typer.Option(
            min=0, max=1, help="Least probability of a match.", show_default="what the weights were made for"
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Match two images."""
    with error_line():
        _match(
            (image0, image1), out, save, weights, max_keypoints, resize, candidates, neighbors,
            geometry, estimator, threshold, filter_threshold, device,
        )  # fmt: skip


def _match(
    images: tuple[Path, Path],
    out: Optional[Path],
    save: Optional[Path],
    weights: str,
    max_keypoints: int,
    resize: int,
    candidates: Optional[int],
    neighbors: Optional[int],
    geometry: str,
    estimator: str,
    threshold: Optional[float],
    filter_threshold: Optional[float],
    device: str,
) -> None:
    import time

    from torch_geometric.transforms import Compose

    from pyg_match.checks import real_number
    from pyg_match.matcher import Matcher
    from pyg_match.transforms import CandidateEdges, KNNGraph

    for name, value, known in (
        ("--geometry", geometry, ("homography", "fundamental", "none")),
        ("--estimator", estimator, ("poselib", "opencv")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if threshold is not None:
        threshold = real_number("--threshold", threshold, positive=True)
    if save is not None and save.suffix.lower() not in (".npz", ".json"):
        raise ValueError(f"--save must end in .npz or .json, got {save.name!r}")
    if out is not None:
        from pyg_match.visualization.canvas import check_format

        check_format(out)
    refuse_inputs({"--save": save, "--out": out}, [*images, weights])
    for file in (save, out):
        if file is not None and not user_path(file).parent.is_dir():
            raise FileNotFoundError(f"no folder '{file.parent}' to write {file.name} to")
    steps: list[Any] = [KNNGraph(neighbors, loop=True)] if neighbors else []
    steps += [CandidateEdges(candidates)] if candidates else []
    asked = candidates is not None or neighbors is not None
    # The edges asked for, and no others after some layers.
    changes: dict[str, Any] = {"redraw_after": None} if asked else {}
    changes |= {} if filter_threshold is None else {"filter_threshold": filter_threshold}
    matcher = Matcher.from_pretrained(
        weights,
        max_num_keypoints=max_keypoints,
        resize=resize or None,
        transform=Compose(steps) if asked else None,
        device=chosen_device(device),
        **changes,
    )
    result = matcher(*images)
    typer.echo(f"keypoints  {len(result.keypoints0)} {len(result.keypoints1)}")
    typer.echo(f"matches    {len(result.matches)}")
    model, inliers = None, None
    start = time.perf_counter()
    if geometry != "none":
        threshold = threshold if threshold is not None else {"homography": 3.0, "fundamental": 1.0}[geometry]
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


@app.command()
def train(
    images: Annotated[Path, typer.Option(help="Folder of photos to train on.")],
    config: Annotated[
        str, typer.Argument(help="Settings: finetune, scratch-small, scratch-full or a YAML file.")
    ] = "finetune",
    out: Annotated[
        Path, typer.Option(help="Folder of the run; goes on if it holds one with the same settings.")
    ] = Path("runs/train"),
    change: Annotated[
        Optional[list[str]], typer.Option("--set", help="Setting to change, such as data.num_pairs=500.")
    ] = None,
    accelerator: Annotated[str, typer.Option(help="cpu, gpu or auto.")] = "auto",
    devices: Annotated[str, typer.Option(help="Number of devices of a machine.")] = "auto",
    strategy: Annotated[str, typer.Option(help="How processes work together, such as ddp.")] = "auto",
    num_nodes: Annotated[int, typer.Option(min=1, help="Number of machines.")] = 1,
    precision: Annotated[
        Optional[str], typer.Option(help="32-true, bf16-mixed, 16-mixed or 64-true.")
    ] = None,
) -> None:
    """Train a matcher on warped copies of photos."""
    with error_line(needs="training"):
        from pyg_match.training import load_config

        changes = [*(change or []), *([f"precision={precision}"] if precision else [])]
        settings = load_config(config, changes)
        from pyg_match.training.loop import train as run

        path = run(
            settings,
            images,
            out,
            accelerator=accelerator,
            devices=int(devices) if devices.isdigit() else devices,
            strategy=strategy,
            num_nodes=num_nodes,
        )
        typer.echo(f"saved      {path}")


@app.command()
def narrow(
    images: Annotated[Path, typer.Option(help="Folder of photos to make pairs of.")],
    target: Annotated[Path, typer.Argument(help="File to write.", metavar="OUT")],
    ffn_channels: Annotated[int, typer.Option(min=1, help="Channels to keep inside each network.")],
    config: Annotated[
        str, typer.Option(help="Settings of training, for its weights, graph and pairs.")
    ] = "finetune",
    num_pairs: Annotated[int, typer.Option(min=1, help="Pairs to look at.")] = 20,
    change: Annotated[
        Optional[list[str]], typer.Option("--set", help="Setting to change, such as weights=aliked-sparse.")
    ] = None,
) -> None:
    """Narrow the feed-forward networks of a matcher, so that it is faster and does nearly the same."""
    with error_line(needs="this"):
        from pyg_match.training import load_config
        from pyg_match.training.narrow import narrow_from_settings

        settings = load_config(config, [*(change or []), f"data.num_pairs={num_pairs}"])
        refuse_inputs({"OUT": target}, [config, settings.weights or "", settings.teacher or ""])
        narrow_from_settings(settings, images, target, ffn_channels)
        typer.echo(f"saved      {target}")


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="Folder of a run, or a .safetensors file of one.")],
    target: Annotated[Path, typer.Argument(help="File to write.", metavar="OUT")],
    half: Annotated[bool, typer.Option("--half", help="Write weights in half precision.")] = False,
    filter_threshold: Annotated[
        Optional[float], typer.Option(help="Least probability of a match; that of the run by default.")
    ] = None,
    graph: Annotated[
        Optional[str],
        typer.Option(help="Graph to match on, in YAML as in settings; that of the run by default."),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(help="What similarities are divided by; below 1 the matcher is surer of its matches."),
    ] = 1.0,
    assign_on_edges: Annotated[
        Optional[bool],
        typer.Option(help="Assign keypoints along edges, or all to all; what the run did by default."),
    ] = None,
    matchability_temperature: Annotated[
        float,
        typer.Option(
            help="What logits of matchability are divided by; above 1 it tells keypoints apart less."
        ),
    ] = 1.0,
) -> None:
    """Copy a trained matcher to a file and print its SHA-256."""
    with error_line(needs="--graph"):
        from pyg_match.training.config import parse_yaml
        from pyg_match.training.export import export_matcher

        recipe = None if graph is None else parse_yaml(graph, "--graph")
        digest = export_matcher(
            source,
            target,
            half=half,
            filter_threshold=filter_threshold,
            graph=recipe,
            temperature=temperature,
            assign_on_edges=assign_on_edges,
            matchability_temperature=matchability_temperature,
        )
        typer.echo(f"saved      {target}\nsha256     {digest}")


@app.command()
def explore(
    image0: Annotated[
        Optional[Path], typer.Argument(help="First image; a sample pair by default.", metavar="[A]")
    ] = None,
    image1: Annotated[Optional[Path], typer.Argument(help="Second image.", metavar="[B]")] = None,
    weights: Weights = "aliked-lightglue",
    max_keypoints: MaxKeypoints = 1024,
    resize: Resize = 768,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one from 7860 on.")] = 0,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
    max_megabytes: Annotated[float, typer.Option(min=0.1, help="Largest image file.")] = 32,
    max_megapixels: Annotated[float, typer.Option(min=0.1, help="Largest image.")] = 40,
) -> None:
    """See what attention does, in a browser: a page that only this machine can open."""
    with error_line():
        from pyg_match.app.server import launch, starting_choice
        from pyg_match.app.settings import Limits
        from pyg_match.checks import real_number

        max_megabytes = real_number("--max-megabytes", max_megabytes, positive=True)
        max_megapixels = real_number("--max-megapixels", max_megapixels, positive=True)
        limits = Limits(int(max_megabytes * 2**20), int(max_megapixels * 1e6))
        choice = starting_choice(image0, image1, weights, max_keypoints, limits)
        launch(choice, limits, port or None, browser, resize=resize or None)


collections.register(app)


def main() -> None:
    """Entry point of the console script."""
    app()
