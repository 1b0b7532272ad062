"""Files in hloc's layout, written without this package, and limits of files."""

import resource
import signal

import h5py
import numpy as np
import pytest
import torch_geometric

CHANNELS = 16
COUNTS = {
    "a.jpg": 40,
    "b.jpg": 31,
    "left/0001.png": 25,
    "left/0002.png": 37,
    "none.jpg": 0,
    "one.jpg": 1,
    "right/0001.png": 50,
}


def write_hloc_features(path, counts, seed=0, dtype=np.float32):
    """Features as hloc lays them out, written without this package: views of the same points, with noise."""
    generator = np.random.default_rng(seed)
    most = max(counts.values())
    points, descriptors = generator.random((most, 2)), generator.normal(size=(most, CHANNELS))
    with h5py.File(path, "w", libver="latest") as file:
        for name, count in counts.items():
            chosen = generator.permutation(most)[:count]
            noisy = descriptors[chosen] + 0.05 * generator.normal(size=(count, CHANNELS))
            noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
            group = file.create_group(name)
            group.create_dataset("keypoints", data=(points[chosen] * [639, 479]).astype(dtype))
            group.create_dataset("descriptors", data=noisy.T.astype(dtype))
            group.create_dataset("keypoint_scores", data=generator.random(count).astype(dtype))
            group.create_dataset("image_size", data=np.array([640, 480]))
            group["keypoints"].attrs["uncertainty"] = 1.0
    return path


# As PyG 2.7 does when it is imported.
imports_write = pytest.mark.skipif(
    tuple(map(int, torch_geometric.__version__.split(".")[:2])) < (2, 8),
    reason="this version of PyG writes files before there is anything to lose",
)


def limit_files(size):
    """Files of this process may not become larger than so many bytes, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
