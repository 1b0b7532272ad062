import errno
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers import write_images
from PIL import Image
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch
from training_pairs import SPARSE, Pairs, datasets, run, small_config

from pyg_match import Matcher, pretrained
from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.datasets import CorruptShardError, SyntheticHomographies
from pyg_match.datasets.sources import find_images
from pyg_match.features import SIFT
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import read_metadata
from pyg_match.training import export_matcher, validate
from pyg_match.training.checkpoint import load_checkpoint, save_checkpoint
from pyg_match.training.config import load_config
from pyg_match.training.data import split_photos
from pyg_match.training.loop import train
from pyg_match.training.monitor import read_json_lines
from pyg_match.training.schedule import batch_indices
from pyg_match.transforms import KNNGraph, graph_from_recipe

ONE_WAY = "graph=[{CandidateEdges: {k: 4, symmetric: false}}]"
TESTS = Path(__file__).resolve().parents[1]


def in_process(code: str, out: Path, **variables: str) -> subprocess.Popen:
    """Python code with the names above, in a process of its own."""
    lines = f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / 'training')!r}]\n"
    lines += f"import torch; torch.set_num_threads(1)\nfrom test_loop import *\nout = Path({str(out)!r})\n"
    file = out.with_suffix(".py")
    file.write_text(lines + "if __name__ == '__main__':\n    " + code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [sys.executable, str(file)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def logged_losses(out: Path) -> list[dict]:
    return [record["train"] for record in read_json_lines(out / "log.jsonl") if "train" in record]


def assert_same_weights(file0: Path, file1: Path) -> None:
    state0, state1 = (GraphMatcher.from_pretrained(file).state_dict() for file in (file0, file1))
    assert all(torch.equal(value, state1[key]) for key, value in state0.items())


def test_eight_pairs_are_learned_by_heart():
    from torch_geometric.data import Batch

    from pyg_match.training import LossConfig, Objective

    pairs = [*Pairs(8, graph_from_recipe(SPARSE))]
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=2, heads=2)
    objective, batch = Objective(matcher, LossConfig()), Batch.from_data_list(pairs)
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        objective(batch, (0, 1))["total"].backward()
        optimizer.step()
    assert validate(matcher, pairs)["recall"] > 0.99


def test_a_run_leaves_matchers_a_checkpoint_and_a_log(tmp_path):
    config = small_config(validate_every=3, accumulate=2)
    path = run(config, tmp_path)
    assert path == tmp_path / "matcher.safetensors"
    assert GraphMatcher.from_pretrained(path).config.num_layers == 2
    assert (tmp_path / "best.safetensors").is_file()
    assert list((tmp_path / "tensorboard").iterdir())
    records = read_json_lines(tmp_path / "log.jsonl")
    assert [record["step"] for record in records if "train" in record] == [2, 4, 6]
    assert [record["step"] for record in records if "validation" in record] == [0, 3, 6]
    assert {"recall", "precision", "auc@5_dlt", "auc@5_poselib"} <= records[0]["validation"].keys()
    assert {"assignment", "confidence", "total", "gradient", "learning_rate"} <= records[1]["train"].keys()
    assert run(config, tmp_path) == path  # done already


def test_killed_at_random_steps_it_ends_with_the_same_weights(tmp_path):
    config = small_config(steps=12, checkpoint_every=1)
    run(config, tmp_path / "whole")
    out = tmp_path / "killed"
    code = "Pairs.delay = 0.05; run(small_config(steps=12, checkpoint_every=1), out)"
    for step in (2, 6):
        process = in_process(code, out)
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and process.poll() is None:
            steps = [record["step"] for record in read_json_lines(out / "log.jsonl") if "train" in record]
            if steps and steps[-1] >= step:
                break
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert 0 < load_checkpoint(out / "last.ckpt")["step"] < 12
    run(config, out)
    assert_same_weights(tmp_path / "whole" / "matcher.safetensors", out / "matcher.safetensors")
    states = [load_checkpoint(tmp_path / name / "last.ckpt") for name in ("whole", "killed")]
    for name in ("matcher", "average"):
        assert all(torch.equal(value, states[1][name][key]) for key, value in states[0][name].items())
    losses = [
        [{**record, "seconds": 0} for record in read_json_lines(tmp_path / name / "log.jsonl")]
        for name in ("whole", "killed")
    ]
    assert losses[0] == losses[1]


def test_sigterm_ends_a_run_after_a_checkpoint(tmp_path, monkeypatch):
    from pyg_match.training import loop

    step = loop.Trainer._train_step

    def asked_to_stop(self, batches):
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batches)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(loop.Trainer, "_train_step", asked_to_stop)
    assert run(small_config(checkpoint_every=0), tmp_path) == tmp_path / "last.ckpt"
    assert load_checkpoint(tmp_path / "last.ckpt")["step"] == 4
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    run(small_config(checkpoint_every=0), tmp_path)
    run(small_config(checkpoint_every=0), tmp_path / "whole")
    assert_same_weights(tmp_path / "matcher.safetensors", tmp_path / "whole" / "matcher.safetensors")


