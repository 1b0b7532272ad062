"""An explorer of what attention does with a pair of images: in a notebook, as a file, or served on this machine."""

from pyg_match.app.exploration import Exploration, PairChoice
from pyg_match.app.explorer import Explorer, explore
from pyg_match.app.settings import Limits, Setting

__all__ = ["Exploration", "Explorer", "Limits", "PairChoice", "Setting", "explore"]
