"""Trained matchers as files to hand on."""

import hashlib
from pathlib import Path
from typing import Any, Optional, Union

from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import read_metadata


def export_matcher(
    source: Union[str, Path],
    target: Union[str, Path],
    half: bool = False,
    filter_threshold: Optional[float] = None,
) -> str:
    """Copy a trained matcher to a file, with its graph and its detector.

    Args:
        source: A file of :meth:`pyg_match.nn.GraphMatcher.save`, with or without its ending, or the folder of a
            training run, whose best matcher is taken.
        target: The file to write.
        half: Whether to write the weights in half precision; they are loaded in single precision again.
        filter_threshold: Least probability of a match from now on, in [0, 1]; ``None`` for that of the source.

    Returns:
        The SHA-256 of the file.

    Raises:
        FileNotFoundError: If there is no such matcher.
        ValueError: If the file is damaged, or the threshold is no probability.
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
    changes: dict[str, Any] = {} if filter_threshold is None else {"filter_threshold": filter_threshold}
    GraphMatcher.from_pretrained(file, **changes).save(target, half=half, metadata=metadata)
    return hashlib.sha256(Path(target).read_bytes()).hexdigest()