def test_asked_before_the_first_step_a_checkpoint_is_left(tmp_path, monkeypatch):
    from pyg_match.training import loop

    monkeypatch.setattr(loop.Trainer, "_validate", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert run(small_config(checkpoint_every=0), tmp_path) == tmp_path / "last.ckpt"
    assert load_checkpoint(tmp_path / "last.ckpt")["step"] == 1


def test_what_one_process_wishes_all_do(tmp_path):
    """A signal and a clock of one process alone: the other one must not wait for it."""
    code = (
        "import os, signal\n"
        "    from pyg_match.training import loop\n"
        "    step = loop.Trainer._train_step\n"
        "    def asked(self, batches):\n"
        "        if self.step == 2 and self.fabric.global_rank == 1: self.asked = True\n"
        "        return step(self, batches)\n"
        "    loop.Trainer._train_step = asked\n"
        "    train(small_config(checkpoint_every=0, batch_size=4), None, out, datasets=datasets(), accelerator='cpu', "
        "devices=2, strategy='ddp')"
    )
    process = in_process(code, tmp_path / "run")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert load_checkpoint(tmp_path / "run" / "last.ckpt")["step"] == 3


def test_double_precision(tmp_path):
    file = run(small_config(steps=2, precision="64-true"), tmp_path)
    assert all(value.isfinite().all() for value in GraphMatcher.from_pretrained(file).state_dict().values())
    states = load_checkpoint(tmp_path / "last.ckpt")
    assert {value.dtype for value in states["average"].values()} == {torch.double}


@pytest.mark.parametrize("earlier_version", [False, True])
def test_means_in_the_log_are_of_the_steps_since_the_last_ones(tmp_path, monkeypatch, earlier_version):
    from pyg_match.training import loop

    monkeypatch.setattr(loop.Trainer, "_train_step", lambda self, _: {"value": float(self.step)})
    asked = loop.Trainer._any_process
    monkeypatch.setattr(
        loop.Trainer, "_any_process", lambda self, *wishes: asked(self, self.step == 3, wishes[1])
    )
    run(small_config(steps=8, log_every=2, checkpoint_every=0), tmp_path)
    monkeypatch.setattr(loop.Trainer, "_any_process", asked)
    state = load_checkpoint(tmp_path / "last.ckpt")
    assert state.pop("summed") == 1
    if earlier_version:
        save_checkpoint(tmp_path / "last.ckpt", state)
    run(small_config(steps=8, log_every=5, checkpoint_every=0), tmp_path)
    records = [record for record in read_json_lines(tmp_path / "log.jsonl") if "train" in record]
    means = {record["step"]: record["train"]["value"] for record in records}
    assert means == {2: 0.5, 5: 3.0, 8: 6.0}  # of steps 0 and 1; 2 to 4; 5 to 7


def test_a_run_killed_before_its_first_checkpoint_starts_its_log_anew(tmp_path, monkeypatch):
    from pyg_match.training import loop

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Trainer, "_train_step", killed)
        run(small_config(steps=1), tmp_path)
    run(small_config(steps=1), tmp_path)
    steps = [record["step"] for record in read_json_lines(tmp_path / "log.jsonl")]
    assert steps == [0, 1, 1]


