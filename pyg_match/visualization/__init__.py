"""Figures, and what they show: attention, difficulty and repetition."""

from pyg_match.visualization.attention import AttentionRecord, record_attention
from pyg_match.visualization.attention_figures import (
    AttentionPanel,
    draw_attention,
    plot_attention,
    plot_attention_comparison,
    plot_attention_grid,
    plot_attention_panels,
)
from pyg_match.visualization.canvas import Canvas
from pyg_match.visualization.coefficients import EdgeAttention
from pyg_match.visualization.curves import plot_layer_curves
from pyg_match.visualization.difficulty import (
    EASY,
    HARD,
    MEDIUM,
    UNKNOWN,
    Difficulty,
    LayerMatches,
    difficulty,
    layer_matches,
    nearest_neighbours,
)
from pyg_match.visualization.graphs import draw_graph, plot_graph
from pyg_match.visualization.keypoint_figures import plot_difficulty, plot_repeated_groups
from pyg_match.visualization.matches import plot_matches
from pyg_match.visualization.measures import attention_entropy, attention_mass, attention_span
from pyg_match.visualization.repetition import repeated_groups, repetition_score

__all__ = [
    "EASY",
    "HARD",
    "MEDIUM",
    "UNKNOWN",
    "AttentionPanel",
    "AttentionRecord",
    "Canvas",
    "Difficulty",
    "EdgeAttention",
    "LayerMatches",
    "attention_entropy",
    "attention_mass",
    "attention_span",
    "difficulty",
    "draw_attention",
    "draw_graph",
    "layer_matches",
    "nearest_neighbours",
    "plot_attention",
    "plot_attention_comparison",
    "plot_attention_grid",
    "plot_attention_panels",
    "plot_difficulty",
    "plot_graph",
    "plot_layer_curves",
    "plot_matches",
    "plot_repeated_groups",
    "record_attention",
    "repeated_groups",
    "repetition_score",
]
