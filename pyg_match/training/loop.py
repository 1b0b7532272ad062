"""The training loop, on one CPU as on many devices and nodes."""

import functools
import os
import warnings
from pathlib import Path
from typing import Any, Optional, Union

import torch
from lightning_fabric import Fabric

from pyg_match.datasets.cached_pairs import check_photos
from pyg_match.datasets.live_pairs import LivePairs
from pyg_match.datasets.sources import find_images
from pyg_match.files import allow_open_files, is_file, sweep, user_path, write_whole
from pyg_match.spinner import spinner
from pyg_match.training.checkpoint import random_state, set_random_state
from pyg_match.training.config import TrainingConfig
from pyg_match.training.data import make_datasets
from pyg_match.training.identity import check_before
from pyg_match.training.start import Pairs, check_detectors
from pyg_match.training.trainer import Trainer


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

    The folder gets ``matcher.safetensors``, the averaged weights at the end, calibrated if the settings say so, for
    :meth:`pyg_match.nn.GraphMatcher.from_pretrained`; ``best.safetensors``, those with the best recall on the
    validation pairs, unless the result is calibrated; ``last.ckpt``, everything needed to go on; ``held_out.txt``, the
    photos that training does not see; ``log.jsonl`` and TensorBoard's files.

    On the CPU, the result of an interrupted run equals that of an uninterrupted one bit by bit. SIGTERM and Ctrl-C
    end a run after the current step and a checkpoint.

    Args:
        config: All settings.
        images: Folder of photos, of which pairs are made; see :class:`~pyg_match.datasets.SyntheticHomographies`.
        out: Folder of the run.
        datasets: Pairs with labels and edges to train and to validate on instead of those made from ``images``.
        accelerator: ``"cpu"``, ``"cuda"`` or ``"auto"``, which is the CPU on Apple's machines.
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

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from pyg_match.data import KeypointPair, KeypointSet
        >>> from pyg_match.training import config_from_dict
        >>> sets = [KeypointSet(pos=9 * torch.rand(4, 2), x=torch.eye(4), image_size=(9, 9)) for _ in "ab"]
        >>> pairs = [KeypointPair.from_sets(*sets, y=torch.arange(4).repeat(2))]
        >>> config = config_from_dict(
        ...     {"weights": None, "steps": 1, "matcher": {"in_channels": 4, "num_layers": 1}}
        ... )
        >>> with TemporaryDirectory() as folder:
        ...     train(config, None, folder, datasets=(pairs, pairs), accelerator="cpu").name
        'matcher.safetensors'
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
    # Not as arguments, which Lightning Fabric walks through and frozen settings do not let it.
    run: Any = functools.partial(_run, config=config, images=images, out=user_path(out), datasets=datasets)
    path: Path = fabric.launch(run)
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
    made_here = datasets is None
    if datasets is None:
        if images is None:
            raise ValueError("training needs a folder of images or datasets, got neither")
        check_detectors(config)
        check_before(config, out / "last.ckpt", fabric.world_size)
        # The first process finds photos of the same scene, the others read what it has found.
        with fabric.rank_zero_first(local=True):
            datasets = make_datasets(
                config,
                images,
                config.data.cache or out / "features",
                progress=fabric.is_global_zero,
                device=fabric.device,
            )
    if config.data.num_workers > 0:
        allow_open_files()
    trainer = Trainer(fabric, config, out, *datasets)
    if made_here:
        trainer.check_checkpoint()  # what does not fit is said before keypoints are found
        if fabric.is_global_zero:
            _list_held_out(*datasets, images, out)
        if not trainer.checkpoint.is_file():
            photos = sorted({path for dataset in datasets for path in getattr(dataset, "paths", ())})
            with spinner(f"checking {len(photos):,} photos", shown=fabric.is_global_zero):
                check_photos(photos)
        state = random_state()
        with fabric.rank_zero_first(local=True):
            for dataset in filter(len, datasets):
                dataset.prepare(progress=fabric.is_global_zero)  # type: ignore[attr-defined]
        set_random_state(state)
        _check_matches(*datasets)
    return trainer.run()


def _check_folder(config: TrainingConfig, images: Union[str, os.PathLike[str], None], out: Path) -> None:
    """Refuse a folder in which a run would write over what it reads.

    Raises:
        ValueError: If it holds the photos, or the weights or the teacher under the name of a file that a run writes.
    """
    folder = user_path(images) if isinstance(images, (str, os.PathLike)) else ""
    if out.is_dir() and os.path.isdir(folder) and out.samefile(folder):
        raise ValueError(f"the run would be written among the photos in {out}; choose another folder")
    written = [out / name for name in ("matcher.safetensors", "best.safetensors", "last.ckpt")]
    for role, name in (("weights", config.weights), ("teacher", config.teacher)):
        if name is not None and is_file(name):
            for file in written:
                if file.is_file() and file.samefile(user_path(name)):
                    raise ValueError(f"the run would overwrite its {role} {file}; choose another folder")


def _list_held_out(train_pairs: Any, valid_pairs: Any, images: Any, out: Path) -> None:
    """Write which photos training does not see, a line each, as they are called within the folder if there is one."""
    photos = {*find_images(images)[0], *getattr(valid_pairs, "paths", ())} - set(train_pairs.paths)
    if isinstance(images, (str, os.PathLike)):
        root = os.path.abspath(user_path(images))
        photos = {Path(os.path.relpath(photo, root)) for photo in photos}
    names = {photo.as_posix() for photo in photos}
    write_whole(out / "held_out.txt", b"".join(os.fsencode(f"{name}\n") for name in sorted(names)))


def _check_matches(train_pairs: Pairs | LivePairs, valid_pairs: Pairs) -> None:
    """Refuse to train where there is nothing to match, and warn where there is nothing to judge by.

    Raises:
        ValueError: If no keypoint of any training pair has a partner.
    """
    for name, pairs in (("training", train_pairs), ("validation", valid_pairs)):
        if isinstance(pairs, LivePairs):  # nobody knows before they are made
            continue
        if len(pairs) == 0 or any(bool((pairs[index].y >= 0).any()) for index in range(len(pairs))):
            continue
        problem = f"no keypoint of the {len(pairs)} {name} pairs has a partner; are photos blank, or views far apart?"
        if name == "training":
            raise ValueError(problem)
        warnings.warn(f"{problem} There is no recall to choose the best weights by", stacklevel=2)
