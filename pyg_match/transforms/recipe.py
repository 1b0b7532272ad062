"""A graph written down as names and arguments, as settings and weight files hold it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch_geometric.transforms import BaseTransform, Compose


def graph_from_recipe(recipe: Sequence[Mapping[str, Any]]) -> Compose:
    """The transforms of a recipe, one after the other.

    Args:
        recipe: One mapping from the name of a transform of this package to its arguments for each transform.

    Raises:
        ValueError: If there is no such transform, or it does not take the arguments.

    Example:
        >>> graph_from_recipe([{"KNNGraph": {"k": 16, "loop": True}}, {"CandidateEdges": {"k": 16}}])
        Compose([
          KNNGraph(k=16, loop=True),
          CandidateEdges(k=16, symmetric=True)
        ])
    """
    import pyg_match.transforms as module

    if not isinstance(recipe, (list, tuple)):
        raise ValueError(f"a graph must be written as a list of transforms, got {recipe!r}")
    known = {
        name: item
        for name, item in vars(module).items()
        if inspect.isclass(item) and issubclass(item, BaseTransform)
    }
    steps = []
    for entry in recipe:
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise ValueError(f"a transform must be written as {{Name: {{argument: value}}}}, got {entry!r}")
        name, arguments = next(iter(entry.items()))
        if name not in known:
            raise ValueError(f"unknown transform {name!r}, expected one of {', '.join(sorted(known))}")
        if not isinstance(arguments or {}, Mapping):
            raise ValueError(f"the arguments of {name} must be given by name, got {arguments!r}")
        try:
            steps.append(known[name](**(arguments or {})))
        except TypeError as error:
            expected = ", ".join(inspect.signature(known[name]).parameters)
            raise ValueError(f"{name} takes the arguments {expected}; {error}") from None
    return Compose(steps)
