"""Weights, settings, checkpoints, sequences and caches with something changed in them."""

import dataclasses
import json
import math

import torch
from fuzz.oracle import accepted, fuzz
from fuzz.strategies import junk, numbers, tensors
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save, save_file

from pyg_match import Matcher
from pyg_match.datasets import HPatches
from pyg_match.datasets.hpatches import read_homography
from pyg_match.datasets.photo_pairs import read_pairs
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import load_weights, read_metadata
from pyg_match.training import TrainingConfig, checkpoint, export_matcher, load_config
from pyg_match.training.checkpoint import load_checkpoint, save_checkpoint
from pyg_match.training.config import DataConfig, LossConfig

SMALL = {"in_channels": 128, "hidden_channels": 8, "num_layers": 1, "heads": 2}
STATE = {key: value.contiguous() for key, value in GraphMatcher(**SMALL).state_dict().items()}
json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 300), st.floats(allow_nan=False), st.text(max_size=8)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=4,
)
SECTIONS = [(TrainingConfig, ""), (DataConfig, "data."), (LossConfig, "loss.")]
SETTINGS = [prefix + field.name for cls, prefix in SECTIONS for field in dataclasses.fields(cls)]
values = st.one_of(
    st.sampled_from(
        [
            "0",
            "-1",
            "1",
            "2.5",
            ".nan",
            ".inf",
            "-.inf",
            "1e3",
            "1e300",
            "true",
            "null",
            "[]",
            "{}",
            "''",
            "abc",
            "[1, 2]",
            "[640, 480]",
            "{a: 1}",
            "10000000000000000000000",
            "- x",
            "a: b: c",
            "[",
            "\x00",
            "1_000",
            "[{KNNGraph: {k: 4}}]",
            "[{KNNGraph: {k: x}}]",
            "aliked",
            "random:2",
            "all",
        ]
    ),
    st.text(max_size=6),
)


def folder(factory):
    return factory.getbasetemp()


@fuzz
@given(data=st.data())
def test_weights(data, tmp_path_factory):
    file, state = folder(tmp_path_factory) / "weights.safetensors", dict(STATE)
    metadata = {"config": SMALL, "extractor": "sift"}
    for key in data.draw(
        st.lists(st.sampled_from(["config", "extractor", "extractor_options", "graph", "x"]), max_size=2)
    ):
        metadata[key] = data.draw(json_values)
    if data.draw(st.booleans()):
        field = data.draw(
            st.sampled_from(["heads", "num_layers", "value_source", "layer_scales", "mask_mode", "nothing"])
        )
        metadata["config"] = {**SMALL, field: data.draw(json_values)}
    for key in data.draw(st.lists(st.sampled_from(sorted(STATE)), max_size=2)):
        changed = data.draw(tensors())
        state[key] = (
            torch.zeros(changed.shape, dtype=changed.dtype) if changed.is_meta else changed.contiguous()
        )
    save_file(state, file, {key: json.dumps(value) for key, value in metadata.items()})
    good, matcher = accepted(lambda: GraphMatcher.from_pretrained(file))
    if good:
        assert all(bool(torch.isfinite(value).all()) for value in matcher.state_dict().values())
    whole, made = accepted(lambda: Matcher.from_pretrained(file))
    assert good or not whole
    if whole:
        assert made.matcher.config.in_channels == made.extractor.descriptor_dim


