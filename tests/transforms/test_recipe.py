"""Recipes of graphs."""

import pytest
from torch_geometric.transforms import BaseTransform

from pyg_match import transforms


def test_recipes_know_all_transforms():
    public = {name: getattr(transforms, name) for name in transforms.__all__}
    wanted = [
        name for name, item in public.items() if isinstance(item, type) and issubclass(item, BaseTransform)
    ]
    with pytest.raises(ValueError) as caught:
        transforms.graph_from_recipe([{"Nothing": None}])
    assert str(caught.value).endswith(f"expected one of {', '.join(sorted(wanted))}")
