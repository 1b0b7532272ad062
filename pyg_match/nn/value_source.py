"""Sources of the values that attention passes on."""

from typing import Literal, Optional

from torch import Tensor

Step = Literal["self", "cross"]
ValueSteps = Literal["both", "self", "cross"]


def refresh_period(value_source: str) -> Optional[int]:
    """The number of layers after which the source of values is refreshed; ``None`` for never.

    Args:
        value_source: ``"current"``, ``"initial"`` or ``"every:n"``.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> refresh_period("every:3")
        3
    """
    if value_source == "current":
        return 1
    if value_source == "initial":
        return None
    kind, _, period = value_source.partition(":")
    if kind != "every" or not period.isdigit() or int(period) < 1:
        raise ValueError(
            f"'value_source' must be 'current', 'initial' or 'every:n' with n of at least 1, got {value_source!r}"
        )
    return int(period)


class ValueSource:
    r"""The descriptors whose values the steps of a stack of layers pass on.

    Queries and keys of layer :math:`l` always come from the current descriptors :math:`\mathbf{x}^{(l)}`. Its
    values :math:`\mathbf{W}_v \mathbf{x}^{(v)}` come from the layer :math:`v = l` (``"current"``), :math:`v = 0`
    (``"initial"``), or :math:`v = n \lfloor l / n \rfloor` (``"every:n"``), so that early, unreliable attention
    does not wash out what later layers pass on. Self and cross steps each count their own layers.

    Args:
        value_source: ``"current"``, ``"initial"`` or ``"every:n"``.
        steps: Which steps it concerns; the others use current values.
    """

    def __init__(self, value_source: str = "current", steps: ValueSteps = "both") -> None:
        self.period = refresh_period(value_source)
        self.steps = ("self", "cross") if steps == "both" else (steps,)
        self.held: dict[str, Tensor] = {}
        self.count = {"self": 0, "cross": 0}

    def take(self, step: Step, x: Tensor) -> Tensor:
        """The source of values of the next ``step``, whose current descriptors are ``x``."""
        layer = self.count[step]
        self.count[step] += 1
        if step not in self.steps or self.period == 1:
            return x
        if layer == 0 or (self.period is not None and layer % self.period == 0):
            self.held[step] = x
        return self.held[step]

    def keep(self, mask: Tensor) -> None:
        """Leave out nodes that the layers have left out."""
        self.held = {step: x[mask] for step, x in self.held.items()}