@fuzz
@given(data=st.data())
def test_damaged_weights(data, tmp_path_factory):
    file = folder(tmp_path_factory) / f"damaged.{data.draw(st.sampled_from(['safetensors', 'pth', 'pt']))}"
    if file.suffix == ".safetensors":
        GraphMatcher(**SMALL).save(file)
    else:
        torch.save(STATE, file)
    content, before = bytearray(file.read_bytes()), load_weights(file)
    start = data.draw(st.sampled_from([len(content) // 2, len(content) * 3 // 4, 0]))
    content[data.draw(st.integers(start, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    file.write_bytes(content[:length])
    good, after = accepted(lambda: load_weights(file))
    accepted(lambda: read_metadata(file))
    if good and file.suffix == ".safetensors":
        assert set(before) == set(after) and all(torch.equal(before[key], after[key]) for key in before)


@fuzz
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_number_of_saved_weights(place, bit, tmp_path_factory):
    file = folder(tmp_path_factory) / "flipped.safetensors"
    GraphMatcher(**SMALL).save(file)
    content = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header + int(place * (len(content) - header))] ^= 1 << bit
    file.write_bytes(content)
    assert not accepted(lambda: load_weights(file))[0]


@fuzz
@given(
    name=st.one_of(st.text(max_size=20), junk, st.sampled_from(["a" * 5000, "/", ".", "x.pth", "~", "\0"]))
)
def test_names_of_weights(name):
    assert (
        not accepted(lambda: load_weights(name))[0] and not accepted(lambda: Matcher.from_pretrained(name))[0]
    )


@fuzz
@given(data=st.data())
def test_exports(data, tmp_path_factory):
    source, target = (folder(tmp_path_factory) / f"{name}.safetensors" for name in ("source", "target"))
    target.unlink(missing_ok=True)
    source.write_bytes(save(STATE, {"config": json.dumps(SMALL)}))
    names = ["filter_threshold", "temperature", "matchability_temperature", "graph"]
    options = {name: data.draw(numbers) for name in data.draw(st.lists(st.sampled_from(names), max_size=2))}
    half = data.draw(st.booleans())
    good, _ = accepted(lambda: export_matcher(source, target, half=half, **options))
    assert good is target.exists()
    if good:
        state = GraphMatcher.from_pretrained(target).state_dict()
        assert all(bool(torch.isfinite(value).all()) for value in state.values())


@fuzz
@given(
    changes=st.lists(
        st.tuples(st.sampled_from([*SETTINGS, "stepz", "data.x", "", "loss"]), values), max_size=2
    )
)
def test_settings(changes):
    good, config = accepted(
        lambda: load_config("scratch-small", [f"{key}={value}" for key, value in changes])
    )
    if not good:
        return
    for section in (config, config.data, config.loss):
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            if isinstance(value, float):
                assert math.isfinite(value), field.name
    assert config.steps > 0 and 0 <= config.seed < 2**63 and config.data.num_workers >= 0


@fuzz
@given(
    text=st.one_of(
        st.text(max_size=40).map(str.encode), st.binary(max_size=40), st.just("steps: 3".encode("utf-16"))
    )
)
def test_files_of_settings(text, tmp_path_factory):
    file = folder(tmp_path_factory) / "settings.yaml"
    file.write_bytes(text)
    good, config = accepted(lambda: load_config(file))
    assert not good or isinstance(config, TrainingConfig)


@fuzz
@given(data=st.data())
def test_checkpoints(data, tmp_path_factory):
    file = folder(tmp_path_factory) / "last.ckpt"
    names = checkpoint._PARTS
    state = {name: {"w": torch.arange(40.0)} for name in names}
    save_checkpoint(file, state)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 2))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    file.write_bytes(content[:length])
    good, after = accepted(lambda: load_checkpoint(file))
    if good:
        assert set(after) == set(names)
        assert all(
            list(part) == ["w"] and torch.equal(part["w"], torch.arange(40.0)) for part in after.values()
        )


@fuzz
@given(data=st.data())
def test_sequences(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("sequence")
    words = st.sampled_from(
        ["1 0 0 0 1 0 0 0 1", "1 0 0 0 1 0 0 0 0", "", "nan " * 9, "x", "1 " * 9, "1 0 0 0 1 0 0 0 1e400"]
    )
    for number in (1, 2):
        Image.new("RGB", (4, 4)).save(root / f"{number}.png")
    (root / "H_1_2").write_text("1 0 0 0 1 0 0 0 1")
    for name in data.draw(
        st.lists(
            st.sampled_from(["02.png", "3.png", "2.jpg", "H_1_3", "H_1_02", "x", "H_1_2", "1"]), max_size=3
        )
    ):
        if data.draw(st.integers(0, 5)) == 0 and not (root / name).exists():
            (root / name).mkdir()
        elif (root / name).is_dir():
            continue
        elif name.startswith("H"):
            (root / name).write_bytes(data.draw(st.one_of(words.map(str.encode), st.binary(max_size=9))))
        else:
            Image.new("RGB", (4, 4)).save(root / name, "png")
    good, found = accepted(lambda: HPatches(root))
    if good:
        twice = {"02.png", "2.jpg", "H_1_02"} & {path.name for path in root.iterdir() if path.is_file()}
        assert not twice, "of two files of one number, one was taken"
        numbers_seen = [pair.k for pair in found]
        assert len(set(numbers_seen)) == len(numbers_seen) and 2 in numbers_seen
        for pair in found:
            assert pair.pathk.is_file() and bool(torch.isfinite(pair.homography).all())
            assert abs(float(torch.linalg.det(pair.homography))) > 0
    accepted(lambda: read_homography(root / "H_1_2"))


@fuzz
@given(text=st.text(alphabet="ab./ \t\nx#", max_size=30))
def test_lists_of_pairs(text, tmp_path_factory):
    root = folder(tmp_path_factory)
    for name in "ab":
        (root / name).write_bytes(b"")
    (root / "pairs.txt").write_text(text)
    good, pairs = accepted(lambda: read_pairs(root / "pairs.txt"))
    if good:
        assert pairs and all(one != other and one.is_file() and other.is_file() for one, other in pairs)
