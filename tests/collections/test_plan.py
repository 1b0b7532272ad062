"""Lists of pairs and the shards that they are cut into."""

import itertools

import h5py
import numpy as np
import pytest
from hloc_files import COUNTS, write_hloc_features
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyg_match.collections import (
    PairPlan,
    exhaustive_pairs,
    listed_pairs,
    open_features,
    read_pairs,
    sequential_pairs,
    write_pairs,
)

NAMES = [f"{i:03d}.jpg" for i in range(30)]


class Known:
    """Features of which only the numbers of keypoints matter."""

    path = "known.h5"

    def __init__(self, names, count=10):
        self.counts = dict.fromkeys(names, count)

    def num_keypoints(self, name):
        return self.counts.get(name)


def planned(plan):
    """The pairs of all shards by name."""
    return [(s.names[i], s.names[j]) for s in plan for i, j in s.pairs.tolist()]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=1, max_size=200),
    block=st.integers(1, 40),
    window=st.sampled_from([7, 50, 10_000]),
)
def test_every_pair_is_in_one_shard(pairs, block, window, tmp_path, monkeypatch):
    monkeypatch.setattr("pyg_match.collections.plan._WINDOW", window)
    path = tmp_path / "pairs.txt"
    path.write_text("".join(f"{a} {b}\n" for a, b in pairs))
    wanted = {frozenset(pair) for pair in pairs if len(set(pair)) == 2}
    if not wanted:
        with pytest.raises(ValueError, match=r"no pair of .* can be matched"):
            PairPlan(path, Known(NAMES), block)
        return
    plan = PairPlan(path, Known(NAMES), block)
    shards = list(plan)
    assert plan.num_shards == len(shards)
    got = planned(shards)
    assert set(map(frozenset, got)) == wanted and set(got) <= set(pairs)
    if window > len(pairs):  # repeats that are further apart are found when they are written
        assert len(got) == len(wanted)
    assert plan.num_pairs == len(got) and plan.left_out == sum(a == b for a, b in pairs)
    assert plan.repeated == len(pairs) - len(got) - plan.left_out
    assert [shard.number for shard in shards] == list(range(len(shards)))
    for shard in shards:
        assert 0 < len(shard.pairs) <= block**2 and len(shard.names) <= 4 * block
        assert sorted(set(shard.pairs.flatten().tolist())) == list(range(len(shard.names)))
    again = PairPlan(path, Known(NAMES), block)
    assert planned(again) == got and again.digest == plan.digest


def test_shards_read_few_images(tmp_path):
    names = [f"{i:04d}.jpg" for i in range(450)]
    write_pairs(tmp_path / "pairs.txt", exhaustive_pairs(names))
    shards = list(PairPlan(tmp_path / "pairs.txt", Known(names)))
    assert sum(len(shard.pairs) for shard in shards) == 450 * 449 // 2 == 101_025
    assert sum(len(shard.names) for shard in shards) < 10_000  # of 202,050 that pairs one by one read


def test_images_without_features_are_left_out_with_their_pairs(features, tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("a.jpg b.jpg\n\na.jpg gone.jpg\ngone.jpg b.jpg\na.jpg lost.jpg\n")
    with open_features(features) as opened:
        plan = PairPlan(path, opened)
        assert planned(plan) == [("a.jpg", "b.jpg")]
        assert plan.missing == {"gone.jpg": 3, "lost.jpg": 5} and plan.left_out == 3
        assert list(listed_pairs(path, opened)) == [("a.jpg", "b.jpg")]
        path.write_text("lost.jpg gone.jpg\n")
        with pytest.raises(
            ValueError, match=r"no pair of .* 2 of its images have no features, such as 'lost.jpg'"
        ):
            PairPlan(path, opened)


def test_names_that_matches_cannot_tell_apart_are_refused(tmp_path):
    path = write_hloc_features(tmp_path / "f.h5", {"a/b.jpg": 3, "a-b.jpg": 3, "c.jpg": 3})
    (tmp_path / "pairs.txt").write_text("a/b.jpg c.jpg\na-b.jpg c.jpg\n")
    with (
        open_features(path) as opened,
        pytest.raises(ValueError, match=r"'a/b.jpg' and 'a-b.jpg' would share .*'a-b"),
    ):
        PairPlan(tmp_path / "pairs.txt", opened)


def test_more_keypoints_than_16_bits_name_are_refused(tmp_path):
    path = write_hloc_features(tmp_path / "f.h5", {"a.jpg": 3, "b.jpg": 3})
    with h5py.File(path, "a") as file:
        del file["b.jpg"]["keypoints"]
        file["b.jpg"]["keypoints"] = np.zeros((32_768, 2), np.float32)
    (tmp_path / "pairs.txt").write_text("a.jpg b.jpg\n")
    with (
        open_features(path) as opened,
        pytest.raises(ValueError, match=r"'b.jpg' has 32768 keypoints.* at most 32767"),
    ):
        PairPlan(tmp_path / "pairs.txt", opened)


def test_lists_that_are_none_are_refused(features, tmp_path):
    path = tmp_path / "pairs.txt"
    for text, message in (
        ("a.jpg b.jpg c.jpg\n", "line 1 of .* two names .* 'a.jpg b.jpg c.jpg'"),
        ("a\n", "line 1"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            list(read_pairs(path))
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match="not a list of pairs in UTF-8"):
        list(read_pairs(path))
    with pytest.raises(FileNotFoundError, match="no list of pairs at"):
        list(read_pairs(tmp_path / "absent.txt"))


def test_written_lists(tmp_path):
    path = tmp_path / "pairs.txt"
    assert write_pairs(path, exhaustive_pairs(sorted(COUNTS))) == 21
    before = path.read_text()
    assert [pair for _, pair in read_pairs(path)] == list(itertools.combinations(sorted(COUNTS), 2))
    for pairs, message in (
        ([("a", "my photo.jpg")], "cannot hold the name 'my photo.jpg'"),
        ([], "no pair to write"),
    ):
        with pytest.raises(ValueError, match=message):
            write_pairs(path, pairs)
    assert path.read_text() == before and [file.name for file in tmp_path.iterdir()] == ["pairs.txt"]
    with pytest.raises(OSError, match="cannot write"):
        write_pairs(tmp_path / "absent/pairs.txt", [("a", "b")])


def test_sequential_pairs():
    names = [str(i) for i in range(12)]
    near = list(sequential_pairs(names, window=3))
    assert near == [(a, b) for a, b in itertools.combinations(names, 2) if int(b) - int(a) <= 3]
    with_loops = set(sequential_pairs(names, window=3, loop_step=4))
    assert with_loops - set(near) == {("0", "4"), ("0", "8"), ("4", "8")}
    assert list(sequential_pairs(names, window=100)) == list(exhaustive_pairs(names))
    with pytest.raises(ValueError, match=r"window.* got 0"):
        list(sequential_pairs(names, window=0))


def test_lists_with_a_byte_order_mark(tmp_path):
    (tmp_path / "pairs.txt").write_text("a.jpg b.jpg\nb.jpg c.jpg\n", encoding="utf-8-sig")
    assert [pair for _, pair in read_pairs(tmp_path / "pairs.txt")] == [
        ("a.jpg", "b.jpg"),
        ("b.jpg", "c.jpg"),
    ]
