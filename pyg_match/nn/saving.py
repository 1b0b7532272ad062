"""Files of matchers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Optional, Union

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pyg_match.checks import check_finite, whole_number
from pyg_match.digest import DIGEST, tensor_digest
from pyg_match.files import write_whole
from pyg_match.nn.lightglue import convert_lightglue
from pyg_match.nn.matcher_config import MatcherConfig
from pyg_match.pretrained import load_weights, read_metadata

_MOST_SCALES = 1000  # of a branch that a file may name


def save_matcher(
    path: Union[str, Path],
    state: Mapping[str, Tensor],
    config: MatcherConfig,
    half: bool,
    metadata: Optional[Mapping[str, Any]],
) -> None:
    """Write weights and configuration; see :meth:`pyg_match.nn.GraphMatcher.save`."""
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"matchers are saved as .safetensors, got {Path(path).name!r}")

    dtype = torch.half if half else None
    state = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for key, value in state.items()
    }
    check_finite(state, f"{Path(path).name} would hold")
    settings = asdict(config)
    del settings["checkpointed"]  # which is a matter of training
    values = {**(metadata or {}), "config": settings}
    texts = {key: json.dumps(value) for key, value in values.items()}
    texts[DIGEST] = tensor_digest(state, texts)
    write_whole(path, _in_order(save(state, metadata=texts)))


def _in_order(content: bytes) -> bytes:
    """A safetensors file whose header is sorted: the library writes texts in another order each time."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header = {
        "__metadata__": dict(sorted(header.pop("__metadata__").items())),
        **dict(sorted(header.items())),
    }
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)  # tensors start at a multiple of eight bytes
    return len(encoded).to_bytes(8, "little") + encoded + content[start:]


def read_matcher(name: Union[str, Path], options: dict[str, Any]) -> tuple[MatcherConfig, dict[str, Tensor]]:
    """The configuration and the weights in a file, of the first layers if ``options`` ask for fewer.

    Args:
        name: See :meth:`pyg_match.nn.GraphMatcher.from_pretrained`.
        options: Fields of the configuration to override; those of layers that are left out are added.
    """
    state = load_weights(name)
    saved = _saved_config(name)
    config, state = (saved, state) if saved is not None else convert_lightglue(state)
    _check_shape(config, state, name)
    check_finite(state, f"the weights in {name} hold")
    num_layers = whole_number("num_layers", options.get("num_layers", config.num_layers))
    if num_layers > config.num_layers:
        raise ValueError(
            f"the weights in {name} have {config.num_layers} layers, got num_layers={num_layers}"
        )
    if num_layers < config.num_layers:
        if config.assignment != "dual_softmax":
            raise ValueError(
                f"the weights in {name} have an assignment after {config.num_layers} layers only, "
                f"got num_layers={num_layers}"
            )
        state = _first_layers(state, num_layers)
        options.setdefault("layer_scales", config.layer_scales and config.layer_scales[:num_layers])
    return config, state


def load_state(
    matcher: nn.Module, state: dict[str, Tensor], name: Union[str, Path], early_exit: bool
) -> None:
    """Load weights of a file into a matcher of its shape.

    Raises:
        ValueError: If they do not fit, or there are no confidences although the matcher exits early.
    """
    try:
        incompatible = matcher.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the weights in {name} do not fit the matcher: {error}") from None
    # Weights trained without early exit have no confidences; branches that are new to them contribute nothing yet.
    missing = [
        key for key in incompatible.missing_keys if not (key.startswith("confidences.") or ".branch." in key)
    ]
    if missing or incompatible.unexpected_keys:
        raise ValueError(
            f"the weights in {name} do not fit the matcher: {len(missing)} missing {missing[:3]}, "
            f"{len(incompatible.unexpected_keys)} unexpected {incompatible.unexpected_keys[:3]}"
        )
    lacks_confidences = any(key.startswith("confidences.") for key in incompatible.missing_keys)
    if lacks_confidences and early_exit:
        raise ValueError(
            f"the weights in {name} were trained without early exit; leave depth_confidence=None"
        )


def _check_shape(config: MatcherConfig, state: dict[str, Tensor], name: Union[str, Path]) -> None:
    """Refuse a configuration that is far from the weights, before anything of its size is made."""
    layers = len({key.split(".")[1] for key in state if key.startswith("layers.")})
    widths = {
        value.size(0)
        for key, value in state.items()
        if key.endswith("self_attn.lin_out.weight") and value.dim()
    }
    if layers != config.num_layers or widths != {config.hidden_channels}:
        raise ValueError(
            f"the weights in {name} do not fit the matcher: they have {layers} layers of widths {sorted(widths)}, but "
            f"num_layers={config.num_layers} and hidden_channels={config.hidden_channels}"
        )
    largest = max(value.numel() for value in state.values())
    for field, most in (("in_channels", largest), ("ffn_channels", largest), ("num_scales", _MOST_SCALES)):
        if (getattr(config, field) or 0) > most:
            raise ValueError(
                f"the weights in {name} do not fit the matcher: {field}={getattr(config, field)}"
            )


def _first_layers(state: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """The weights of the first layers, with the assignments after them and the confidences between them."""
    counts = {"layers": num_layers, "assignments": num_layers, "confidences": num_layers - 1}
    parts = {key: key.split(".", 2) for key in state}
    # What has no number fits no matcher, and is refused with its name.
    return {
        key: state[key]
        for key, (kind, *rest) in parts.items()
        if kind not in counts or not rest or not rest[0].isdecimal() or int(rest[0]) < counts[kind]
    }


def _saved_config(name: Union[str, Path]) -> Optional[MatcherConfig]:
    """The configuration in a file of :meth:`GraphMatcher.save`; ``None`` for other files."""
    values = read_metadata(name).get("config")
    if values is None:
        return None
    known = {field.name for field in fields(MatcherConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{name} was written by another version: unknown configuration {unknown}")
    try:
        return MatcherConfig(**values)
    except ValueError as error:
        raise ValueError(f"the configuration in {name} cannot be used: {error}") from None
