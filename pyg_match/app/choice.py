"""The pair that a command starts with."""

from pathlib import Path
from typing import Optional

from pyg_match.app.exploration import PairChoice
from pyg_match.app.settings import Limits
from pyg_match.app.uploads import read_upload
from pyg_match.files import user_path
from pyg_match.weight_registry import check_matcher


def starting_choice(
    image0: Optional[Path], image1: Optional[Path], weights: str, max_keypoints: int, limits: Limits
) -> PairChoice:
    """The pair to start with, checked before anything is loaded.

    Raises:
        ValueError: If there is one image only, an image is refused, or the weights are unknown.
        FileNotFoundError: If there is no such file.
    """
    check_matcher(weights)
    if image0 is None:
        return PairChoice(None, weights, max_keypoints)
    if image1 is None:
        raise ValueError("give two images or none, got one")
    image0, image1 = user_path(image0), user_path(image1)
    for path in (image0, image1):
        read_upload(path, limits, str(path))
    return PairChoice((str(image0), str(image1)), weights, max_keypoints)
