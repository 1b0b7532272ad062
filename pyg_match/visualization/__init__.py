"""Figures."""

from pyg_match.visualization.graphs import draw_graph, plot_graph
from pyg_match.visualization.matches import plot_matches

__all__ = ["draw_graph", "plot_graph", "plot_matches"]
