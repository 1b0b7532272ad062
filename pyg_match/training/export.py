"""Trained matchers as files to hand on."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from pyg_match.checks import real_number, shown
from pyg_match.files import is_file, user_path
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import read_metadata
from pyg_match.training.calibration import scale_heads
from pyg_match.transforms import graph_from_recipe


def export_matcher(
    source: Union[str, Path],
    target: Union[str, Path],
    half: bool = False,
    filter_threshold: Optional[float] = None,
    graph: Optional[Sequence[Mapping[str, Any]]] = None,
    temperature: float = 1.0,
    assign_on_edges: Optional[bool] = None,
    matchability_temperature: float = 1.0,
) -> str:
    """Copy a trained matcher to a file, with its graph and its detector.

    Args:
        source: A file of :meth:`pyg_match.nn.GraphMatcher.save`, with or without its ending, or the folder of a
            training run, whose best matcher is taken, or the last one of a run that did not validate.
        target: The file to write, whose name ends in ``.safetensors``.
        half: Whether to write the weights in half precision; they are loaded in single precision again.
        filter_threshold: Least probability of a match from now on, in [0, 1]; ``None`` for that of the source.
        graph: Recipe of the graph to match on from now on, for instance a denser one than in training, as
            :func:`pyg_match.transforms.graph_from_recipe` takes it; ``None`` for that of the source.
        temperature: What the similarities of all assignments are divided by. Below 1 a matcher is surer of the best
            match of each keypoint, which may go with a higher threshold. Where it rests on few training pairs,
            or on ones easier than those to come, it is often less sure than it is right.
        assign_on_edges: Whether keypoints are assigned along edges from now on; ``None`` for what the source does.
        matchability_temperature: What the logits of matchability are divided by. Above 1 keypoints in doubt of having
            any match are told apart less: a threshold judges more by how clearly the best match stands out, and
            ``width_confidence`` lets fewer go.

    Returns:
        The SHA-256 of the file.

    Raises:
        FileNotFoundError: If there is no such matcher.
        ValueError: If the file is damaged, the target's name ends otherwise or the target is the source, the threshold
            is no probability, the graph cannot be drawn, or a temperature is not positive, makes weights infinite, or
            meets a matcher without a softmax to apply it to.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = f"{folder}/run.safetensors"
        ...     GraphMatcher(in_channels=8, hidden_channels=16, num_layers=1).save(file)
        ...     digest = export_matcher(file, f"{folder}/half.safetensors", half=True, filter_threshold=0.2)
        ...     GraphMatcher.from_pretrained(f"{folder}/half.safetensors").config.filter_threshold
        0.2
    """
    source, target = user_path(source).resolve(), user_path(target)
    choices = [source, source.with_name(f"{source.name}.safetensors")]
    if os.path.isdir(source):
        # A run without validation has no best one.
        choices = [source / "best.safetensors", source / "matcher.safetensors"]
    file = next((choice for choice in choices if is_file(choice)), None)
    if file is None:
        raise FileNotFoundError(
            f"no matcher at {shown(str(source))}; expected a .safetensors file or the folder of a run"
        )
    if filter_threshold is not None:
        filter_threshold = real_number("filter_threshold", filter_threshold)
        if not 0 <= filter_threshold <= 1:
            raise ValueError(f"'filter_threshold' must be in [0, 1], got {filter_threshold}")
    temperature = real_number("temperature", temperature, positive=True)
    matchability_temperature = real_number(
        "matchability_temperature", matchability_temperature, positive=True
    )
    if is_file(target) and target.samefile(file):
        raise ValueError(f"the export would overwrite its source {file}; choose another file")
    if target.suffix != ".safetensors":  # said before the source is loaded
        raise ValueError(f"matchers are saved as .safetensors, got {target.name!r}")
    metadata = {key: value for key, value in read_metadata(file).items() if key != "config"}
    if graph is not None:
        graph_from_recipe(graph)
        metadata["graph"] = list(graph)
    changes = {"filter_threshold": filter_threshold, "assign_on_edges": assign_on_edges}
    changed = {name: value for name, value in changes.items() if value is not None}
    if changed or graph is not None or (temperature, matchability_temperature) != (1, 1):
        metadata.pop("calibration", None)  # whose figures are those of the source
    matcher = GraphMatcher.from_pretrained(file, **changed)
    scale_heads(matcher, temperature, matchability_temperature)
    matcher.save(target, half=half, metadata=metadata)
    return hashlib.sha256(target.read_bytes()).hexdigest()
