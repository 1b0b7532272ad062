"""What a run tells: a bar or lines on the terminal, log.jsonl, TensorBoard."""

import contextlib
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyg_match.data import KeypointPair
from pyg_match.datasets import WarpedPair
from pyg_match.datasets.progress import rich_bar
from pyg_match.files import write_whole
from pyg_match.match_result import MatchResult
from pyg_match.metrics import reprojection_error
from pyg_match.nn import GraphMatcher
from pyg_match.training.config import TrainingConfig
from pyg_match.training.validation import cpu_matches
from pyg_match.visualization import attention_span, plot_matches, record_attention

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Monitor:
    """Write the course of a run.

    Args:
        out: Folder of the run.
        config: Settings of the run.
        step: The step that the run goes on from; what was written about later ones is dropped.
        enabled: Whether to write anything; only one process of a run should.
    """

    def __init__(self, out: Path, config: TrainingConfig, step: int, enabled: bool = True) -> None:
        self.path = out / "log.jsonl"
        self.enabled = enabled
        self.steps = config.steps
        self._bar: Any = None
        self._writer: Any = None
        if not enabled:
            return
        # What a run wrote that was killed before its first checkpoint is written anew.
        # A finished run that is called again calibrates again.
        records = [
            record
            for record in read_json_lines(self.path)
            if step > 0 and record["step"] <= step and "calibration" not in record
        ]
        write_whole(self.path, "".join(json.dumps(record) + "\n" for record in records).encode())
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else 0)
        if sys.stderr.isatty():
            self._bar = rich_bar()
            self._bar.start()
            self._task = self._bar.add_task("training", total=self.steps, completed=step)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif self.enabled:
            print(text, file=sys.stderr, flush=True)

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def log(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Write the means of the latest steps."""
        self._write("train", step, seconds, values)
        if self._bar is None:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self.say(f"step {step}/{self.steps}  {seconds:.0f} s  {shown}")
        else:
            self._bar.update(self._task, description=f"loss {values['total']:.3f}")

    def log_validation(self, step: int, seconds: float, metrics: dict[str, float]) -> None:
        """Write what validation found."""
        self._write("validation", step, seconds, metrics)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.say(f"validation after step {step}  {shown}")

    def log_calibration(self, step: int, seconds: float, found: dict[str, Any]) -> None:
        """Write what calibration has chosen; two numbers are those of the matcher and of its teacher."""
        if self.enabled:
            append_json(self.path, {"step": step, "seconds": round(seconds, 3), "calibration": found})
        shown = "  ".join(f"{name} {value}" for name, value in found.items())
        self.say(f"calibration  {shown}")

    def draw(self, step: int, matcher: GraphMatcher, pairs: Sequence[KeypointPair]) -> None:
        """Draw the matches of the first pair, if its images are known, and note how far attention reaches in it.

        Args:
            step: Number of steps so far.
            matcher: The matcher.
            pairs: Pairs; those with a method ``render``, as :class:`~pyg_match.datasets.SyntheticHomographies` has
                it, know their images.
        """
        if not self.enabled:
            return
        for layer, span in enumerate(spans(matcher, pairs[0])):
            self._writer.add_scalar(f"attention_span/layer{layer}", span, step)
        render = getattr(pairs, "render", None)
        if render is not None:
            self._writer.add_figure("matches", match_figure(matcher, pairs[0], render(0)), step)
        self._writer.flush()

    def close(self) -> None:
        """Finish writing."""
        if self._bar is not None:
            self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def _write(self, kind: str, step: int, seconds: float, values: dict[str, float]) -> None:
        if not self.enabled:
            return
        append_json(self.path, {"step": step, "seconds": round(seconds, 3), kind: values})
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()


@torch.no_grad()
def spans(matcher: GraphMatcher, pair: KeypointPair) -> list[float]:
    """The mean distance in pixels that self-attention reaches over, for each layer.

    Args:
        matcher: The matcher.
        pair: The pair; one whose images are complete graphs gives an empty list, as their edges are not listed.
    """
    if not ("edge_index" in pair or "window" in pair) or pair.pos.size(0) == 0:
        return []
    moved = copy.copy(pair).to(next(matcher.parameters()).device)
    with record_attention(matcher) as record:
        matcher(moved)
    return attention_span(record, moved.pos).mean(1).tolist()


@torch.no_grad()
def match_figure(matcher: GraphMatcher, pair: KeypointPair, views: WarpedPair) -> "Figure":
    """The matches of a pair, right ones (3 px) in blue."""
    matches, scores = cpu_matches(matcher, pair)
    count0 = int(pair.num_keypoints[0, 0])
    sizes = [(int(width), int(height)) for width, height in pair.image_size.tolist()]
    result = MatchResult(pair.pos[:count0], pair.pos[count0:], matches, scores, sizes[0], sizes[1])
    correct = torch.zeros(len(matches), dtype=torch.bool)
    if not bool(views.homography.isnan().any()):  # which views of different photos have not
        correct = reprojection_error(result.points0, result.points1, views.homography) < 3
    return plot_matches(views.image0, views.image1, result, correct=correct.numpy())


def append_json(path: str | Path, record: dict[str, Any]) -> None:
    """Append a record as one line, in a single write."""
    line = json.dumps(record).encode() + b"\n"
    with open(path, "ab", buffering=0) as file:
        file.write(line)


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file of :func:`append_json`, without a line that was cut off."""
    records = []
    path = Path(path)
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records
