"""The training loop, on one CPU as on many devices and nodes."""

import copy
import io
import math
import os
import random
import signal
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from pyg_match.data import KeypointPair
from pyg_match.datasets.cached_pairs import check_photos
from pyg_match.files import is_file, sweep, user_path, write_whole
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import detector_of
from pyg_match.training.checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state
from pyg_match.training.config import TrainingConfig
from pyg_match.training.data import make_datasets
from pyg_match.training.monitor import Monitor
from pyg_match.training.objective import Objective, supervised_layers
from pyg_match.training.schedule import BatchSampler, learning_rate, update_average
from pyg_match.training.validation import validate

Pairs = Sequence[KeypointPair]

# Settings that change nothing in the course of training; a run may go on with others.
_FREE = ("log_every", "validate_every", "checkpoint_every", "checkpoint_minutes")


def train(
    config: TrainingConfig,
    images: Union[str, os.PathLike[str], None],
    out: Union[str, os.PathLike[str]],
    datasets: Optional[tuple[Pairs, Pairs]] = None,
    accelerator: str = "auto",
    devices: Union[int, str] = "auto",
    strategy: str = "auto",
    num_nodes: int = 1,
) -> Path:
    """Train a matcher. A run that was interrupted, however roughly, goes on where it was.

    The folder gets ``matcher.safetensors``, the averaged weights at the end, for
    :meth:`pyg_match.nn.GraphMatcher.from_pretrained`; ``best.safetensors``, those with the best recall on the
    validation pairs; ``last.ckpt``, everything needed to go on; ``log.jsonl`` and TensorBoard's files.

    On the CPU, the result of an interrupted run equals that of an uninterrupted one bit by bit. SIGTERM and Ctrl-C
    end a run after the current step and a checkpoint.

    Args:
        config: All settings.
        images: Folder of photos, of which pairs are made; see :class:`~pyg_match.datasets.SyntheticHomographies`.
        out: Folder of the run.
        datasets: Pairs with labels and edges to train and to validate on instead of those made from ``images``.
        accelerator: ``"cpu"``, ``"gpu"`` or ``"auto"``, which is the CPU on Apple's machines.
        devices: Number of devices of a node.
        strategy: How processes work together, such as ``"ddp"``; see Lightning Fabric.
        num_nodes: Number of machines.

    Returns:
        The file of the trained matcher; the checkpoint if the run was asked to stop before its end.

    Raises:
        ValueError: If the folder holds a run with other settings, data or settings do not fit, or there is no such
            hardware.
        FloatingPointError: If the loss or its gradient is not finite; the batch is written to the folder before.
        OSError: If a file cannot be written; earlier checkpoints are intact then.
    """
    if accelerator == "auto" and torch.backends.mps.is_available():
        accelerator = "cpu"  # homographies and sums are in double precision, which MPS has not
    hardware: dict[str, Any] = {
        "accelerator": accelerator,
        "devices": devices,
        "strategy": strategy,
        "num_nodes": num_nodes,
    }
    try:
        fabric = Fabric(**hardware, precision=config.precision)
    except (RuntimeError, TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in hardware.items())
        raise ValueError(f"Lightning Fabric cannot run on {given}: {error}") from None
    arguments = (config, images, user_path(out), datasets)
    run: Any = _run
    path: Path = fabric.launch(run, *arguments)
    return path


def _run(
    fabric: Fabric,
    config: TrainingConfig,
    images: Union[str, os.PathLike[str], None],
    out: Path,
    datasets: Optional[tuple[Pairs, Pairs]],
) -> Path:
    _check_folder(config, images, out)
    out.mkdir(parents=True, exist_ok=True)
    if fabric.is_global_zero:
        sweep(out)
    made_here = False
    if datasets is None:
        if images is None:
            raise ValueError("training needs a folder of images or datasets, got neither")
        check_detectors(config)
        datasets = make_datasets(config, images, config.data.cache or out / "features")
        made_here = True
    trainer = Trainer(fabric, config, out, *datasets)
    if made_here:
        trainer.check_checkpoint()  # what does not fit is said before keypoints are found
        if not trainer.checkpoint.is_file():
            check_photos(sorted({path for dataset in datasets for path in getattr(dataset, "paths", ())}))
        state = random_state()
        with fabric.rank_zero_first(local=True):
            for dataset in datasets:
                dataset.prepare(progress=fabric.is_global_zero)  # type: ignore[attr-defined]
        set_random_state(state)
        _check_matches(*datasets)
    return trainer.run()


