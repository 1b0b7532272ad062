"""Figures."""

from pyg_match.visualization.matches import plot_matches

__all__ = ["plot_matches"]
