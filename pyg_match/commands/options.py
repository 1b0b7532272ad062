"""Options that several commands have."""

from typing import Annotated, Any

import typer

MaxKeypoints = Annotated[int, typer.Option(min=1, help="Largest number of keypoints in an image.")]
Resize = Annotated[int, typer.Option(min=0, help="Longer side for detection in pixels; 0 keeps the size.")]
Weights = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE",
        help="Matcher and its detector: aliked-sparse, disk-sparse, aliked-lightglue, disk-lightglue, "
        "xfeat-lighterglue, or a .safetensors file that training wrote.",
    ),
]
DeviceOption = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1 or mps; auto takes a GPU if there is one.")
]


def chosen_device(name: str) -> Any:
    """The device of a name, a GPU for ``"auto"`` if there is one."""
    import torch

    from pyg_match.checks import usable_device

    return usable_device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