def _check_folder(config: TrainingConfig, images: Union[str, os.PathLike[str], None], out: Path) -> None:
    """Refuse a folder in which a run would write over what it reads.

    Raises:
        ValueError: If it holds the photos, or the weights or the teacher under the name of a file that a run writes.
    """
    folder = images if isinstance(images, (str, os.PathLike)) else ""
    if out.is_dir() and os.path.isdir(folder) and out.samefile(folder):
        raise ValueError(f"the run would be written among the photos in {out}; choose another folder")
    written = [out / name for name in ("matcher.safetensors", "best.safetensors", "last.ckpt")]
    for role, name in (("weights", config.weights), ("teacher", config.teacher)):
        if name is not None and is_file(name):
            for file in written:
                if file.is_file() and file.samefile(user_path(name)):
                    raise ValueError(f"the run would overwrite its {role} {file}; choose another folder")


def _check_matches(train_pairs: Pairs, valid_pairs: Pairs) -> None:
    """Refuse to train where there is nothing to match, and warn where there is nothing to judge by.

    Raises:
        ValueError: If no keypoint of any training pair has a partner.
    """
    for name, pairs in (("training", train_pairs), ("validation", valid_pairs)):
        if len(pairs) == 0 or any(bool((pairs[index].y >= 0).any()) for index in range(len(pairs))):
            continue
        problem = f"no keypoint of the {len(pairs)} {name} pairs has a partner; are photos blank, or views far apart?"
        if name == "training":
            raise ValueError(problem)
        warnings.warn(f"{problem} There is no recall to choose the best weights by", stacklevel=2)


