import hashlib

import pytest
import torch
from training_pairs import SPARSE
from typer.testing import CliRunner

from pyg_match import Matcher, pretrained
from pyg_match.cli import app
from pyg_match.nn import GraphMatcher
from pyg_match.training import export_matcher
from pyg_match.transforms import graph_from_recipe
from pyg_match.weight_registry import WeightFile


@pytest.fixture
def trained(tmp_path):
    matcher = GraphMatcher(in_channels=128, hidden_channels=16, num_layers=2, heads=2).eval()
    (tmp_path / "run").mkdir()
    matcher.save(tmp_path / "run" / "best.safetensors", metadata={"graph": SPARSE, "extractor": "rootsift"})
    return matcher, tmp_path / "run"


@pytest.mark.parametrize("source", ["", "best", "best.safetensors"])
def test_half_precision_comes_back_in_single(trained, tmp_path, source):
    matcher, folder = trained
    target = tmp_path / "small.safetensors"
    digest = export_matcher(folder / source, target, half=True)
    assert digest == hashlib.sha256(target.read_bytes()).hexdigest()
    assert target.stat().st_size < 0.7 * (folder / "best.safetensors").stat().st_size
    loaded = GraphMatcher.from_pretrained(target)
    assert loaded.config == matcher.config
    for key, value in matcher.state_dict().items():
        assert loaded.state_dict()[key].dtype == torch.float
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=1e-3, atol=1e-6)
    assert pretrained.read_metadata(target)["graph"] == SPARSE


def test_a_packaged_matcher_is_checked_and_brings_its_graph(trained, tmp_path, monkeypatch):
    file = tmp_path / "tiny-sparse.safetensors"
    result = CliRunner().invoke(app, ["export", str(trained[1]), str(file), "--half"])
    assert result.exit_code == 0, result.output
    digest = result.output.split()[-1]
    monkeypatch.setattr(pretrained, "_PACKAGED_FOLDER", tmp_path)
    entry = WeightFile("pyg-match", f"pyg_match/weights/{file.name}", digest, (), file.name)
    monkeypatch.setitem(pretrained.PACKAGED, "tiny-sparse", entry)
    assert "tiny-sparse" in pretrained.available()
    assert GraphMatcher.from_pretrained("tiny-sparse").config == trained[0].config
    matcher = Matcher.from_pretrained("tiny-sparse")
    assert "KNNGraph(k=4, loop=True)" in repr(matcher.transform)
    assert type(matcher.extractor).__name__ == "RootSIFT"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="is not the published 'tiny-sparse'"):
        GraphMatcher.from_pretrained("tiny-sparse")
    file.unlink()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(FileNotFoundError, match=r"'tiny-sparse' are not installed.*given by its path"):
        GraphMatcher.from_pretrained("tiny-sparse")


def test_a_threshold_of_its_own(trained, tmp_path):
    target = tmp_path / "strict.safetensors"
    command = ["export", str(trained[1]), str(target), "--filter-threshold"]
    result = CliRunner().invoke(app, [*command, "0.25"])
    assert result.exit_code == 0, result.output
    assert GraphMatcher.from_pretrained(target).config.filter_threshold == 0.25
    target.unlink()
    result = CliRunner().invoke(app, [*command, "1.5"])
    assert result.exit_code == 1 and "'filter_threshold' must be in [0, 1], got 1.5" in result.output
    assert not target.exists()


def test_a_graph_of_its_own(trained, tmp_path):
    target = tmp_path / "denser.safetensors"
    command = ["export", str(trained[1]), str(target), "--graph"]
    result = CliRunner().invoke(app, [*command, "[{KNNGraph: {k: 9}}, {CandidateEdges: {k: 8}}]"])
    assert result.exit_code == 0, result.output
    assert "KNNGraph(k=9, loop=False)" in repr(Matcher.from_pretrained(target).transform)
    target.unlink()
    for graph, message in (("[{KNN: {k: 3}}]", "unknown transform 'KNN'"), ("[{", "--graph is not YAML")):
        result = CliRunner().invoke(app, [*command, graph])
        assert result.exit_code == 1 and message in result.output
    assert not target.exists()


