"""Curves over the layers of a matcher."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from torch import Tensor

from pyg_match.visualization.canvas import COLUMN, CYCLE, FONT, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "os^Dv*"


def plot_layer_curves(
    curves: Mapping[str, Tensor],
    ylabel: str,
    log: bool = False,
    title: Optional[str] = None,
    path: Union[str, Path, None] = None,
) -> "Figure":
    """Draw a number of each layer, such as :func:`attention_span` or :func:`attention_entropy`, at column width.

    Args:
        curves: For each name the values of each layer, or of each layer and head. Heads give two lines: their mean,
            and dashed their minimum.
        ylabel: What the values are, with their unit.
        log: Whether the vertical axis is logarithmic.
        title: Text above.
        path: Where to save the figure, if anywhere; the ending decides the format.

    Shapes:
        - **curves:** :math:`(L)` or :math:`(L, H)`

    Raises:
        ValueError: If a curve has another shape.

    Example:
        >>> import torch
        >>> figure = plot_layer_curves({"complete": torch.rand(9, 4)}, "attended distance (pixels)")
        >>> len(figure.axes[0].lines)
        2
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(COLUMN, 0.7 * COLUMN)
    axes = figure.subplots()
    for number, (name, values) in enumerate(curves.items()):
        values = values.detach().cpu().float()
        if values.dim() not in (1, 2):
            raise ValueError(f"curve {name!r} must have shape [L] or [L, H], got {list(values.shape)}")
        layers = list(range(len(values)))
        style: dict[str, Any] = {
            "color": CYCLE[number % len(CYCLE)],
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 3,
        }
        mean = values if values.dim() == 1 else values.mean(1)
        axes.plot(layers, mean.tolist(), label=name, linewidth=1.2, **style)
        if values.dim() == 2:
            axes.plot(
                layers,
                values.amin(1).tolist(),
                label=f"{name}, lowest head",
                linewidth=0.8,
                linestyle="--",
                **style,
            )
    axes.set_xlabel("layer", fontsize=FONT)
    axes.set_ylabel(ylabel, fontsize=FONT)
    axes.set_yscale("log" if log else "linear")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=FONT)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(fontsize=FONT - 1, frameon=False)
    if title:
        axes.set_title(title, fontsize=FONT)
    save(figure, path)
    return figure
