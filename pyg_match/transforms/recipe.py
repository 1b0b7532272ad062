"""Recipes of graphs: names and arguments of transforms, as settings and weight files hold them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch_geometric.transforms import BaseTransform, Compose

from pyg_match.checks import shown
from pyg_match.transforms.anchor_edges import AnchorEdges
from pyg_match.transforms.candidate_edges import CandidateEdges
from pyg_match.transforms.complete_graph import CompleteGraph
from pyg_match.transforms.diverse_knn import DiverseKNN
from pyg_match.transforms.equal_partition import EqualPartition
from pyg_match.transforms.hilbert_partition import HilbertPartition
from pyg_match.transforms.knn_graph import KNNGraph
from pyg_match.transforms.nested_partition import NestedPartition
from pyg_match.transforms.precomputed_edges import PrecomputedEdges
from pyg_match.transforms.remove_pairs import RemovePairs
from pyg_match.transforms.ring_partition import RingPartition

_CLASSES: tuple[type[BaseTransform], ...] = (
    AnchorEdges,
    CandidateEdges,
    CompleteGraph,
    DiverseKNN,
    EqualPartition,
    HilbertPartition,
    KNNGraph,
    NestedPartition,
    PrecomputedEdges,
    RemovePairs,
    RingPartition,
)


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
    if not isinstance(recipe, (list, tuple)):
        raise ValueError(f"a graph must be written as a list of transforms, got {shown(recipe)}")
    known: dict[str, Any] = {item.__name__: item for item in _CLASSES}
    steps = []
    for entry in recipe:
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise ValueError(
                f"a transform must be written as {{Name: {{argument: value}}}}, got {shown(entry)}"
            )
        name, arguments = next(iter(entry.items()))
        if name not in known:
            raise ValueError(f"unknown transform {shown(name)}, expected one of {', '.join(sorted(known))}")
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
            raise ValueError(f"the arguments of {name} must be given by name, got {shown(arguments)}")
        parameters = inspect.signature(known[name]).parameters
        unknown = [key for key in arguments if key not in parameters]
        missing = [k for k, p in parameters.items() if p.default is p.empty and k not in arguments]
        if unknown or missing:
            problem = f"got '{unknown[0]}'" if unknown else f"lacks '{missing[0]}'"
            raise ValueError(f"{name} takes the arguments {', '.join(parameters)}; {problem}")
        try:
            steps.append(known[name](**arguments))
        except TypeError as error:
            raise ValueError(f"{name} cannot be made of {shown(dict(arguments))}: {error}") from None
    return Compose(steps)
