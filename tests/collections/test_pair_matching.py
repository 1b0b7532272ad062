"""Matching a list of pairs: the file of matches, interruptions, and what can be wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch
from helpers import has_links
from hloc_files import COUNTS, imports_write, limit_files, write_hloc_features

from pyg_match.collections import (
    HlocMatches,
    MatchJob,
    ShardFolder,
    exhaustive_pairs,
    match_pairs,
    open_features,
    write_pairs,
)
from pyg_match.data import KeypointPair
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import read_metadata
from pyg_match.transforms import graph_from_recipe

COMMAND = [sys.executable, "-c", "from pyg_match.cli import main; main()", "match-pairs"]


def find_pair(file, name0, name1):
    """The rule by which hloc finds a pair, as formats describe it."""
    first, second = name0.replace("/", "-"), name1.replace("/", "-")
    if f"{first}/{second}" in file:
        return f"{first}/{second}", False
    if f"{second}/{first}" in file:
        return f"{second}/{first}", True
    raise ValueError(f"Could not find pair {(name0, name1)}")


def test_pairs_are_taken_from_a_file(features, weights, tmp_path):
    with pytest.raises(TypeError, match=r"'pairs' must be the path of a list, .* got \[\('a', 'b'\)\]"):
        match_pairs(features, [("a", "b")], tmp_path / "m.h5", weights)


def test_matches_are_read_by_hlocs_rules(features, pairs, weights, tmp_path):
    summary = match_pairs(features, pairs, tmp_path / "m.h5", weights, block=3)
    assert summary.num_pairs == summary.matched == 21 and not (tmp_path / "m.h5.shards").exists()
    matcher = GraphMatcher.from_pretrained(weights)
    graph = graph_from_recipe(read_metadata(weights)["graph"])
    total = 0
    with h5py.File(tmp_path / "m.h5") as file, open_features(features) as opened:
        for name0, name1 in exhaustive_pairs(sorted(COUNTS)):
            key, reverse = find_pair(file, name0, name1)
            assert (key, reverse) == (find_pair(file, name1, name0)[0], False) and find_pair(
                file, name1, name0
            )[1]
            matches0, scores0 = file[key]["matches0"], file[key]["matching_scores0"]
            assert (matches0.dtype, scores0.dtype) == (np.int16, np.float16)
            assert matches0.shape == scores0.shape == (COUNTS[name0],)
            pair = graph(KeypointPair.from_sets(opened.read(name0), opened.read(name1)))
            with torch.no_grad():
                expected, scores = matcher(pair).pair_matches()
            matched = np.flatnonzero(matches0[()] >= 0)
            assert np.array_equal(np.stack([matched, matches0[()][matched]], 1), expected)
            assert np.allclose(scores0[()][matched], scores, rtol=2e-3, atol=1e-6)
            total += len(matched)
        with pytest.raises(ValueError, match="Could not find pair"):
            find_pair(file, "a.jpg", "absent.jpg")
    assert total > 60
    with HlocMatches(tmp_path / "m.h5") as ours:
        assert len(list(ours.pairs())) == 21
        forth, back = (
            ours.find("left/0001.png", "right/0001.png"),
            ours.find("right/0001.png", "left/0001.png"),
        )
        assert (
            len(forth[0]) > 3
            and np.array_equal(forth[0], back[0][:, ::-1])
            and np.array_equal(forth[1], back[1])
        )
        assert ours.find("a.jpg", "absent.jpg") is None


def test_files_that_hloc_wrote_are_read(tmp_path):
    matches0 = np.array([2, -1, 0, -1], np.int16)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for name in ("left-a.jpg/b.jpg", "c.jpg_b.jpg"):  # the latter as old versions name it
            group = file.create_group(name)
            group.create_dataset("matches0", data=matches0)
            group.create_dataset("matching_scores0", data=np.array([0.5, 0, 0.25, 0.1], np.float16))
        file.create_group("d/e").create_dataset("matches0", data=matches0)
        file.create_group("f/g").create_dataset("matches0", data=matches0)
        file["f/g"].create_dataset("matching_scores0", data=np.zeros(3, np.float16))
    with HlocMatches(tmp_path / "m.h5") as opened:
        assert opened.settings == {}
        for names in (("left/a.jpg", "b.jpg"), ("c.jpg", "b.jpg")):
            matches, scores = opened.find(*names)
            assert matches.tolist() == [[0, 2], [2, 0]] and scores.tolist() == [0.5, 0.25]
            assert opened.find(*names[::-1])[0].tolist() == [[2, 0], [0, 2]]
        assert opened.find("d", "e")[1].tolist() == [1, 1]
        with pytest.raises(ValueError, match=r"'f/g' in .* got shapes \[4\] and \[3\]"):
            opened.find("f", "g")
    with pytest.raises(FileNotFoundError, match="no matches at"):
        HlocMatches(tmp_path / "absent.h5")


def test_files_of_matches_that_are_damaged(tmp_path):
    """Whatever is in the place of a group, of numbers or of settings, errors name the file."""
    path = tmp_path / "m.h5"
    changes = {"dtype": np.array([0.5, 1]), "text": ["a", "b"], "both": np.zeros(2, [("x", int), ("y", int)])}
    with h5py.File(path, "w") as file:
        for name, values in {"whole": [1, -1], **changes}.items():
            file[f"a/{name}/matches0"] = values
        file["a/scores/matches0"], file["a/scores/matching_scores0"] = [0, 1], ["a", "b"]
        file["numbers"], file["text"], file["a/numbers"] = np.arange(3), "text", np.arange(3)
        file["link"], file["a/link"] = h5py.SoftLink("/nowhere"), h5py.SoftLink("/nowhere")
        file["other"] = h5py.ExternalLink("absent.h5", "/")
    with HlocMatches(path) as opened:
        named = ["both", "dtype", "link", "numbers", "scores", "text", "whole"]
        assert list(opened.pairs()) == [("a", name) for name in named]
        for names in (("a", "numbers"), ("a", "link"), ("link", "a"), ("numbers", "text"), ("other", "a")):
            assert opened.find(*names) is None
        for name in (*changes, "scores"):
            with pytest.raises(ValueError, match=rf"the matches of 'a/{name}' in .*m.h5 (are|must be)"):
                opened.find("a", name)
    for settings in (5, "[1]", '"text"', "{", "[" * 100_000):
        with h5py.File(path, "a") as file:
            file.attrs["pyg_match"] = settings
        with pytest.raises(ValueError, match=r"m.h5 is damaged: its attribute 'pyg_match'"):
            HlocMatches(path)


def test_what_is_finished_is_not_matched_again(features, pairs, weights, tmp_path, monkeypatch):
    whole, output = tmp_path / "whole.h5", tmp_path / "m.h5"
    match_pairs(features, pairs, whole, weights, block=2)
    kept = match_pairs(features, pairs, output, weights, block=2, keep_shards=True)
    folder = ShardFolder(tmp_path / "m.h5.shards")
    assert kept.output == folder.folder and not output.exists() and len(folder.numbers()) > 3
    assert sum(1 for _ in folder.pairs()) == 21
    for number in folder.numbers()[::2]:
        folder.file(number).unlink()
    (folder.folder / "00000000.safetensors.elsewhere.1.tmp").write_bytes(b"half")
    summary = match_pairs(features, pairs, output, weights, block=2)
    assert 0 < summary.matched < 21 and output.read_bytes() == whole.read_bytes()
    assert not folder.folder.exists()
    # All is there: neither features nor weights are looked into.
    monkeypatch.setattr("pyg_match.collections.pair_matching.match_here", None)
    assert match_pairs(features, pairs, output, weights, block=2).matched == 0


def test_parts_are_put_together(features, pairs, weights, tmp_path):
    whole, output = tmp_path / "whole.h5", tmp_path / "m.h5"
    match_pairs(features, pairs, whole, weights, block=2)
    arguments = [str(item) for item in (features, pairs, "-o", output, "--weights", weights, "--block", 2)]
    running = [
        subprocess.Popen(
            [*COMMAND, *arguments, "--shard", f"{i}/4"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for i in range(1, 5)
    ]
    for process in running:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err.decode()
        assert b"the same command without --shard" in out
    assert not output.exists()
    summary = match_pairs(features, pairs, output, weights, block=2)
    assert summary.matched == 0 and output.read_bytes() == whole.read_bytes()


def test_a_killed_run_goes_on(weights, tmp_path):
    names = {f"{i:02d}.jpg": 30 for i in range(24)}
    features = write_hloc_features(tmp_path / "f.h5", names)
    write_pairs(tmp_path / "pairs.txt", exhaustive_pairs(sorted(names)))
    options = {"weights": weights, "block": 2, "batch_keypoints": 60}
    match_pairs(features, tmp_path / "pairs.txt", tmp_path / "whole.h5", **options)
    output, shards = tmp_path / "m.h5", tmp_path / "m.h5.shards"
    words = (features, tmp_path / "pairs.txt", "-o", output, "--weights", weights)
    arguments = [*COMMAND, *map(str, words), "--block", "2", "--batch-keypoints", "60"]
    for more in (3, 20):
        before = len(list(shards.glob("*.safetensors")))
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(shards.glob("*.safetensors"))) < before + more:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not output.exists()
    summary = match_pairs(features, tmp_path / "pairs.txt", output, **options)
    assert 0 < summary.matched < summary.num_pairs == 276
    assert output.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("m.")) == ["m.h5"]


@pytest.mark.skipif(os.name == "nt", reason="limits of file sizes are POSIX's")
@pytest.mark.parametrize(  # in a shard, in the file of matches
    "size", [pytest.param(200, marks=imports_write), 3_000, 10_000]
)
def test_nothing_is_lost_on_a_full_disk(size, features, pairs, weights, tmp_path):
    whole, output = tmp_path / "whole.h5", tmp_path / "m.h5"
    match_pairs(features, pairs, whole, weights, block=1)
    arguments = [*COMMAND, *map(str, (features, pairs, "-o", output, "--weights", weights, "--block", 1))]
    match_pairs(features, pairs, output, weights, block=1, part=(1, 2))
    done = len(ShardFolder(tmp_path / "m.h5.shards").numbers())
    process = subprocess.run(
        arguments, capture_output=True, text=True, preexec_fn=lambda: limit_files(size), check=False
    )
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("error: [Errno 27] cannot write") and "(File too large); there is none" in last
    left = sorted(path.name for path in tmp_path.rglob("*") if ".tmp" in path.name)
    assert not output.exists() and left == []
    assert len(ShardFolder(tmp_path / "m.h5.shards").numbers()) == (done if size == 200 else 21)
    match_pairs(features, pairs, output, weights, block=1)
    assert output.read_bytes() == whole.read_bytes()


def test_other_settings_are_refused(features, pairs, weights, tmp_path):
    output = tmp_path / "m.h5"
    match_pairs(features, pairs, output, weights, part=(1, 2), block=2)
    for change, name in (({"filter_threshold": 0.5}, "options"), ({"block": 3}, "block")):
        with pytest.raises(ValueError, match=rf"m\.h5\.shards was made with {name}=.*; delete it or choose"):
            match_pairs(features, pairs, output, weights, **{"block": 2, **change})
    match_pairs(features, pairs, output, weights, block=2)
    before = output.read_bytes()
    assert json.loads(h5py.File(output).attrs["pyg_match"])["block"] == 2
    pairs.write_text("a.jpg b.jpg\n")
    with pytest.raises(ValueError, match=r"m\.h5 was made with pairs="):
        match_pairs(features, pairs, output, weights, block=2)
    write_hloc_features(features, COUNTS, seed=1)
    with pytest.raises(ValueError, match=r"m\.h5 was made with features="):
        match_pairs(features, pairs, output, weights, block=2)
    assert output.read_bytes() == before
    copy = shutil.copytree(features.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    with open_features(features) as one, open_features(copy / "features.h5") as other:
        assert one.digest() == other.digest()


def test_shards_are_put_together_where_their_device_is_not(features, pairs, weights, tmp_path, monkeypatch):
    """As of an array of jobs on GPUs, put together on another machine."""
    output, settings = tmp_path / "m.h5", MatchJob.settings
    with monkeypatch.context() as patch:
        patch.setattr(MatchJob, "settings", lambda self: {**settings(self), "device": "cuda"})
        match_pairs(features, pairs, output, weights, block=2, batch_keypoints=100, part=(1, 2))
        with monkeypatch.context() as other:
            other.setattr(MatchJob, "settings", settings)
            with pytest.raises(ValueError, match=r"was made with batch_keypoints=100, now it is 4096"):
                match_pairs(features, pairs, output, weights, block=2)
            with pytest.raises(ValueError, match=r"was made with device='cuda', now it is 'cpu'"):
                match_pairs(features, pairs, output, weights, block=2, batch_keypoints=100)
        match_pairs(features, pairs, output, weights, block=2, batch_keypoints=100, part=(2, 2))
    with pytest.raises(ValueError, match=r"was made with options="):
        match_pairs(features, pairs, output, weights, block=2, filter_threshold=0.5)
    for _ in range(2):
        assert match_pairs(features, pairs, output, weights, block=2).matched == 0
        with HlocMatches(output) as file:
            assert (file.settings["device"], file.settings["batch_keypoints"]) == ("cuda", 100)
    assert not (tmp_path / "m.h5.shards").exists()


def test_shards_of_other_settings_do_not_mix(features, pairs, weights, tmp_path):
    """A process of other settings that starts before the first shard is written stops the one before."""
    output = tmp_path / "m.h5"
    folder = ShardFolder(tmp_path / "m.h5.shards")
    ours, theirs = folder.prepare({"block": 1}), folder.prepare({"block": 2})
    match_pairs(features, pairs, tmp_path / "n.h5", weights, block=2, keep_shards=True)
    names, matches = ShardFolder(tmp_path / "n.h5.shards").read(0)
    with pytest.raises(
        ValueError, match=r"another process writes shards with other settings to .*m\.h5\.shards"
    ):
        folder.write(0, tuple(names), matches, ours)
    assert folder.numbers() == []
    folder.write(0, tuple(names), matches, theirs)
    assert folder.read(0)[0] == names and folder.header(0)[0] == names
    with pytest.raises(ValueError, match=r"m\.h5\.shards was made with block=2, now it is 1"):
        folder.prepare({"block": 1})
    # Shards that were copied here.
    shutil.copy(ShardFolder(tmp_path / "n.h5.shards").file(1), folder.file(1))
    for look in (folder.read, folder.header):
        with pytest.raises(
            ValueError, match=r"00000001\.safetensors cannot be used: it was not made with the settings"
        ):
            look(1)
    (folder.folder / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"m\.h5\.shards has shards, but no settings\.json; delete it"):
        match_pairs(features, pairs, output, weights, block=2)


def test_keypoints_of_another_detector_are_refused(features, pairs, weights, tmp_path):
    """Descriptors of ALIKED, DISK and SIFT have the same width."""
    with h5py.File(features, "a") as file:
        file.attrs["pyg_match"] = json.dumps({"extractor": "DISK(max_num_keypoints=2048) 0123"})
    with pytest.raises(
        ValueError, match=r"features\.h5 holds keypoints of disk, but .* was trained with aliked"
    ):
        match_pairs(features, pairs, tmp_path / "m.h5", weights)
    assert not list(tmp_path.glob("m.h5*"))
    for extractor in ("ALIKED(max_num_keypoints=2048) 0123", "Mine() 0123"):
        with h5py.File(features, "a") as file:
            file.attrs["pyg_match"] = json.dumps({"extractor": extractor})
        match_pairs(features, pairs, tmp_path / f"{extractor[0]}.h5", weights)
    with h5py.File(features, "a") as file:
        file.attrs["pyg_match"] = "{"
    with pytest.raises(ValueError, match=r"features\.h5 is damaged: its attribute 'pyg_match'"):
        match_pairs(features, pairs, tmp_path / "m.h5", weights)


@has_links
def test_the_file_that_a_link_points_to_is_written(features, pairs, weights, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "m.h5").symlink_to(tmp_path / "disk/m.h5")
    for matched in (21, 0):
        assert match_pairs(features, pairs, tmp_path / "m.h5", weights).matched == matched
        assert (tmp_path / "m.h5").is_symlink() and (tmp_path / "disk/m.h5").is_file()


def test_damage_is_named_and_nothing_is_lost(features, pairs, weights, tmp_path):
    output = tmp_path / "m.h5"
    match_pairs(features, pairs, output, weights, block=2, keep_shards=True)
    file = ShardFolder(tmp_path / "m.h5.shards").file(1)
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard .*00000001\.safetensors cannot be used: .* delete it"):
        match_pairs(features, pairs, output, weights, block=2)
    assert not output.exists() and not list(tmp_path.glob("*.tmp"))
    file.unlink()
    assert match_pairs(features, pairs, output, weights, block=2).num_pairs == 21


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nan", r"'b.jpg' in .* NaN"),
        ("width", r"'b.jpg' in .* descriptors of width 8, but .* expects 16"),
    ],
)
def test_features_that_do_not_fit_are_named(change, message, features, pairs, weights, tmp_path):
    with h5py.File(features, "a") as file:
        descriptors = file["b.jpg"]["descriptors"][()]
        del file["b.jpg"]["descriptors"]
        file["b.jpg"]["descriptors"] = descriptors[:8] if change == "width" else descriptors * np.nan
    with pytest.raises(ValueError, match=message):
        match_pairs(features, pairs, tmp_path / "m.h5", weights)
    assert not (tmp_path / "m.h5").exists()


def test_arguments(features, pairs, weights, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        match_pairs(features, pairs, tmp_path / "absent/m.h5", weights)
    with pytest.raises(ValueError, match="part must be a number from 1 to 3, got 4"):
        match_pairs(features, pairs, tmp_path / "m.h5", weights, part=(4, 3))
    with pytest.raises(ValueError, match="batch_keypoints"):
        match_pairs(features, pairs, tmp_path / "m.h5", weights, batch_keypoints=0)
    with pytest.raises(TypeError, match="treshold"):
        match_pairs(features, pairs, tmp_path / "m.h5", weights, filter_treshold=0.5)
    assert not (tmp_path / "m.h5").exists()
    # A call that came to nothing does not stand in the way of a right one.
    assert match_pairs(features, pairs, tmp_path / "m.h5", weights, layer_scales=None).matched == 21


def test_two_that_put_shards_together(features, pairs, weights, tmp_path):
    whole, output = tmp_path / "whole.h5", tmp_path / "m.h5"
    match_pairs(features, pairs, whole, weights, block=1)
    match_pairs(features, pairs, output, weights, block=1, keep_shards=True)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(match_pairs, features, pairs, output, weights, block=1) for _ in range(4)]
        assert [call.result().num_pairs for call in calls] == [21] * 4
    assert output.read_bytes() == whole.read_bytes() and not (tmp_path / "m.h5.shards").exists()
    # A process that was killed while it deleted shards leaves some.
    match_pairs(features, pairs, tmp_path / "n.h5", weights, block=1, keep_shards=True)
    (tmp_path / "n.h5.shards").rename(tmp_path / "m.h5.shards")
    ShardFolder(tmp_path / "m.h5.shards").file(0).unlink()
    assert match_pairs(features, pairs, output, weights, block=1).matched == 0
    assert output.read_bytes() == whole.read_bytes() and not (tmp_path / "m.h5.shards").exists()


def test_another_process_may_end_first(features, pairs, weights, tmp_path, monkeypatch):
    """It has put all shards together, and deleted them, when this one has another shard to write."""
    output, kept = tmp_path / "m.h5", tmp_path / "kept.h5"
    expected = match_pairs(features, pairs, output, weights, block=3)
    output.rename(kept)

    def overtaken(job, shards, ray):
        kept.rename(output)
        shutil.rmtree(tmp_path / "m.h5.shards")
        raise FileNotFoundError("the folder holds no shards of matches")
        yield 0

    monkeypatch.setattr("pyg_match.collections.pair_matching._run", overtaken)
    summary = match_pairs(features, pairs, output, weights, block=3)
    assert (summary.output, summary.num_pairs, summary.matched) == (output, expected.num_pairs, 0)
    output.rename(kept)
    with pytest.raises(FileNotFoundError, match="no shards"):
        monkeypatch.setattr(type(kept), "rename", lambda *_: None)
        match_pairs(features, pairs, output, weights, block=3)


def test_a_missing_shard_is_no_smaller_file(features, pairs, weights, tmp_path, monkeypatch):
    written = ShardFolder.write
    monkeypatch.setattr(
        ShardFolder, "write", lambda self, number, *args: number != 2 and written(self, number, *args)
    )
    with pytest.raises(ValueError, match=r"00000002\.safetensors cannot be used"):
        match_pairs(features, pairs, tmp_path / "m.h5", weights, block=1)
    assert not (tmp_path / "m.h5").exists()


def test_pairs_that_are_listed_again_much_later_are_written_once(features, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("pyg_match.collections.plan._WINDOW", 2)
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("a.jpg b.jpg\na.jpg one.jpg\nb.jpg a.jpg\none.jpg b.jpg\na.jpg b.jpg\n")
    match_pairs(features, pairs, tmp_path / "m.h5", weights)
    with HlocMatches(tmp_path / "m.h5") as file:
        assert sorted(file.pairs()) == [("a.jpg", "b.jpg"), ("a.jpg", "one.jpg"), ("one.jpg", "b.jpg")]