@pytest.mark.parametrize("option, layer", [("", "lin"), ("matchability-", "lin_matchability")])
def test_a_temperature(trained, tmp_path, option, layer):
    """Similarities, or logits of matchability, are divided by it; all else stays."""
    target = tmp_path / "surer.safetensors"
    command = ["export", str(trained[1]), str(target), f"--{option}temperature"]
    result = CliRunner().invoke(app, [*command, "0.25"])
    assert result.exit_code == 0, result.output
    before, after = trained[0], GraphMatcher.from_pretrained(target)
    x0, x1 = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0)).unbind()
    similar, matchable = (1, 4) if option else (4, 1)
    with torch.no_grad():
        for one, other in zip(before.assignments, after.assignments, strict=True):
            similarity = similar * one.lin(x0) @ one.lin(x1).t() / 16**0.5
            expected = similarity.log_softmax(0) + similarity.log_softmax(1)
            expected = (
                expected
                + (matchable * one.matchability(x0)).sigmoid().log()[:, None]
                + (matchable * one.matchability(x1)).sigmoid().log()
            )
            torch.testing.assert_close(other(x0, x1)[:-1, :-1], expected)
    changed = {f"assignments.{i}.{layer}.{name}" for i in range(2) for name in ("weight", "bias")}
    state = after.state_dict()
    assert {
        key for key, value in before.state_dict().items() if not torch.equal(value, state[key])
    } == changed
    target.unlink()
    for wrong in ("0", "-1", "nan", "inf"):
        result = CliRunner().invoke(app, [*command, wrong])
        name = f"{option}temperature".replace("-", "_")
        assert result.exit_code == 1 and f"'{name}' must be a positive number" in result.output
    assert not target.exists()


def test_assignment_along_edges(trained, tmp_path):
    source, files = str(trained[1]), [tmp_path / f"{name}.safetensors" for name in "ab"]
    for before, after, word in (
        (source, files[0], "--assign-on-edges"),
        (files[0], files[1], "--no-assign-on-edges"),
    ):
        result = CliRunner().invoke(app, ["export", str(before), str(after), word])
        assert result.exit_code == 0, result.output
    export_matcher(files[0], tmp_path / "c.safetensors")
    found = [GraphMatcher.from_pretrained(file).config for file in (*files, tmp_path / "c.safetensors")]
    assert [config.assign_on_edges for config in found] == [True, False, True]


@pytest.mark.parametrize("name", ["temperature", "matchability_temperature"])
def test_no_temperature_for_optimal_transport(tmp_path, name):
    file = tmp_path / "sinkhorn.safetensors"
    GraphMatcher(in_channels=8, hidden_channels=16, num_layers=1, heads=2, assignment="sinkhorn").save(file)
    message = f"'{name}' needs assignment='dual_softmax', but the matcher has 'sinkhorn'"
    with pytest.raises(ValueError, match=message):
        export_matcher(file, tmp_path / "out.safetensors", **{name: 0.5})
    assert not (tmp_path / "out.safetensors").exists()


def test_packaged_files_are_there():
    for name in pretrained.packaged():
        assert {"config", "graph", "extractor"} <= pretrained.read_metadata(name).keys()


def test_a_matcher_of_unknown_detector_is_refused(tmp_path):
    file = tmp_path / "plain.safetensors"
    GraphMatcher(in_channels=8, hidden_channels=16, num_layers=1, heads=2).save(file)
    with pytest.raises(ValueError, match="does not say which detector"):
        Matcher.from_pretrained(file)


def test_a_folder_is_exported_though_a_file_has_its_name(trained, tmp_path):
    matcher, folder = trained
    other = GraphMatcher(in_channels=128, hidden_channels=16, num_layers=1, heads=2)
    other.save(tmp_path / "run.safetensors")
    export_matcher(folder, tmp_path / "out.safetensors")
    assert GraphMatcher.from_pretrained(tmp_path / "out.safetensors").config == matcher.config
    for _ in range(2):
        export_matcher(folder, tmp_path / "run.safetensors")
    assert GraphMatcher.from_pretrained(tmp_path / "run.safetensors").config == matcher.config


def test_nothing_to_export(tmp_path):
    with pytest.raises(FileNotFoundError, match="no matcher at"):
        export_matcher(tmp_path / "nothing", tmp_path / "out.safetensors")


def test_a_graph_is_a_list_of_transforms():
    for recipe in (3, "KNNGraph", {"KNNGraph": {"k": 4}}):
        with pytest.raises(ValueError, match="a graph must be written as a list of transforms"):
            graph_from_recipe(recipe)


@pytest.mark.parametrize("name", ["matcher", "matcher.pth", "matcher.pt"])
def test_files_that_could_not_be_loaded_are_not_written(trained, tmp_path, name):
    matcher, folder = trained
    for write in (lambda file: export_matcher(folder, file), matcher.save):
        with pytest.raises(ValueError, match=f"saved as .safetensors, got '{name}'"):
            write(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_run_that_did_not_validate_has_its_last_matcher(trained, tmp_path):
    _, folder = trained
    (folder / "best.safetensors").rename(folder / "matcher.safetensors")
    export_matcher(folder, tmp_path / "last.safetensors")
    assert (tmp_path / "last.safetensors").is_file()
