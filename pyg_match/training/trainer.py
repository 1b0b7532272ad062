"""A training run: its state, its steps, and what it writes."""

import copy
import math
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from pyg_match.datasets.live_pairs import LivePairs
from pyg_match.pretrained import weights_digest
from pyg_match.training.calibration import calibrate
from pyg_match.training.checkpoint import (
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
    stop_with_evidence,
)
from pyg_match.training.config import TrainingConfig
from pyg_match.training.identity import check_identity, fingerprints, settings_of
from pyg_match.training.monitor import Monitor
from pyg_match.training.objective import related_pairs, supervised_layers
from pyg_match.training.result import with_result, write_matcher
from pyg_match.training.schedule import batch_indices, learning_rate, update_average
from pyg_match.training.start import Pairs, make_matcher, make_objective, make_teacher
from pyg_match.training.validation import validate


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
        self,
        fabric: Fabric,
        config: TrainingConfig,
        out: Path,
        train_pairs: Pairs | LivePairs,
        valid_pairs: Pairs,
    ) -> None:
        self.fabric, self.config, self.out = fabric, config, out
        self.checkpoint, self._best = out / "last.ckpt", out / "best.safetensors"
        self.train_pairs, self.valid_pairs = train_pairs, valid_pairs
        self._indices(0)  # says now what does not fit
        if config.calibrate and len(valid_pairs) == 0:
            raise ValueError("'calibrate' needs pairs to validate on, got none")
        torch.manual_seed(config.seed)
        np.random.seed(config.seed % (1 << 32))  # noqa: NPY002  (user code may draw from it)
        random.seed(config.seed)
        self.matcher = make_matcher(config).to(fabric.device)
        replace(self.matcher.config, **config.result)  # says now what does not fit
        self.average = copy.deepcopy(self.matcher).requires_grad_(False).eval()
        teacher = make_teacher(config)
        self.teacher = None if teacher is None else teacher.to(fabric.device).freeze()
        self.teacher_digest = weights_digest(config.teacher) if teacher and config.teacher else None
        self.freeze_unused()
        parameters = [p for p in self.matcher.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
        )
        self.objective, self.optimizer = fabric.setup(
            make_objective(config, self.matcher, self.teacher), optimizer
        )
        self.average.to(next(self.matcher.parameters()).dtype)  # as the precision of the run made it
        self.step, self.best, self.seconds = 0, -math.inf, 0.0
        self.sums: dict[str, float] = {}
        self.summed = 0  # steps that the sums are of
        self.asked = False  # to stop, by a signal to this process

    def freeze_unused(self) -> None:
        """Switch off the gradient of heads that no loss reaches, which data-parallel training would wait for."""
        loss, matcher = self.config.loss, self.matcher
        one_head = len(matcher.assignments) == 1
        if not loss.confidence or one_head:
            matcher.confidences.requires_grad_(False)
        if one_head or str(loss.layers).startswith("random"):
            return
        depth = matcher.config.num_layers
        for i in {*range(depth)} - {*supervised_layers(loss.layers, depth, torch.Generator())}:
            matcher.assignments[i].requires_grad_(False)
            matcher.confidences[i].requires_grad_(False)

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
                if self.fabric.is_global_zero:
                    self._best.unlink(missing_ok=True)  # of an earlier run
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
            return self._write_result(monitor)
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
        check_identity(self.out, state["identity"], self._identity())
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
            check_identity(self.out, load_checkpoint(self.checkpoint)["identity"], self._identity())

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
        values = settings_of(self.config)
        values["photos"] = [path.name for path in getattr(self.train_pairs, "paths", ())]
        values["pairs"] = len(self.train_pairs)
        digests = {
            "train_fingerprints": fingerprints(self.train_pairs),
            "valid_fingerprints": fingerprints(self.valid_pairs),
            "teacher_digest": self.teacher_digest,
        }
        return values | {name: digest for name, digest in digests.items() if digest}

    def _indices(self, step: int) -> list[list[int]]:
        """The pairs of a step, for each part of the share of this process."""
        config, fabric = self.config, self.fabric
        return batch_indices(
            step,
            len(self.train_pairs),
            config.batch_size,
            config.seed,
            config.accumulate,
            fabric.global_rank,
            fabric.world_size,
        )

    def _batches(self) -> Any:
        loader: Any = DataLoader(
            self.train_pairs,  # type: ignore[arg-type]
            batch_sampler=(
                part for step in range(self.step, self.config.steps) for part in self._indices(step)
            ),
            collate_fn=list if isinstance(self.train_pairs, LivePairs) else Batch.from_data_list,
            num_workers=self.config.data.num_workers,
            generator=torch.Generator(),  # the global one must not be drawn from: it is part of the state
        )
        return iter(loader)

    def _on_device(self, batch: Any) -> Any:
        if isinstance(self.train_pairs, LivePairs):
            return self.train_pairs.batch(batch, self.fabric.device)
        return batch.to(self.fabric.device)

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
        seen = [self._on_device(next(batches)) for _ in range(config.accumulate)]
        shares = self._related_shares(seen)
        for number, (batch, share) in enumerate(zip(seen, shares, strict=True)):
            with fabric.no_backward_sync(self.objective, enabled=number < config.accumulate - 1):
                found = self.objective(batch, layers, share)
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
            self._stop("the loss or its gradient is not finite", seen, losses, norm)
        self.optimizer.step()
        weights = [parameter.detach() for parameter in self.matcher.parameters()]
        if not bool(torch.isfinite(torch.stack(torch._foreach_norm(weights, math.inf))).all()):
            self._stop("the weights are not finite", seen, losses, norm)
        if config.ema:
            update_average(self.average, self.matcher, config.ema, self.step)
        else:
            self.average.load_state_dict(self.matcher.state_dict())
        return {**losses, "gradient": norm, "learning_rate": rate}

    def _related_shares(self, batches: list[Any]) -> torch.Tensor:
        """How many related pairs each part of the batch has, over the mean of all parts of all processes."""
        counts = torch.stack([related_pairs(batch).sum() for batch in batches])
        total: Any = self.fabric.all_reduce(counts.sum(), reduce_op="sum")
        return counts * (len(batches) * self.fabric.world_size) / total.clamp(min=1)

    def _any_process(self, *wishes: bool) -> list[bool]:
        """For each wish whether some process has it: all must save, and stop, after the same step."""
        flags = torch.tensor([float(wish) for wish in wishes], device=self.fabric.device)
        reduced: Any = self.fabric.all_reduce(flags, reduce_op="sum")
        return [flag > 0 for flag in reduced.tolist()]

    def _stop(self, problem: str, batches: list[Any], losses: dict[str, float], norm: float) -> None:
        path = self.out / f"not-finite-step{self.step}-process{self.fabric.global_rank}.pt"
        states = {"matcher": self.matcher.state_dict(), "optimizer": self.optimizer.state_dict()}
        stop_with_evidence(path, problem, self.step, batches, losses, norm, states)

    def _validate(self, monitor: Monitor) -> None:
        if self.fabric.is_global_zero and len(self.valid_pairs) > 0:
            metrics = validate(self.average, self.valid_pairs)
            monitor.log_validation(self.step, self.seconds, metrics)
            monitor.draw(self.step, self.average, self.valid_pairs)
            if metrics["recall"] > self.best:
                self.best = metrics["recall"]
                if not self.config.calibrate:  # what is calibrated is the result
                    write_matcher(self._best, self.config, with_result(self.config, self.average))
        self.fabric.barrier()

    def _write_result(self, monitor: Monitor) -> Path:
        """The averaged weights, calibrated if wanted, with the options of the result."""
        path = self.out / "matcher.safetensors"
        if self.fabric.is_global_zero:
            matcher, found = with_result(self.config, self.average), None
            if self.config.calibrate:
                found = calibrate(matcher, self.valid_pairs, self.teacher, self.config.teacher_edges)
                monitor.log_calibration(self.step, self.seconds, found.to_dict())
            write_matcher(path, self.config, matcher, found)
            if self.config.calibrate or len(self.valid_pairs) == 0:
                # Of an earlier run, for whose weights this result would not be taken.
                self._best.unlink(missing_ok=True)
        self.fabric.barrier()
        return path

    def _listen(self) -> dict[int, Any]:
        """Stop after the current step when asked to."""

        def stop(number: int, frame: Any) -> None:
            self.asked = True

        try:
            return {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread, where signals do not arrive
            return {}
