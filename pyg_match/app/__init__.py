"""A page to explore what attention does with a pair of images; ``pyg-match explore`` opens it."""

from pyg_match.app.exploration import Exploration, PairChoice
from pyg_match.app.settings import Limits, Setting

__all__ = ["Exploration", "Limits", "PairChoice", "Setting"]
