"""The command that opens the explorer: parse, call, print."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from pyg_match.commands.errors import check_outputs, error_line
from pyg_match.commands.options import DeviceOption, MaxKeypoints, Resize, Weights, chosen_device
from pyg_match.files import shown_path, user_path
from pyg_match.spinner import spinner


def explore(
    image0: Annotated[
        Optional[Path], typer.Argument(help="First image; a sample pair by default.", metavar="[A]")
    ] = None,
    image1: Annotated[Optional[Path], typer.Argument(help="Second image.", metavar="[B]")] = None,
    export: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE", help="Write the page to this file (.html) instead, which works offline."
        ),
    ] = None,
    weights: Weights = "aliked-sparse",
    max_keypoints: MaxKeypoints = 1024,
    resize: Resize = 768,
    setting: Annotated[
        str,
        typer.Option(
            metavar="GRAPH:K:VALUES",
            help="Graph and value policy: trained, complete, candidates:K, knn:K, diverse:K, anchors:K or sparse:K, "
            "and after another colon the values: trained, current, initial or every:N.",
        ),
    ] = "trained",
    compare: Annotated[
        Optional[str], typer.Option(metavar="GRAPH:K:VALUES", help="Another setting to put beside it.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port; 0 takes a free one from 7860 on.")
    ] = 0,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
    max_megabytes: Annotated[float, typer.Option(min=0.1, metavar="MIB", help="Largest image file.")] = 32,
    max_megapixels: Annotated[float, typer.Option(min=0.1, metavar="MEGAPIXELS", help="Largest image.")] = 40,
    device: DeviceOption = "auto",
) -> None:
    """See what attention does, in a browser: a page that only this machine can open, or a file."""
    with error_line(needs="the explorer", extra="app"):
        from pyg_match.app.exploration import PairChoice
        from pyg_match.app.explorer import check_target
        from pyg_match.app.settings import Limits, Setting
        from pyg_match.app.uploads import read_upload
        from pyg_match.checks import real_number
        from pyg_match.weight_registry import check_matcher

        max_megabytes = real_number("--max-megabytes", max_megabytes, positive=True)
        max_megapixels = real_number("--max-megapixels", max_megapixels, positive=True)
        limits = Limits(int(max_megabytes * 2**20), int(max_megapixels * 1e6))
        first = Setting.parse(setting)
        second = None if compare is None else Setting.parse(compare)
        if export is not None:
            if port or browser:
                raise ValueError(
                    "'--port' and '--browser' are for a page that is served, '--export' writes a file"
                )
            check_target(export)
            check_outputs({"--export": export}, [image0, image1, weights])
        check_matcher(weights)
        if image0 is not None and image1 is None:
            raise ValueError("give two images or none, got one")
        paths = [user_path(path) for path in (image0, image1) if path is not None]
        for path in paths:
            read_upload(path, limits, str(path))
        images = (str(paths[0]), str(paths[1])) if paths else None
        choice = PairChoice(images, weights, max_keypoints)
        import bokeh  # noqa: F401  # said before anything is computed

        chosen = chosen_device(device)
        if export is None:
            from pyg_match.app.server import launch

            launch(
                choice,
                limits,
                port or None,
                browser,
                resize=resize or None,
                device=chosen,
                setting=first,
                compare=second,
            )
            return
        from pyg_match.app import Exploration

        with spinner("finding keypoints, matching and recording attention"):
            Exploration(limits, resize or None, device=chosen).explorer(choice, first, second).save(export)
        typer.echo(f"saved      {shown_path(export)} ({user_path(export).stat().st_size / 1e6:.1f} MB)")
