"""Conversion of LightGlue's weights to those of the graph matcher."""

import re

from torch import Tensor

from pyg_match.nn.matcher_config import MatcherConfig

# Names in kornia and in files of official releases -> official names.
_OFFICIAL = [(r"^matcher\.", ""), (r"^(self|cross)_attn\.(\d+)\.", r"transformers.\2.\1_attn.")]
# Official names -> names in GraphMatcher.
_RENAME = [
    (r"^transformers\.(\d+)\.self_attn\.out_proj\.", r"layers.\1.self_attn.lin_out."),
    (r"^transformers\.(\d+)\.cross_attn\.to_out\.", r"layers.\1.cross_attn.lin_out."),
    (r"^transformers\.(\d+)\.cross_attn\.to_qk\.", r"layers.\1.cross_attn.conv.lin_query."),
    (r"^transformers\.(\d+)\.cross_attn\.to_v\.", r"layers.\1.cross_attn.conv.lin_value."),
    (r"^transformers\.(\d+)\.(self|cross)_attn\.ffn\.", r"layers.\1.\2_attn.ffn."),
    (r"^input_proj\.", "lin_in."),
    (r"^posenc\.Wr\.", "encoding.lin."),
    (r"^log_assignment\.(\d+)\.final_proj\.", r"assignments.\1.lin."),
    (r"^log_assignment\.(\d+)\.matchability\.", r"assignments.\1.lin_matchability."),
    (r"^token_confidence\.(\d+)\.token\.0\.", r"confidences.\1."),
]
# In some official files, but no part of the matcher: thresholds are recomputed, r belongs to an older head, and the
# file of LighterGlue holds its detector as well.
_UNUSED = re.compile(r"^confidence_thresholds$|^log_assignment\.\d+\.r$|^extractor\.")

# Whose shapes tell those of the matcher.
_SHAPING = ("log_assignment.0.matchability.weight", "posenc.Wr.weight", "input_proj.weight")
_FUSED = re.compile(r"^transformers\.(\d+)\.self_attn\.Wqkv\.(weight|bias)$")


def convert_lightglue(state: dict[str, Tensor]) -> tuple[MatcherConfig, dict[str, Tensor]]:
    """Convert weights of LightGlue, by official or kornia's names, for :class:`~pyg_match.nn.GraphMatcher`.

    Args:
        state: The state dict of LightGlue.

    Returns:
        The configuration that the shapes imply, and the converted state dict. Gradients convert as weights do.

    Raises:
        ValueError: If the dict does not hold the weights of LightGlue.

    Source: https://github.com/cvg/LightGlue, ``lightglue/lightglue.py``.

    Example:
        >>> from pyg_match.pretrained import load_weights
        >>> config, state = convert_lightglue(load_weights("aliked-lightglue"))
        >>> config.num_layers, state["lin_in.weight"].shape
        (9, torch.Size([256, 128]))
    """
    named = {_renamed(key, _OFFICIAL): value for key, value in state.items()}
    for key in ("log_assignment.0.matchability.weight", "posenc.Wr.weight"):
        if key not in named:
            raise ValueError(f"not the weights of LightGlue: no entry {key!r} among {len(state)} entries")
    for key, value in named.items():
        if _FUSED.match(key) or key in _SHAPING:
            expected = 1 if key.endswith(".bias") else 2
            if value.dim() != expected or value.numel() == 0:
                raise ValueError(
                    f"not the weights of LightGlue: '{key}' must have {expected} dimensions, none of them 0, got "
                    f"{list(value.shape)}"
                )
    hidden = named["log_assignment.0.matchability.weight"].size(1)
    head_channels = 2 * named["posenc.Wr.weight"].size(0)
    position_channels = named["posenc.Wr.weight"].size(1)
    projection = named.get("input_proj.weight")
    if hidden % head_channels != 0:
        raise ValueError(
            f"not the weights of LightGlue: descriptors of width {hidden} cannot have heads of width {head_channels}"
        )
    if position_channels not in (2, 4):
        raise ValueError(f"positions of {position_channels} coordinates are not supported, expected 2 or 4")
    layers = [number[1] for key in named if (number := re.match(r"transformers\.(\d+)\.", key))]
    if not layers:
        raise ValueError(f"not the weights of LightGlue: no layer among {len(state)} entries")
    depth = len(set(layers))
    if set(map(int, layers)) != set(range(depth)):
        raise ValueError(
            f"not the weights of LightGlue: layers must be numbered from 0 on, got {sorted(set(layers))[:9]}"
        )
    config = MatcherConfig(
        in_channels=hidden if projection is None else projection.size(1),
        hidden_channels=hidden,
        num_layers=depth,
        heads=hidden // head_channels,
        use_scale_orientation=position_channels == 4,
    )
    converted: dict[str, Tensor] = {}
    for key, value in named.items():
        fused = _FUSED.match(key)
        if fused:
            # Rows are ordered (head, channel, [query, key, value]).
            if value.size(0) != 3 * hidden:
                raise ValueError(
                    f"not the weights of LightGlue: '{key}' must have {3 * hidden} rows, got {list(value.shape)}"
                )
            split = value.view(config.heads, head_channels, 3, -1).unbind(2)
            for name, part in zip(("query", "key", "value"), split, strict=True):
                shape = (hidden, -1) if fused[2] == "weight" else (hidden,)
                converted[f"layers.{fused[1]}.self_attn.conv.lin_{name}.{fused[2]}"] = part.reshape(shape)
            continue
        key = _renamed(key, _RENAME)
        if not _UNUSED.match(key):
            converted[key] = value
    return config, converted


def _renamed(key: str, names: list[tuple[str, str]]) -> str:
    for pattern, replacement in names:
        key = re.sub(pattern, replacement, key)
    return key
