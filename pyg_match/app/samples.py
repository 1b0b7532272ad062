"""The pair that the page starts with."""

from torch import Tensor

from pyg_match.datasets import WarpedPair, warped_pair
from pyg_match.features import load_image


def sample_pair(seed: int = 4) -> WarpedPair:
    """A portrait that comes with matplotlib, and a warped and relit copy of it.

    The stars and stripes of the flag behind it repeat, which is what makes matching hard.

    Args:
        seed: Chooses the homography and the lighting.
    """
    from matplotlib.cbook import get_sample_data

    photo: Tensor = load_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
    return warped_pair(photo, seed=seed, perspective=0.1, rotation=20.0, scale=1.2, lighting=0.5)
