"""Arrows between modules point one way."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pyg_match

ROOT = Path(pyg_match.__file__).parent


def module_name(file):
    parts = ("pyg_match", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports():
    """Which modules of the package each of them imports, at any place in it, but for types only."""
    files = {module_name(file): file for file in ROOT.rglob("*.py")}
    found = {}
    for module, file in files.items():
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name if name in files else node.module for name in full}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        found[module] = {name for name in names if name in files and name != module}
    return found


def test_no_circles():
    try:
        order = list(TopologicalSorter(imports()).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None
    assert order.index("pyg_match.ops.csr") < order.index("pyg_match.nn.graph_matcher")
