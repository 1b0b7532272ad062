"""The explorer of one pair, in a notebook or as a file."""

import copy
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import torch
from torch import Tensor

from pyg_match.app.content import Looks, drawn, of_pair, of_setting, start_of
from pyg_match.app.packing import pack
from pyg_match.app.truth import Truth
from pyg_match.arrays import ArrayLike
from pyg_match.data import KeypointPair
from pyg_match.data.keypoint_pair import without_edges
from pyg_match.features.image import ImageLike
from pyg_match.files import user_path, write_whole
from pyg_match.visualization import AttentionRecord, LayerMatches

_HEIGHT = 1000  # pixels of a cell of a notebook


class View(NamedTuple):
    """A pair matched with one setting.

    Attributes:
        record: Its attention.
        found: Its matches after each layer, or after the last one only.
        setting: What tells this setting from others.
        weights: What the weights are called.
    """

    record: AttentionRecord
    found: LayerMatches
    setting: str
    weights: str


class Explorer:
    """A page on one pair of images, matched with one setting or with two; :func:`explore` makes it.

    In a notebook it shows itself as the last line of a cell. Everything that the page does it does in the browser, so
    that a notebook or file needs neither Python nor a network to be looked at.
    """

    def __init__(
        self,
        pair: KeypointPair,
        view: View,
        images: list[dict[str, str]],
        names: tuple[str, str],
        truth: Optional[ArrayLike] = None,
        looks: Optional[Looks] = None,
    ) -> None:
        known = pair.get("homography")
        if truth is None and pair.y is None and known is not None and bool(known.isfinite().all()):
            truth = known.view(3, 3)
        self._pair = without_edges(pair).cpu()
        self._pair.y = pair.y
        self._views = [view]
        self._images = images
        self._names = names
        self._truth = Truth.of(self._pair, view.found.matches[-1], truth)
        self._looks = Looks.of(self._pair) if looks is None else looks

    def compare(self, other: "Explorer") -> "Explorer":
        """Put another setting beside this one; both are judged by the truth of this one.

        Args:
            other: The same keypoints, matched with another setting or other weights.

        Raises:
            ValueError: If its keypoints are others, or more than two settings would be compared.
        """
        if self._pair.pos.shape != other._pair.pos.shape or not torch.equal(self._pair.pos, other._pair.pos):
            raise ValueError(
                f"both settings must have the same keypoints, got {self._pair.num_keypoints[0].tolist()} "
                f"and {other._pair.num_keypoints[0].tolist()} with their positions"
            )
        if len(self._views) + len(other._views) > 2:
            raise ValueError("two settings can be compared, got more")
        both = copy.copy(self)
        both._views = [*self._views, *other._views]
        return both

    def content(self) -> tuple[dict[str, Any], list[str]]:
        """What the page shows, as plain values, and the attention of each setting, packed."""
        packed = pack([view.record for view in self._views], self._pair.pos.size(0))
        content = of_pair(self._pair, self._looks, self._images, self._names, self._truth)
        content["settings"] = [
            of_setting(self._pair, view.found, self._truth, one, view.setting, view.weights)
            for view, one in zip(self._views, packed, strict=True)
        ]
        first = content["settings"][0]
        content["start"] = {"node": start_of(self._looks, first), "layer": first["layers"] // 3}
        return content, [one.text for one in packed]

    def html(self) -> str:
        """The page, which needs nothing else.

        Raises:
            ModuleNotFoundError: If Bokeh is not installed.
        """
        from pyg_match.app.figures import standalone

        content, attention = self.content()
        return standalone(
            json.dumps(content, allow_nan=False), attention, f"{' – '.join(self._names)} · pyg_match"
        )

    def save(self, path: Union[str, Path]) -> None:
        """Write the page to one file, whole or not at all, that works offline.

        Args:
            path: The file, ending in ``.html``.

        Raises:
            ValueError: If the ending is another one.
            FileNotFoundError: If its folder does not exist.
            OSError: If it cannot be written.
            ModuleNotFoundError: If Bokeh is not installed.
        """
        write_whole(check_target(path), self.html().encode())

    def show(self) -> None:
        """Show the page in a notebook.

        Raises:
            ModuleNotFoundError: If Bokeh or IPython is not installed.
        """
        from IPython.display import display

        display(self)

    def _repr_html_(self) -> str:
        style = f"width: 100%; height: {_HEIGHT}px; border: 0"
        return f'<iframe srcdoc="{html.escape(self.html())}" style="{style}" title="pyg_match explorer"></iframe>'

    def __repr__(self) -> str:
        settings = ", ".join(repr(view.setting) for view in self._views)
        return f"{self.__class__.__name__}({self._pair.num_keypoints[0].tolist()}, settings=[{settings}])"


def explore(
    pair: KeypointPair,
    record: AttentionRecord,
    images: Optional[Sequence[Optional[ImageLike]]] = None,
    *,
    matches: Optional[Tensor] = None,
    scores: Optional[Tensor] = None,
    truth: Optional[ArrayLike] = None,
    names: Sequence[str] = ("image A", "image B"),
    setting: str = "",
    weights: str = "",
) -> Explorer:
    r"""See what attention does with a pair: hover over a keypoint, click to pin it, filter the matches.

    Of the recorded coefficients the page keeps the largest, as many as fit below 15 MB at up to 2,048
    keypoints an image, and says how many.

    Args:
        pair: One pair.
        record: What :func:`~pyg_match.visualization.record_attention` recorded of it. ``top=16`` keeps that fast.
        images: Its images, anything that :func:`pyg_match.features.load_image` reads; drawn without them otherwise.
        matches: The match of each keypoint, an index in the other image or -1, as a
            :class:`~pyg_match.nn.GraphMatcher` gives it. With a row for each layer, from
            :func:`~pyg_match.visualization.layer_matches`, the page also says when a match was found.
        scores: Their probabilities, of the same shape; 1 by default.
        truth: What matches are judged by: true partners in the manner of ``pair.y``, or the homography from image 0 to
            image 1. By default that of the pair, or else a homography or fundamental matrix fitted to the matches.
        names: What the images are called.
        setting: What tells this setting from others, such as ``"knn k=16"``.
        weights: What the weights are called.

    Shapes:
        - **matches**, **scores:** :math:`(N)` or :math:`(L, N)`
        - **truth:** :math:`(N)` or :math:`(3, 3)`

    Raises:
        TypeError: If ``record`` is none.
        ValueError: If it is a batch, nothing of it was recorded, or a shape does not fit.

    Example:
        >>> from pyg_match.app import explore
        >>> from pyg_match.data import KeypointSet
        >>> from pyg_match.nn import GraphMatcher
        >>> from pyg_match.visualization import record_attention
        >>> sets = [
        ...     KeypointSet(pos=torch.rand(n, 2) * 64, x=torch.randn(n, 8), image_size=(64, 64))
        ...     for n in (5, 7)
        ... ]
        >>> pair = KeypointPair.from_sets(*sets)
        >>> matcher = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2)
        >>> with record_attention(matcher, top=16) as record, torch.no_grad():
        ...     output = matcher(pair)
        >>> explore(pair, record, matches=output.matches, scores=output.scores, setting="complete")
        Explorer([5, 7], settings=['complete'])
    """
    if not isinstance(record, AttentionRecord):
        raise TypeError(f"'record' must be an AttentionRecord, got {type(record).__name__}")
    if tuple(pair.num_keypoints.shape) != (1, 2):
        raise ValueError(f"expected one pair, got a batch of {pair.num_keypoints.view(-1, 2).size(0)}")
    if record.num_keypoints.tolist() != pair.num_keypoints.tolist():
        raise ValueError(
            f"the record is of pairs with {record.num_keypoints.tolist()} keypoints, "
            f"the pair has {pair.num_keypoints.tolist()}"
        )
    images = (None, None) if images is None else images
    if not isinstance(images, (list, tuple)) or len(images) != 2 or len(names) != 2:
        seen = len(images) if isinstance(images, (list, tuple)) else type(images).__name__
        raise ValueError(f"expected two images and two names, got {seen} and {len(names)}")
    looked = [drawn(image) for image in images]
    view = View(record, _found(pair, matches, scores), setting, weights)
    return Explorer(pair, view, looked, (str(names[0]), str(names[1])), truth)


def check_target(path: Union[str, Path]) -> Path:
    """A file that a page can be written to.

    Raises:
        ValueError: If it does not end in ``.html``.
        FileNotFoundError: If its folder does not exist.
    """
    target = user_path(path)
    if target.suffix.lower() != ".html":
        raise ValueError(f"a page is saved as .html, got {target.name!r}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder '{target.parent}' to write {target.name} to")
    return target


def _found(pair: KeypointPair, matches: Optional[Tensor], scores: Optional[Tensor]) -> LayerMatches:
    num_nodes = pair.pos.size(0)
    if matches is None:
        matches, scores = torch.full((num_nodes,), -1), torch.zeros(num_nodes)
    scores = (matches >= 0).float() if scores is None else scores
    for name, values in (("matches", matches), ("scores", scores)):
        if values.dim() not in (1, 2) or values.size(-1) != num_nodes or values.shape[:-1] == (0,):
            expected = f"[{num_nodes}] or [L, {num_nodes}]"
            raise ValueError(f"'{name}' must have shape {expected}, got {list(values.shape)}")
    if matches.shape != scores.shape:
        raise ValueError(f"'scores' must have shape {list(matches.shape)}, got {list(scores.shape)}")
    counts = pair.num_keypoints[0]
    limit = counts.flip(0).repeat_interleave(counts).to(matches.device)
    if bool(((matches >= limit) | (matches < -1)).any()):
        raise ValueError("'matches' must be -1 or number keypoints of the other image")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("'scores' must be finite")
    rows = (-1, num_nodes) if num_nodes > 0 else (1, 0)
    return LayerMatches(matches.detach().cpu().long().view(rows), scores.detach().cpu().float().view(rows))
