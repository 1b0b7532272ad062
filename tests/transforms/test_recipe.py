"""Recipes of graphs."""

from torch_geometric.transforms import BaseTransform

from pyg_match import transforms
from pyg_match.transforms import recipe


def test_recipes_know_all_transforms():
    public = {getattr(transforms, name) for name in transforms.__all__}
    wanted = {item for item in public if isinstance(item, type) and issubclass(item, BaseTransform)}
    assert set(recipe._CLASSES) == wanted
