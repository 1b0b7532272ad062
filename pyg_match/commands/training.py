"""Commands that make matchers: parse, call, print."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from pyg_match.commands.errors import check_ending, check_folder, check_outputs, error_line
from pyg_match.commands.options import Photos, Settings
from pyg_match.files import is_file, shown_path
from pyg_match.spinner import spinner

# A panel of its own, as these names leave no room beside the others in 80 columns.
_TEMPERATURES = "Temperatures"

Changes = Annotated[
    Optional[list[str]],
    typer.Option("--set", metavar="KEY=VALUE", help="Setting to change, such as data.num_pairs=500."),
]


def train(
    images: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of photos to train on.")],
    config: Annotated[
        str,
        typer.Argument(
            metavar="SETTINGS",
            help="sparse, finetune, scratch-small, scratch-full or a YAML file of settings.",
        ),
    ] = "finetune",
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Folder of the run; goes on if it holds one with the same settings."
        ),
    ] = Path("runs/train"),
    change: Changes = None,
    accelerator: Annotated[
        str,
        typer.Option(
            "--device",
            "--accelerator",
            metavar="auto|cpu|cuda",
            help="What to train on; auto takes a CUDA GPU if there is one.",
        ),
    ] = "auto",
    devices: Annotated[str, typer.Option(metavar="N|auto", help="Number of devices of a machine.")] = "auto",
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="How processes work together, such as ddp.")
    ] = "auto",
    num_nodes: Annotated[int, typer.Option(min=1, metavar="N", help="Number of machines.")] = 1,
    precision: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME",
            help="32-true, bf16-mixed, 16-mixed or 64-true.",
            show_default="that of the settings",
        ),
    ] = None,
) -> None:
    """Train a matcher on warped copies of photos, and on pairs of photos of the same scene."""
    with error_line(needs="training"):
        if is_file(out):
            raise ValueError(f"--out must be a folder for the run, got the file {out}")
        with spinner("reading settings"):
            from pyg_match.training import load_config

            settings = load_config(
                config, [*(change or []), *([f"precision={precision}"] if precision else [])]
            )
        check_folder("--images", images)
        with spinner("loading"):
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
    typer.echo(f"saved      {shown_path(path)}")


def narrow(
    images: Photos,
    target: Annotated[Path, typer.Argument(help="File to write (.safetensors).", metavar="OUT")],
    ffn_channels: Annotated[
        int, typer.Option(min=1, metavar="N", help="Channels to keep inside each network.")
    ],
    config: Settings = "finetune",
    num_pairs: Annotated[
        Optional[int], typer.Option(min=1, metavar="N", help="Pairs to look at.", show_default="20")
    ] = None,
    change: Changes = None,
) -> None:
    """Narrow the feed-forward networks of a matcher, so that it is faster and does nearly the same."""
    with error_line(needs="this"):
        check_folder("--images", images)
        check_ending("matchers are saved as", target, ".safetensors")
        check_outputs({"OUT": target}, [config])
        with spinner("reading settings"):
            from pyg_match.training import load_config
            from pyg_match.training.narrow import narrow_from_settings

            changes = ["data.num_pairs=20", *(change or [])]
            settings = load_config(
                config, changes if num_pairs is None else [*changes, f"data.num_pairs={num_pairs}"]
            )
        check_outputs({"OUT": target}, [settings.weights, settings.teacher])
        narrow_from_settings(settings, images, target, ffn_channels)
    typer.echo(f"saved      {shown_path(target)}")


def export(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, or a .safetensors file of one.", metavar="RUN")
    ],
    target: Annotated[Path, typer.Argument(help="File to write (.safetensors).", metavar="OUT")],
    half: Annotated[
        bool, typer.Option("--half", metavar="", help="Write weights in half precision.")
    ] = False,
    filter_threshold: Annotated[
        Optional[float],
        typer.Option(metavar="P", help="Least probability of a match.", show_default="that of the run"),
    ] = None,
    graph: Annotated[
        Optional[str],
        typer.Option(
            metavar="YAML", help="Graph to match on, as in settings.", show_default="that of the run"
        ),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="What similarities are divided by; below 1 the matcher is surer of its matches.",
            rich_help_panel=_TEMPERATURES,
        ),
    ] = 1.0,
    assign_on_edges: Annotated[
        Optional[bool],
        typer.Option(
            metavar="", help="Assign keypoints along edges, or all to all.", show_default="what the run did"
        ),
    ] = None,
    matchability_temperature: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="What logits of matchability are divided by; above 1 it tells keypoints apart less.",
            rich_help_panel=_TEMPERATURES,
        ),
    ] = 1.0,
) -> None:
    """Copy a trained matcher to a file and print its SHA-256."""
    with error_line(needs="--graph"):
        check_ending("matchers are saved as", target, ".safetensors")
        # No file of a run either, whichever of them is read.
        check_outputs({"OUT": target}, [source / f"{name}.safetensors" for name in ("best", "matcher")])
        with spinner("exporting"):
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
    typer.echo(f"saved      {shown_path(target)}\nsha256     {digest}")
