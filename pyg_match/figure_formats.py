"""The formats in which figures are saved."""

from pathlib import Path
from typing import Union


def check_format(path: Union[str, Path]) -> str:
    """The format that the ending of a figure's file stands for.

    Raises:
        ValueError: If there is none.

    Example:
        >>> check_format("matches.PNG")
        'png'
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    ending = Path(path).suffix[1:].lower()
    if ending not in known:
        raise ValueError(f"figures are saved as {', '.join(known)}, got {Path(path).name!r}")
    return ending