def test_a_matcher_brings_the_settings_of_its_detector(tmp_path):
    options = {"edge_threshold": 12.0, "detection_threshold": 0.0}
    matcher = {"in_channels": 128, "hidden_channels": 16, "num_layers": 2, "heads": 2}
    config = small_config(
        data={"extractor": "rootsift", "extractor_options": options}, matcher=matcher, steps=1
    )
    pairs = (
        Pairs(2, graph_from_recipe(SPARSE), channels=128),
        Pairs(1, graph_from_recipe(SPARSE), channels=128),
    )
    file = train(config, None, tmp_path, datasets=pairs, accelerator="cpu", devices=1)
    assert Matcher.from_pretrained(file).extractor.edge_threshold == 12.0


def test_other_settings_do_not_go_on_with_a_run(tmp_path):
    run(small_config(steps=1), tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(learning_rate, steps\)"):
        run(small_config(steps=2, learning_rate=0.1), tmp_path)


def test_a_run_goes_on_with_less_memory(tmp_path, monkeypatch):
    """As `checkpointed` changes no gradient, the result is that of a run without it."""
    from pyg_match.training import loop

    shape = {"in_channels": 16, "hidden_channels": 16, "num_layers": 2, "heads": 2}
    config, again = (small_config(matcher={**shape, **more}) for more in ({}, {"checkpointed": True}))
    expected = run(config, tmp_path / "whole").read_bytes()
    monkeypatch.setattr(loop.Trainer, "_validate", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert run(config, tmp_path / "two") == tmp_path / "two" / "last.ckpt"
    monkeypatch.undo()
    assert run(again, tmp_path / "two").read_bytes() == expected


@pytest.mark.parametrize("layers", ["all", "random:1"])
def test_two_processes_have_the_losses_of_one(tmp_path, layers):
    matcher = {"in_channels": 16, "hidden_channels": 16, "num_layers": 4, "heads": 2}
    loss = {"layers": layers}
    config = {"batch_size": 4, "log_every": 1, "steps": 4, "matcher": matcher, "loss": loss}
    run(small_config(**config), tmp_path / "one")
    code = (
        f"train(small_config(**{config}), None, out, datasets=datasets(), accelerator='cpu', devices=2, "
        "strategy='ddp')"
    )
    process = in_process(code, tmp_path / "two")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    one, two = (logged_losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 4
    for ours, theirs in zip(one, two, strict=True):
        for name in ("total", "assignment", "confidence"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5)


def test_a_loss_that_is_not_finite_leaves_its_batch(tmp_path):
    pairs = datasets()
    for pair in pairs[0].pairs:
        pair.x = pair.x * 1e30
    with pytest.raises(FloatingPointError, match="not finite in step 0"):
        train(small_config(), None, tmp_path, datasets=pairs, accelerator="cpu", devices=1)
    (file,) = tmp_path.glob("not-finite-*.pt")
    state = torch.load(file, weights_only=True)
    assert state["batches"][0]["x"].shape[1] == 16
    assert "lin_out" in " ".join(state["matcher"])


def test_a_full_disk_loses_no_checkpoint(tmp_path, monkeypatch):
    run(small_config(steps=6, checkpoint_every=2), tmp_path / "whole")
    real, out = os.fsync, tmp_path / "full"
    out.mkdir()
    written = []

    def full(number):
        path = os.readlink(f"/proc/self/fd/{number}")
        if "last.ckpt" in path:
            written.append(path)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*last.ckpt \(No space left.*intact"):
        run(small_config(steps=6, checkpoint_every=2), out)
    monkeypatch.undo()
    assert load_checkpoint(out / "last.ckpt")["step"] == 2
    assert not list(out.glob("*.tmp"))
    run(small_config(steps=6, checkpoint_every=2), out)
    assert_same_weights(tmp_path / "whole" / "matcher.safetensors", out / "matcher.safetensors")


def test_a_corrupt_shard_loses_no_checkpoint(tmp_path):
    data = pytest.importorskip("skimage.data")
    (tmp_path / "photos").mkdir()
    for name in ("astronaut", "coffee"):
        Image.fromarray(getattr(data, name)()).resize((200, 150)).save(tmp_path / "photos" / f"{name}.png")

    def pairs(repair=False):
        return SyntheticHomographies(
            tmp_path / "photos", SIFT(60), num_pairs=6, size=(160, 120), max_num_keypoints=40, shard_size=2,
            cache=tmp_path / "cache", transform=graph_from_recipe(SPARSE), repair=repair,
        )  # fmt: skip

    class DamagedOnTheWay:
        """Another process finds the shards damaged from the fifth pair on."""

        def __init__(self):
            self.pairs, self.asked = pairs(), 0
            self.paths = self.pairs.paths

        def __len__(self):
            return len(self.pairs)

        def __getitem__(self, index):
            self.asked += 1
            if self.asked == 5:
                self.pairs = pairs()
                for file in tmp_path.rglob("cache/**/*.safetensors"):
                    file.write_bytes(file.read_bytes()[:-100])
            return self.pairs[index]

    pairs().prepare()
    config = small_config(
        matcher={"in_channels": 128, "hidden_channels": 16, "num_layers": 2, "heads": 2}, validate_every=0
    )
    whole, out = tmp_path / "whole", tmp_path / "out"
    held_out = Pairs(0, None)
    train(config, None, whole, (pairs(), held_out), accelerator="cpu", devices=1)
    with pytest.raises(CorruptShardError, match=r"safetensors"):
        train(config, None, out, (DamagedOnTheWay(), held_out), accelerator="cpu", devices=1)
    assert load_checkpoint(out / "last.ckpt")["step"] == 2
    train(config, None, out, (pairs(repair=True), held_out), accelerator="cpu", devices=1)
    assert_same_weights(whole / "matcher.safetensors", out / "matcher.safetensors")


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"last.ckpt is not a readable checkpoint"):
        run(small_config(), tmp_path)


def test_batches_do_not_depend_on_processes_and_parts():
    whole = [sorted(batch_indices(step, 10, 4, seed=3)[0]) for step in range(5)]
    parts = [
        sorted(
            index
            for rank in range(2)
            for part in batch_indices(step, 10, 4, 3, accumulate=2, rank=rank, world=2)
            for index in part
        )
        for step in range(5)
    ]
    assert parts == whole
    assert sorted(index for batch in whole for index in batch) == sorted([*range(10), *range(10)])
    with pytest.raises(ValueError, match="multiple of 3 processes x 1 parts, got 4"):
        batch_indices(0, 10, 4, 0, world=3)


def test_a_line_that_was_cut_off_is_not_read(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps({"step": 1}) + '\n{"step": 2, "tr')
    assert read_json_lines(file) == [{"step": 1}]


def test_a_run_from_before_a_setting_goes_on(tmp_path, monkeypatch):
    from pyg_match.training import trainer

    write = trainer.save_checkpoint

    def without(path, state):
        del state["identity"]["data"]["unrelated"]
        write(path, state)

    config = small_config(steps=2, checkpoint_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_checkpoint", without)
        run(config, tmp_path / "old")
    run(config, tmp_path / "old")
    with pytest.raises(ValueError, match=r"other settings \(data\)"):
        run(small_config(steps=2, checkpoint_every=1, data={"unrelated": 0.5}), tmp_path / "old")


def test_weights_of_other_keypoints_are_refused_before_keypoints_are_found(tmp_path):
    data, photos = pytest.importorskip("skimage.data"), []
    for name in ("coffee", "chelsea"):
        photos.append(tmp_path / f"{name}.png")
        Image.fromarray(getattr(data, name)()).resize((64, 48)).save(photos[-1])
    config = load_config("finetune", ["data.extractor=disk"])
    with pytest.raises(ValueError, match="the weights are of aliked keypoints, but"):
        train(config, photos, tmp_path / "run", accelerator="cpu", devices=1)
    config = load_config("finetune", ["data.extractor=disk", "weights=disk-lightglue"])
    with pytest.raises(ValueError, match="the teacher is of aliked keypoints, but"):
        train(config, photos, tmp_path / "run", accelerator="cpu", devices=1)
    config = load_config("finetune", ["matcher.redraw_after=20"])
    with pytest.raises(ValueError, match="'redraw_after' must be a layer before the last"):
        train(config, photos, tmp_path / "run", accelerator="cpu", devices=1)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_teacher_shows_all_of_its_layers(tmp_path):
    """Whatever early exit its file asks for."""
    shape = {"in_channels": 16, "hidden_channels": 16, "num_layers": 2, "heads": 2}
    teacher, file = GraphMatcher(**shape, depth_confidence=0.0), tmp_path / "teacher.safetensors"
    torch.nn.init.constant_(teacher.confidences[0].bias, 1e3)
    teacher.save(file, metadata={"extractor": "aliked"})
    loss = {"distill_assignment": 1.0, "distill_descriptors": 1.0}
    run(small_config(steps=2, teacher=str(file), loss=loss), tmp_path / "run")
    lines = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    found = [line["train"]["distill_descriptors"] for line in lines if "train" in line]
    assert found and min(found) > 0


def test_what_does_not_fit_is_said_before_keypoints_are_found(tmp_path):
    data, photos = pytest.importorskip("skimage.data"), []
    for name in ("coffee", "chelsea"):
        photos.append(tmp_path / f"{name}.png")
        Image.fromarray(getattr(data, name)()).resize((64, 48)).save(photos[-1])
    hardware = {"accelerator": "cpu", "devices": 1}
    with pytest.raises(ValueError, match="must be a multiple of 1 processes x 3 parts, got 2"):
        train(load_config("finetune", ["accumulate=3"]), photos, tmp_path / "uneven", **hardware)
    shape = "matcher={hidden_channels: 64, num_layers: 2, heads: 2, redraw_after: 1}"
    config = load_config("finetune", ["weights=null", shape])
    with pytest.raises(ValueError, match=r"loss.distill_descriptors needs a teacher"):
        train(config, photos, tmp_path / "other", **hardware)
    small = ["weights=null", "teacher=null", shape, "data.num_pairs=2", "data.validation_pairs=1"]
    small += ["loss={distill_assignment: 0, distill_descriptors: 0}"]
    run(small_config(steps=2), tmp_path / "run")
    with pytest.raises(ValueError, match="other settings"):
        train(load_config("finetune", small), photos, tmp_path / "run", **hardware)
    photos[0].write_bytes(photos[0].read_bytes()[:400])
    with pytest.raises(ValueError, match=r"1 of 2 photos cannot be read \((coffee|chelsea).png: "):
        train(load_config("finetune", small), photos, tmp_path / "damaged", **hardware)
    assert not list(tmp_path.rglob("*/features/**/*.safetensors"))
    assert not (tmp_path / "run" / "held_out.txt").exists()  # a refused run leaves an earlier one as it was


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.extractor=sift", "matcher.in_channels=64"], "64"),
        (["matcher.branch=gcn"], "scale"),
        (["matcher.use_scale_orientation=true"], "scale"),
        (["matcher.assign_on_edges=true", ONE_WAY], "in both directions"),
        (["result.assign_on_edges=true", ONE_WAY], "in both directions"),
    ],
)
def test_matchers_that_do_not_fit_are_refused_before_keypoints_are_found(
    changes, message, tmp_path, monkeypatch
):
    data = pytest.importorskip("skimage.data")
    photos = tmp_path / "photos"
    write_images(photos, {name: getattr(data, name)() for name in ("coffee", "chelsea")}, (64, 48))
    small = ["weights=null", "teacher=null", "data.num_pairs=2", "data.validation_pairs=1"]
    small += ["matcher={hidden_channels: 16, num_layers: 2, heads: 2, redraw_after: null}"]
    small += ["loss={distill_assignment: 0, distill_descriptors: 0}"]

    def found(*_, **__):
        raise AssertionError("keypoints are looked for")

    monkeypatch.setattr("pyg_match.training.loop.make_datasets", found)
    with pytest.raises((ValueError, TypeError), match=message):
        train(
            load_config("finetune", [*small, *changes]),
            photos,
            tmp_path / "run",
            accelerator="cpu",
            devices=1,
        )


def test_the_best_matcher_has_the_options_of_the_result(tmp_path):
    (tmp_path / "best.safetensors").write_bytes(b"of an earlier run")
    config = small_config(
        half=True, result={"assign_on_edges": True, "filter_threshold": 0.33}, validate_every=2
    )
    path = run(config, tmp_path)
    for file in (path, tmp_path / "best.safetensors"):
        options = GraphMatcher.from_pretrained(file).config
        assert options.assign_on_edges and options.filter_threshold == 0.33
    assert path.stat().st_size == pytest.approx((tmp_path / "best.safetensors").stat().st_size, abs=100)


def test_an_earlier_best_matcher_is_not_that_of_a_run_without_recall(tmp_path):
    class Nothing(Pairs):
        def __getitem__(self, index):
            pair = super().__getitem__(index)
            pair.y = torch.full_like(pair.y, -1)
            return pair

    (tmp_path / "best.safetensors").write_bytes(b"of an earlier run")
    nothing = Nothing(1, graph_from_recipe(SPARSE))
    train(small_config(steps=1), None, tmp_path, (datasets()[0], nothing), accelerator="cpu", devices=1)
    assert not (tmp_path / "best.safetensors").exists()


def test_a_run_goes_on_with_the_same_photos_and_teacher_only(tmp_path):
    data = pytest.importorskip("skimage.data")
    photos, teacher = tmp_path / "photos", tmp_path / "teacher.safetensors"
    shape = {"in_channels": 128, "hidden_channels": 16, "num_layers": 2, "heads": 2}

    def pairs(name):
        write_images(photos, {"a": getattr(data, name)()}, (160, 120))
        return SyntheticHomographies(
            photos,
            SIFT(60),
            num_pairs=2,
            size=(160, 120),
            cache=tmp_path / "cache",
            transform=graph_from_recipe(SPARSE),
        )

    def new_teacher(seed):
        torch.manual_seed(seed)
        GraphMatcher(**shape).save(teacher, metadata={"extractor": "sift"})

    def go_on(name="coffee"):
        loss = {"distill_assignment": 1.0}
        config = small_config(steps=4, matcher=shape, teacher=str(teacher), loss=loss)
        return train(config, None, tmp_path / "run", (pairs(name), []), accelerator="cpu", devices=1)

    new_teacher(0)
    assert go_on().name == go_on().name == "matcher.safetensors"
    new_teacher(1)
    with pytest.raises(ValueError, match=r"other settings \(weights of the teacher\)"):
        go_on()
    new_teacher(0)
    with pytest.raises(ValueError, match=r"other settings \(photos of training\)"):
        go_on("chelsea")
    assert go_on().is_file()


def test_pairs_of_different_photos_are_drawn(tmp_path):
    data = pytest.importorskip("skimage.data")
    photos = tmp_path / "photos"
    write_images(photos, {name: getattr(data, name)() for name in ("coffee", "chelsea")}, (160, 120))
    recipe = {"size": (160, 120), "transform": graph_from_recipe(SPARSE)}
    related = SyntheticHomographies(photos, SIFT(60), num_pairs=2, **recipe)
    unrelated = SyntheticHomographies(photos, SIFT(60), num_pairs=2, unrelated=1.0, **recipe)
    config = small_config(
        steps=1, matcher={"in_channels": 128, "hidden_channels": 16, "num_layers": 2, "heads": 2}
    )
    assert train(config, None, tmp_path / "run", (related, unrelated), accelerator="cpu", devices=1).is_file()


@pytest.mark.parametrize("processes", [1, 2])
def test_distillation_does_not_depend_on_parts_and_processes(processes, tmp_path):
    """Half of the pairs have nothing to match, of which the teacher shows nothing."""
    torch.manual_seed(0)
    shape = {"in_channels": 16, "hidden_channels": 16, "num_layers": 2, "heads": 2}
    GraphMatcher(**shape).save(tmp_path / "teacher.safetensors", metadata={"extractor": "sift"})
    values = {"batch_size": 4, "log_every": 1, "steps": 3, "ema": 0.0, "loss": {"distill_assignment": 1.0}}
    values["teacher"] = str(tmp_path / "teacher.safetensors")
    train(small_config(**values), None, tmp_path / "one", half_related(), accelerator="cpu", devices=1)
    values["accumulate"] = 4 // processes
    if processes == 1:
        train(small_config(**values), None, tmp_path / "parts", half_related(), accelerator="cpu", devices=1)
    else:
        code = f"train(small_config(**{values}), None, out, half_related(), 'cpu', devices=2, strategy='ddp')"
        process = in_process(code, tmp_path / "parts")
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    one, parts = (logged_losses(tmp_path / name) for name in ("one", "parts"))
    assert len(one) == len(parts) == 3
    for ours, theirs in zip(one, parts, strict=True):
        assert ours["distill_assignment"] > 0
        for name in ("total", "distill_assignment"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5)


def half_related():
    """Pairs of which every other one has nothing to match."""
    pairs = datasets(6)[0]
    for pair in pairs.pairs[::2]:
        pair.y = torch.full_like(pair.y, -1)
    return pairs, []


def test_the_home_folder(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    (tmp_path / "x.yaml").write_text("steps: 3\n")
    assert load_config("~/x.yaml").steps == 3
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="written among the photos"):
        train(small_config(), "~/photos", "~/photos", datasets=datasets(), accelerator="cpu", devices=1)


def test_unknown_hardware_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot run on accelerator='cpu', devices='two'"):
        train(small_config(), None, tmp_path, datasets=datasets(), accelerator="cpu", devices="two")


def test_a_pair_with_one_edge_alone_in_a_batch():
    sets = [KeypointSet(pos=torch.rand(n, 2), x=torch.rand(n, 8), image_size=(9, 9)) for n in (1, 0)]
    pair = KNNGraph(4, loop=True)(KeypointPair.from_sets(*sets, y=torch.tensor([-1])))
    batch = Batch.from_data_list([pair])
    assert isinstance(pair.edge_index, EdgeIndex)  # of the dataset
    assert batch.edge_index.tolist() == [[0], [0]]
    assert GraphMatcher(in_channels=8, hidden_channels=16, num_layers=1)(batch).matches.tolist() == [-1]


def test_the_result_is_calibrated_and_has_options_of_its_own(tmp_path):
    config = small_config(
        calibrate=True, half=True, result={"assign_on_edges": True}, validate_every=2, ema=0.0
    )
    (tmp_path / "best.safetensors").write_bytes(b"of an earlier run, which an export would take")
    path = run(config, tmp_path)
    assert path == tmp_path / "matcher.safetensors" and not (tmp_path / "best.safetensors").exists()
    matcher = GraphMatcher.from_pretrained(path)
    assert matcher.config.assign_on_edges
    record = read_json_lines(tmp_path / "log.jsonl")[-1]["calibration"]
    assert record == read_metadata(path)["calibration"]
    average = load_checkpoint(tmp_path / "last.ckpt")["average"]["assignments.1.lin.weight"]
    ratio = matcher.assignments[1].lin.weight / average
    expected = torch.full_like(ratio, record["temperature"] ** -0.5)
    torch.testing.assert_close(ratio, expected, rtol=2e-3, atol=0)
    told = read_json_lines(tmp_path / "log.jsonl")
    assert run(config, tmp_path) == path and read_json_lines(tmp_path / "log.jsonl") == told
    export_matcher(path, tmp_path / "stricter.safetensors", filter_threshold=0.5)
    assert "calibration" not in read_metadata(tmp_path / "stricter.safetensors")
    plain = run(small_config(ema=0.0), tmp_path / "plain")
    assert path.stat().st_size < 0.7 * plain.stat().st_size


def test_one_command_makes_the_same_file_twice(tmp_path):
    """The preset ``sparse`` on a few photos, two of them of one scene, which it finds by itself."""
    if pretrained._installed(pretrained.FILES["aliked-lightglue"]) is None:
        pytest.skip("the weights of aliked-lightglue are not installed")
    data = pytest.importorskip("skimage.data")
    photos = tmp_path / "photos"
    left, right, _ = data.stereo_motorcycle()
    others = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    write_images(photos, {"left": left, "right": right, **others}, (320, 240))
    changes = ["data.size=[160, 120]", "data.max_num_keypoints=96", "data.min_num_keypoints=64"]
    changes += ["data.num_pairs=3", "data.validation_pairs=2", "steps=2", "validate_every=0"]
    changes += ["data.unrelated=0.2", "data.validation_photos=0.4"]
    config = load_config("sparse", changes)
    files = [train(config, photos, tmp_path / name, accelerator="cpu", devices=1) for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    (found,) = (tmp_path / "one" / "features").glob("related-*.json")
    assert json.loads(found.read_bytes()) == [[3, 4]]
    held_out = (tmp_path / "one" / "held_out.txt").read_text().splitlines()
    train_photos, valid_photos = split_photos(
        find_images(photos)[0], 0.4, 0, [(photos / "left.png", photos / "right.png")]
    )
    assert held_out == sorted(path.name for path in valid_photos) and len(train_photos) == 4
    calibration = read_metadata(files[0])["calibration"]
    assert None not in calibration["false_matches"] and None not in calibration["precision"]
    blind = load_config("finetune", [*changes, "data.validation_pairs=0", "data.related=0", "steps=1"])
    assert train(blind, photos, tmp_path / "blind", accelerator="cpu", devices=1).is_file()
    assert len((tmp_path / "blind" / "held_out.txt").read_text().splitlines()) == 2
    live = load_config("sparse", [*changes, "data.live=true", "data.num_workers=1", "steps=1"])
    assert train(live, photos, tmp_path / "live", accelerator="cpu", devices=1).is_file()
    matcher = Matcher.from_pretrained(files[0])
    assert matcher.matcher.config.assign_on_edges and matcher.matcher.config.num_layers == 8
    assert len(matcher(photos / "left.png", photos / "right.png").matches) > 20


def test_what_does_not_fit_the_result_is_said_before_training(tmp_path):
    with pytest.raises(ValueError, match="filter_threshold"):
        run(small_config(result={"filter_threshold": 7.0}), tmp_path)
    with pytest.raises(ValueError, match="'calibrate' needs pairs to validate on, got none"):
        train(small_config(calibrate=True), None, tmp_path, (datasets()[0], []), accelerator="cpu", devices=1)
    assert not (tmp_path / "last.ckpt").exists()


def test_whole_scenes_are_held_out_however_large():
    photos = [Path(f"{scene}{i}") for scene in "abc" for i in range({"a": 10, "b": 6, "c": 8}[scene])]
    pairs = [(one, other) for one, other in pairwise(photos) if one.name[0] == other.name[0]]
    for seed in range(5):
        train_photos, valid_photos = split_photos(photos, 0.1, seed, pairs)
        assert {photo.name[0] for photo in valid_photos} == {"b"} and len(valid_photos) == 6
        assert set(train_photos) | set(valid_photos) == set(photos)
    alone, held_out = split_photos(photos[:10], 0.1, 0, pairs[:9])  # one scene is divided
    assert len(alone) == 9 and len(held_out) == 1


def saved_teacher(file, **options):
    shape = {"in_channels": 16, "hidden_channels": 16, "num_layers": 2, "heads": 2, **options}
    GraphMatcher(**shape).save(file, metadata={"extractor": "aliked"})
    return str(file)


def test_distillation_in_double_precision(tmp_path):
    teacher = saved_teacher(tmp_path / "teacher.safetensors")
    loss = {"distill_assignment": 1.0}
    assert run(
        small_config(steps=1, precision="64-true", teacher=teacher, loss=loss), tmp_path / "run"
    ).is_file()


def test_a_teacher_that_does_not_fit_is_refused_before_photos_are_looked_at(tmp_path, monkeypatch):
    data = pytest.importorskip("skimage.data")
    photos = tmp_path / "photos"
    write_images(photos, {name: getattr(data, name)() for name in ("coffee", "chelsea")}, (64, 48))

    def found(*_, **__):
        raise AssertionError("photos are looked at")

    monkeypatch.setattr("pyg_match.training.loop.make_datasets", found)
    small = ["weights=null", "matcher={hidden_channels: 16, num_layers: 3, heads: 2, redraw_after: null}"]
    for options, message in (
        ({"in_channels": 128}, "loss.distill_descriptors needs a teacher with at least the layers"),
        ({"in_channels": 64, "num_layers": 3}, "64"),
    ):
        teacher = saved_teacher(tmp_path / "teacher.safetensors", **options)
        config = load_config("finetune", [*small, f"teacher={teacher}"])
        with pytest.raises(ValueError, match=message):
            train(config, photos, tmp_path / "run", accelerator="cpu", devices=1)


def test_processes_may_be_spawned(tmp_path):
    code = (
        "train(small_config(steps=1), None, out, datasets=datasets(), accelerator='cpu', devices=1, "
        "strategy='ddp_spawn')"
    )
    process = in_process(code, tmp_path / "run")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert (tmp_path / "run" / "matcher.safetensors").is_file()
