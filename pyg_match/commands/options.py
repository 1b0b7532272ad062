"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeAlias

import typer

from pyg_match.weight_registry import matchers

MaxKeypoints = Annotated[
    int, typer.Option(min=1, metavar="N", help="Largest number of keypoints in an image.")
]
Resize = Annotated[
    int, typer.Option(min=0, metavar="PIXELS", help="Longer side for detection; 0 keeps the size.")
]
Weights = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE",
        help=f"Matcher and its detector: {', '.join(matchers())}, or a .safetensors file that training wrote.",
    ),
]
FilterThreshold = Annotated[
    Optional[float],
    typer.Option(
        min=0,
        max=1,
        metavar="P",
        help="Least probability of a match.",
        show_default="what the weights were made for",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1 or mps; auto takes a CUDA GPU if there is one."),
]
Settings = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="Settings of training, for its weights, graph and pairs.")
]
Photos = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of photos to make pairs of.")]


Detector: TypeAlias = Literal["aliked", "disk", "xfeat", "sift", "rootsift"]


def chosen_device(name: str) -> Any:
    """The device of a name, a CUDA GPU for ``"auto"`` if there is one."""
    import torch

    from pyg_match.checks import usable_device

    return usable_device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