class Trainer:
    """A training run: see :func:`train`.

    Args:
        fabric: Launched.
        config: All settings.
        out: Folder of the run.
        train_pairs: Pairs with labels and edges.
        valid_pairs: Pairs to validate on, with labels and edges.

    Raises:
        ValueError: If settings, weights and teacher do not fit each other, or a batch does not split evenly.
    """

    def __init__(
        self, fabric: Fabric, config: TrainingConfig, out: Path, train_pairs: Pairs, valid_pairs: Pairs
    ) -> None:
        self.fabric, self.config, self.out = fabric, config, out
        self.train_pairs, self.valid_pairs = train_pairs, valid_pairs
        self._sampler(0)
        torch.manual_seed(config.seed)
        np.random.seed(config.seed % (1 << 32))  # noqa: NPY002  (user code may draw from it)
        random.seed(config.seed)
        self.matcher = make_matcher(config).to(fabric.device)
        self.average = copy.deepcopy(self.matcher).requires_grad_(False).eval()
        teacher = None
        if config.teacher is not None and (config.loss.distill_assignment or config.loss.distill_descriptors):
            half = config.precision == "bf16-mixed"
            teacher = GraphMatcher.from_pretrained(config.teacher, bfloat16=half, assign_on_edges=False)
            teacher = teacher.requires_grad_(False).to(fabric.device)
        self.freeze_unused()
        parameters = [p for p in self.matcher.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
        )
        self.objective, self.optimizer = fabric.setup(
            Objective(self.matcher, config.loss, teacher, config.teacher_edges), optimizer
        )
        self.average.to(next(self.matcher.parameters()).dtype)  # as the precision of the run made it
        self.step, self.best, self.seconds = 0, -math.inf, 0.0
        self.sums: dict[str, float] = {}
        self.summed = 0  # steps that the sums are of
        self.asked = False  # to stop, by a signal to this process

    @property
    def checkpoint(self) -> Path:
        """The file that the run goes on from."""
        return self.out / "last.ckpt"

    def freeze_unused(self) -> None:
        """Switch off the gradient of heads that no loss reaches, which data-parallel training would wait for."""
        config, depth = self.config, self.matcher.config.num_layers
        if not config.loss.confidence or len(self.matcher.assignments) == 1:
            self.matcher.confidences.requires_grad_(False)
        if isinstance(config.loss.layers, str) and config.loss.layers.startswith("random"):
            return
        supervised = supervised_layers(config.loss.layers, depth, torch.Generator())
        for i in range(depth):
            if i not in supervised and len(self.matcher.assignments) > 1:
                self.matcher.assignments[i].requires_grad_(False)
                self.matcher.confidences[i].requires_grad_(False)

    def run(self) -> Path:
        """Train until the last step, or until asked to stop."""
        config = self.config
        resumed = self.checkpoint.is_file()
        if resumed:
            self.resume()
        handlers = self._listen()
        monitor = Monitor(self.out, config, self.step, enabled=self.fabric.is_global_zero)
        began, saved = time.monotonic() - self.seconds, time.monotonic()
        batches = self._batches()
        try:
            if not resumed:
                self._validate(monitor)
            stopping = False
            while self.step < config.steps and not stopping:
                found = self._train_step(batches)
                self.step += 1
                self.seconds = time.monotonic() - began
                for name, value in found.items():
                    self.sums[name] = self.sums.get(name, 0.0) + value
                self.summed += 1
                if self.step % config.log_every == 0 or self.step == config.steps:
                    means = {name: value / self.summed for name, value in self.sums.items()}
                    monitor.log(self.step, self.seconds, means)
                    self.sums, self.summed = {}, 0
                monitor.advance(self.step)
                last = self.step == config.steps
                if last or (config.validate_every and self.step % config.validate_every == 0):
                    self._validate(monitor)
                due = config.checkpoint_every and self.step % config.checkpoint_every == 0
                late = 0 < 60 * config.checkpoint_minutes < time.monotonic() - saved
                stopping, late = self._any_process(self.asked, late)
                if last or due or late or stopping:
                    self.save()
                    saved = time.monotonic()
            if self.step < config.steps:
                monitor.say(f"stopped after step {self.step}; run the same command to go on")
                return self.checkpoint
            return self._write_matcher("matcher.safetensors")
        finally:
            monitor.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def resume(self) -> None:
        """Go on from the checkpoint.

        Raises:
            ValueError: If it is damaged or belongs to a run with other settings or pairs.
        """
        state = load_checkpoint(self.checkpoint)
        self._check_identity(state["identity"])
        self.matcher.load_state_dict(state["matcher"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.sums = state["sums"]
        # Checkpoints of earlier versions do not tell it: log_every was the same from the start then.
        self.summed = state.get("summed", self.step % state["identity"]["log_every"])
        set_random_state(state["random"])

    def check_checkpoint(self) -> None:
        """Say whether the run can go on from the checkpoint, if there is one, without doing so.

        Raises:
            ValueError: As :meth:`resume`.
        """
        if self.checkpoint.is_file():
            self._check_identity(load_checkpoint(self.checkpoint)["identity"])

    def _check_identity(self, before: dict[str, Any]) -> None:
        # Checkpoints of earlier versions lack settings that came later, which stood as they stand by default.
        before["data"] = {"unrelated": 0.0, **before.get("data", {})}
        changed = sorted(
            key for key, value in self._identity().items() if key not in _FREE and before.get(key) != value
        )
        if changed:
            raise ValueError(
                f"{self.out} holds a run with other settings ({', '.join(changed)}); "
                "give the old ones to go on with it, or another folder"
            )

    def save(self) -> None:
        """Write the checkpoint."""
        self.fabric.barrier()
        if not self.fabric.is_global_zero:
            return
        save_checkpoint(
            self.checkpoint,
            {
                "identity": self._identity(),
                "matcher": self.matcher.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "step": self.step,
                "best": self.best,
                "seconds": self.seconds,
                "sums": self.sums,
                "summed": self.summed,
                "random": random_state(),
            },
        )

    def _identity(self) -> dict[str, Any]:
        """What a run must keep in order to go on."""
        values = asdict(self.config)
        values["data"] = {
            key: value for key, value in values["data"].items() if key not in ("cache", "num_workers")
        }
        values["data"]["size"] = list(values["data"]["size"])
        values["photos"] = [path.name for path in getattr(self.train_pairs, "paths", ())]
        values["pairs"] = len(self.train_pairs)
        return values

    def _sampler(self, start: int) -> BatchSampler:
        config, fabric = self.config, self.fabric
        return BatchSampler(
            start,
            config.steps,
            size=len(self.train_pairs),
            batch_size=config.batch_size,
            seed=config.seed,
            accumulate=config.accumulate,
            rank=fabric.global_rank,
            world=fabric.world_size,
        )

    def _batches(self) -> Any:
        loader: Any = DataLoader(
            self.train_pairs,  # type: ignore[arg-type]
            batch_sampler=self._sampler(self.step),
            collate_fn=Batch.from_data_list,
            num_workers=self.config.data.num_workers,
            generator=torch.Generator(),  # the global one must not be drawn from: it is part of the state
        )
        return iter(loader)

    def _train_step(self, batches: Any) -> dict[str, float]:
        config, fabric = self.config, self.fabric
        rate = learning_rate(
            self.step, config.steps, config.learning_rate, config.warmup, config.final_learning_rate
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + self.step) % (1 << 63))
        layers = supervised_layers(config.loss.layers, self.matcher.config.num_layers, generator)
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[dict[str, torch.Tensor]] = []
        seen = []
        for number in range(config.accumulate):
            batch = next(batches).to(fabric.device)
            seen.append(batch)
            with fabric.no_backward_sync(self.objective, enabled=number < config.accumulate - 1):
                found = self.objective(batch, layers)
                fabric.backward(found["total"] / config.accumulate)
            parts.append({name: value.detach() for name, value in found.items()})
        clipped: Any = fabric.clip_gradients(
            self.objective, self.optimizer, max_norm=config.clip or math.inf, error_if_nonfinite=False
        )
        norm = float(clipped)
        names = list(parts[0])
        values = torch.stack([torch.stack([part[name].double() for part in parts]).mean() for name in names])
        reduced: Any = fabric.all_reduce(values, reduce_op="mean")
        losses = dict(zip(names, reduced.tolist(), strict=True))
        # Scaled half-precision gradients overflow now and then, and their steps are left out by the scaler.
        finite = math.isfinite(norm) or config.precision == "16-mixed"
        if not (finite and math.isfinite(losses["total"])):
            self._dump(seen, losses, norm)
        self.optimizer.step()
        weights = [parameter.detach() for parameter in self.matcher.parameters()]
        if not bool(torch.isfinite(torch.stack(torch._foreach_norm(weights, math.inf))).all()):
            self._dump(seen, losses, norm, "the weights are not finite after step")
        if config.ema:
            update_average(self.average, self.matcher, config.ema, self.step)
        else:
            self.average.load_state_dict(self.matcher.state_dict())
        return {**losses, "gradient": norm, "learning_rate": rate}

    def _any_process(self, *wishes: bool) -> list[bool]:
        """For each wish whether some process has it: all must save, and stop, after the same step."""
        flags = torch.tensor([float(wish) for wish in wishes], device=self.fabric.device)
        reduced: Any = self.fabric.all_reduce(flags, reduce_op="sum")
        return [flag > 0 for flag in reduced.tolist()]

    def _dump(
        self,
        batches: list[Any],
        losses: dict[str, float],
        norm: float,
        problem: str = "the loss or its gradient is not finite in step",
    ) -> None:
        """Write what led to a loss, or to weights, that are not finite, and stop.

        Raises:
            FloatingPointError: Always.
        """
        path = self.out / f"not-finite-step{self.step}-process{self.fabric.global_rank}.pt"
        state = {
            "step": self.step,
            "losses": losses,
            "gradient": norm,
            "batches": [
                {
                    key: value.as_tensor() if hasattr(value, "as_tensor") else value
                    for key, value in batch.to_dict().items()
                    if isinstance(value, torch.Tensor)
                }
                for batch in batches
            ],
            "matcher": self.matcher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_whole(path, buffer.getvalue())
        shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        raise FloatingPointError(
            f"{problem} {self.step} ({shown}; gradient {norm:.4g}). The batch and the weights are in {path}; "
            "try a lower learning_rate or precision 32-true"
        )

    def _validate(self, monitor: Monitor) -> None:
        if self.fabric.is_global_zero and len(self.valid_pairs) > 0:
            metrics = validate(self.average, self.valid_pairs)
            monitor.log_validation(self.step, self.seconds, metrics)
            monitor.draw(self.step, self.average, self.valid_pairs)
            if metrics["recall"] > self.best:
                self.best = metrics["recall"]
                self._write_matcher("best.safetensors")
        self.fabric.barrier()

    def _write_matcher(self, name: str) -> Path:
        path = self.out / name
        if self.fabric.is_global_zero:
            data = self.config.data
            # How many keypoints are wanted is a question of its own where the matcher is used.
            options = {k: v for k, v in data.extractor_options.items() if k != "detection_threshold"}
            metadata = {"graph": self.config.graph, "extractor": data.extractor}
            self.average.save(path, metadata=metadata | ({"extractor_options": options} if options else {}))
        return path

    def _listen(self) -> dict[int, Any]:
        """Stop after the current step when asked to."""

        def stop(number: int, frame: Any) -> None:
            self.asked = True

        try:
            return {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread, where signals do not arrive
            return {}


def check_detectors(config: TrainingConfig) -> None:
    """Refuse weights and teachers of other keypoints than those of the data, which may be as wide.

    Raises:
        ValueError: If a detector differs. Weights that do not tell theirs pass.
    """
    for role, name in (("weights are", config.weights), ("teacher is", config.teacher)):
        detector = None if name is None else detector_of(name)
        if detector not in (None, config.data.extractor):
            raise ValueError(
                f"the {role} of {detector} keypoints, but 'data.extractor' is {config.data.extractor!r}"
            )


def make_matcher(config: TrainingConfig) -> GraphMatcher:
    """The matcher that a run starts with, in training mode.

    Raises:
        ValueError: If its settings do not fit the weights.
    """
    adaptive = {"depth_confidence": None, "width_confidence": None}  # every keypoint goes through every layer
    try:
        if config.weights is not None:
            return GraphMatcher.from_pretrained(config.weights, **{**config.matcher, **adaptive}).train()
        return GraphMatcher(**{**config.matcher, **adaptive}).train()
    except TypeError as error:
        raise ValueError(f"'matcher': {error}") from None
