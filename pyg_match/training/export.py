"""Trained matchers as files to hand on."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import read_metadata
from pyg_match.transforms import graph_from_recipe


def export_matcher(
    source: Union[str, Path],
    target: Union[str, Path],
    half: bool = False,
    filter_threshold: Optional[float] = None,
    graph: Optional[Sequence[Mapping[str, Any]]] = None,
) -> str:
    """Copy a trained matcher to a file, with its graph and its detector.

    Args:
        source: A file of :meth:`pyg_match.nn.GraphMatcher.save`, with or without its ending, or the folder of a
            training run, whose best matcher is taken.
        target: The file to write.
        half: Whether to write the weights in half precision; they are loaded in single precision again.
        filter_threshold: Least probability of a match from now on, in [0, 1]; ``None`` for that of the source.
        graph: Recipe of the graph to match on from now on, for instance a denser one than in training, as
            :func:`pyg_match.transforms.graph_from_recipe` takes it; ``None`` for that of the source.

    Returns:
        The SHA-256 of the file.

    Raises:
        FileNotFoundError: If there is no such matcher.
        ValueError: If the file is damaged, the threshold is no probability, or the graph cannot be drawn.
    """
    source = Path(source)
    choices = (source, source.with_name(source.name + ".safetensors"), source / "best.safetensors")
    file = next((choice for choice in choices if choice.is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"no matcher at {source}; expected a .safetensors file or the folder of a run"
        )
    if filter_threshold is not None and not 0 <= filter_threshold <= 1:
        raise ValueError(f"'filter_threshold' must be in [0, 1], got {filter_threshold}")
    metadata = {key: value for key, value in read_metadata(file).items() if key != "config"}
    if graph is not None:
        graph_from_recipe(graph)
        metadata["graph"] = list(graph)
    changes: dict[str, Any] = {} if filter_threshold is None else {"filter_threshold": filter_threshold}
    GraphMatcher.from_pretrained(file, **changes).save(target, half=half, metadata=metadata)
    return hashlib.sha256(Path(target).read_bytes()).hexdigest()
