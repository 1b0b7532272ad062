"""Shards on a Ray cluster of several nodes on one machine."""

import threading
import time

import pytest
from hloc_files import write_hloc_features

from pyg_match.collections import ShardFolder, exhaustive_pairs, match_pairs, write_pairs

ray = pytest.importorskip("ray")


@pytest.fixture
def many(tmp_path, weights):
    names = {f"{i:02d}.jpg": 40 for i in range(40)}
    features = write_hloc_features(tmp_path / "f.h5", names)
    write_pairs(tmp_path / "pairs.txt", exhaustive_pairs(sorted(names)))
    return features, tmp_path / "pairs.txt", {"weights": weights, "block": 2, "batch_keypoints": 80}


def test_a_node_is_killed_and_the_file_is_the_same(many, tmp_path):
    from ray.cluster_utils import Cluster

    features, pairs, options = many
    match_pairs(features, pairs, tmp_path / "whole.h5", **options)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    shards = ShardFolder(tmp_path / "m.h5.shards")
    finished_then = []

    def kill():
        while len(shards.numbers()) < 20:
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)
        finished_then.append(len(shards.numbers()))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        summary = match_pairs(features, pairs, tmp_path / "m.h5", ray=cluster.address, **options)
    finally:
        killer.join(timeout=60)
        cluster.shutdown()
    assert summary.matched == summary.num_pairs == 780
    assert 20 <= finished_then[0] < 210
    assert (tmp_path / "m.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not shards.folder.exists() and not ray.is_initialized()


def test_an_embedded_cluster_names_what_is_wrong(many, tmp_path):
    import h5py

    features, pairs, options = many
    with h5py.File(features, "a") as file:
        del file["05.jpg"]["descriptors"]
    with pytest.raises(ValueError, match=r"'05.jpg' in .* lacks 'descriptors'"):
        match_pairs(features, pairs, tmp_path / "m.h5", ray="local", **options)
    assert not ray.is_initialized() and not (tmp_path / "m.h5").exists()
    with pytest.raises(ConnectionError, match=r"no Ray cluster can be had at 'localhost:1'"):
        match_pairs(features, pairs, tmp_path / "n.h5", ray="localhost:1", **options)
