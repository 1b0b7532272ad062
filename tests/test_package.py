import subprocess
import sys

import pytest

import pyg_match


def test_public_names():
    for name in pyg_match.__all__:
        assert getattr(pyg_match, name) is not None
    assert set(pyg_match.__all__) <= set(dir(pyg_match))
    assert pyg_match.transforms.KNNGraph
    assert pyg_match.nn.GraphMatcher
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pyg_match.nothing


def test_import_drags_nothing_in():
    """Layers, transforms and data load neither detectors, figures, compilers, servers nor trainers."""
    script = (
        "import sys, torch_geometric.nn; before = set(sys.modules);"
        "import pyg_match, pyg_match.nn, pyg_match.transforms, pyg_match.data, pyg_match.ops;"
        "heavy = ['matplotlib', 'cv2', 'kornia', 'numba', 'llvmlite', 'typer', 'rich', 'poselib', 'bokeh'];"
        "heavy += ['lightning_fabric', 'h5py', 'pycolmap', 'ray', 'sklearn'];"
        "print([name for name in heavy if name in set(sys.modules) - before])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
