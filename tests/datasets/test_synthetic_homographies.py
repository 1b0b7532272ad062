import errno
import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch_geometric.loader import DataLoader

from pyg_match.datasets import CorruptShardError, HomographyWarps, Photometric, SyntheticHomographies
from pyg_match.datasets.repeats import repeated_structure
from pyg_match.features import SIFT
from pyg_match.geometry import warp_points
from pyg_match.transforms import KNNGraph

SIZE = (160, 120)
MILD = HomographyWarps(perspective=0.1, rotation=20, scale=1.2, translation=0.1, both=0.3)


def make(photos, num_pairs=6, **kwargs):
    kwargs = {"size": SIZE, "warps": MILD, "shard_size": 2, **kwargs}
    return SyntheticHomographies(photos, SIFT(300), num_pairs, max_num_keypoints=200, **kwargs)


def equal(pair, other):
    names = sorted(pair.keys())
    return names == sorted(other.keys()) and all(torch.equal(pair[name], other[name]) for name in names)


def shard_files(cache):
    return sorted(path.name for path in cache.rglob("*.safetensors"))


def test_pair_is_complete_and_valid(photos):
    dataset = make(photos)
    assert len(dataset) == 6 and len(list(dataset)) == 6
    assert repr(dataset) == "SyntheticHomographies(images=3, pairs=6, seed=0)"
    for pair in dataset:
        assert pair.validate()
        assert set(pair.keys()) == {
            "x", "pos", "score", "scale", "orientation", "y", "num_keypoints", "image_size", "homography",
        }  # fmt: skip
        assert pair.image_size.tolist() in ([[160, 120]] * 2, [[120, 160]] * 2)
        assert int(pair.num_keypoints.max()) <= 200
        assert pair.x.dtype == pair.pos.dtype == torch.float and pair.homography.dtype == torch.double
    assert equal(dataset[-1], dataset[5])
    for index in (6, -7):
        with pytest.raises(IndexError, match=f"pair {index} does not exist, there are 6"):
            dataset[index]


def test_ground_truth_agrees_with_reprojection(photos):
    matched = 0
    for pair in make(photos, 8):
        count0 = int(pair.num_keypoints[0, 0])
        pos0, pos1 = pair.pos[:count0].double(), pair.pos[count0:].double()
        seen = warp_points(pos0, pair.homography[0])
        distance = torch.cdist(seen, pos1)
        truth = pair.y[:count0]
        has = truth >= 0
        assert float(distance[has, truth[has]].max()) < 3
        assert torch.equal(pair.y[count0:][truth[has]], has.nonzero().flatten())
        extent = torch.tensor(SIZE if pair.image_size[1, 0] == 160 else SIZE[::-1]) - 0.5
        outside = ((seen < -0.5) | (seen > extent)).any(1)
        alone = distance.amin(1) > 6
        assert torch.equal(truth == -1, ~has & (alone | outside))
        matched += int(has.sum())
    assert matched > 200


def test_closer_bound_for_keypoints_without_a_partner(photos, tmp_path):
    """It changes labels of what is loaded, cached or not, and the cache serves all bounds."""
    usual = make(photos, 4, cache=tmp_path)
    usual.prepare()
    close = make(photos, 4, cache=tmp_path, negative_threshold=3)
    assert close.prepare() == 0
    more = 0
    for index in range(4):
        loose, strict = usual[index], close[index]
        assert equal(strict, make(photos, 4, negative_threshold=3)[index])
        assert torch.equal(loose.y >= 0, strict.y >= 0) and torch.equal(loose.pos, strict.pos)
        assert (strict.y[loose.y == -1] == -1).all()
        more += int(((strict.y == -1) & (loose.y == -2)).sum())
    assert more > 0
    with pytest.raises(ValueError, match=r"'negative_threshold' must be at least 3\.0 px, got 2"):
        make(photos, negative_threshold=2)


def test_options_of_an_extractor_by_name(photos):
    few = SyntheticHomographies(photos, "sift", 1, extractor_options={"detection_threshold": 0.05})
    assert few[0].num_keypoints.sum() < SyntheticHomographies(photos, "sift", 1)[0].num_keypoints.sum()
    with pytest.raises(ValueError, match=r"'extractor_options' do not fit 'sift': .*'colour'"):
        SyntheticHomographies(photos, "sift", extractor_options={"colour": True})
    with pytest.raises(ValueError, match="are for an extractor given by name"):
        make(photos, extractor_options={"detection_threshold": 0.05})


def test_views_show_the_same_scene(photos):
    """Warping view 0 by the homography gives view 1, where both show the photo."""
    from kornia.geometry import warp_perspective

    dataset = make(photos, photometric=None)
    for index in range(len(dataset)):
        image0, image1, H = dataset.render(index)
        size = image1.shape[1:]
        moved = warp_perspective(image0[None].double(), H[None], size, align_corners=True)[0]
        shown = (moved.amin(0) > 0.02) & (image1.amin(0) > 0.02)
        assert float(shown.double().mean()) > 0.2
        grey0, grey1 = moved.mean(0)[shown], image1.double().mean(0)[shown]
        assert float(torch.corrcoef(torch.stack([grey0, grey1]))[0, 1]) > 0.97


def test_photometric_change_leaves_the_geometry(photos):
    plain, changed = make(photos, photometric=None), make(photos, photometric=Photometric(probability=1.0))
    for index in range(4):
        first, second = plain.render(index), changed.render(index)
        assert torch.equal(first.homography, second.homography)
        assert first.image1.shape == second.image1.shape
        assert float((first.image1 - second.image1).abs().mean()) > 0.02
    unchanged = make(photos, photometric=Photometric(reference=0.0))
    assert all(torch.equal(plain.render(i).image0, unchanged.render(i).image0) for i in range(6))


def test_no_keypoints_at_the_edge_of_the_photo(photos, tmp_path):
    """In black surroundings the outline of the photo itself has corners; they must not be found."""
    from PIL import Image

    for path in photos.rglob("*.png"):
        Image.new("RGB", Image.open(path).size, "white").save(tmp_path / path.name)
    warps = HomographyWarps(perspective=0.2, rotation=90, translation=0.7, both=0.5, min_overlap=0.1)
    paths = sorted(photos.rglob("*.png"))
    dataset = make(paths, 12, warps=warps)
    masks = make([tmp_path / path.name for path in paths], 12, warps=warps, photometric=None)
    black, found = 0, 0
    for index, pair in enumerate(dataset):
        for side, image in enumerate(masks.render(index)[:2]):
            outside = torch.nn.functional.max_pool2d(1 - image, 5, 1, padding=2)[0] > 0.5
            x, y = pair.image(side).pos.round().long().T
            assert not bool(outside[y, x].any())
            black += int((image[0] == 0).sum())
            found += len(x)
    assert black > 20_000 and found > 500


def test_same_pair_whatever_else_there_is(photos):
    dataset, longer = make(photos, 4), make(photos, 9)
    pairs = [dataset[index] for index in range(4)]
    assert all(equal(pairs[index], longer[index]) for index in (3, 1, 0, 2))
    other_seed = make(photos, 4, seed=1)
    assert not any(torch.equal(pairs[i].homography, other_seed[i].homography) for i in range(4))
    homographies = torch.cat([pair.homography for pair in longer]).flatten(1)
    assert len(torch.unique(homographies, dim=0)) == 9


def test_photos_are_drawn_in_shuffled_rounds(photos):
    dataset = make(photos, 30)
    drawn = [dataset.path(index).name for index in range(30)]
    rounds = [drawn[start : start + 3] for start in range(0, 30, 3)]
    assert all(sorted(r) == ["astronaut.png", "coffee.png", "rocket.png"] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1


@pytest.mark.parametrize(("context", "num_workers"), [("fork", 2), ("spawn", 1)])
def test_same_pairs_in_workers_and_batches(photos, tmp_path, context, num_workers):
    """Pairs 0 to 3 come from the cache, whose shards are open when the dataset is sent to the workers."""
    make(photos, 4, cache=tmp_path).prepare()
    dataset = make(photos, cache=tmp_path, transform=KNNGraph(k=4))
    expected = list(dataset)
    loader = DataLoader(dataset, batch_size=3, num_workers=num_workers, multiprocessing_context=context)
    pairs = [pair for batch in loader for pair in batch.to_data_list()]
    assert len(pairs) == 6
    for pair, other in zip(pairs, expected, strict=True):
        assert all(torch.equal(pair[key], other[key]) for key in ("pos", "x", "y", "homography"))
        assert torch.equal(pair.edge_index.as_tensor(), other.edge_index.as_tensor())


def test_processes_do_not_share_another_device(photos, tmp_path):
    dataset = SyntheticHomographies(photos, "aliked", num_pairs=2, size=SIZE, cache=tmp_path).to("meta")
    with pytest.raises(ValueError, match="'num_workers' must be 0 where keypoints are found on meta, got 2"):
        dataset.prepare(num_workers=2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_cached_pairs_equal_uncached_ones(photos, tmp_path, num_workers):
    state = torch.get_rng_state()
    dataset = make(photos, 5, cache=tmp_path)
    uncached = list(dataset)
    assert shard_files(tmp_path) == []
    assert dataset.prepare(num_workers=num_workers) == 5
    assert torch.equal(state, torch.get_rng_state())
    dataset.extractor = None  # type: ignore[assignment]  # nothing is found anew from here on
    assert all(equal(pair, other) for pair, other in zip(dataset, uncached, strict=True))
    assert shard_files(tmp_path) == [
        f"0000000{a}-0000000{b}.safetensors" for a, b in ((0, 2), (2, 4), (4, 5))
    ]
    assert not list(tmp_path.rglob("*.tmp"))
    assert dataset.prepare() == 0


def test_many_shards_with_few_open(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("pyg_match.datasets.shards._OPEN_SHARDS", 2)
    dataset = make(photos, 5, cache=tmp_path, shard_size=1)
    dataset.prepare()
    for index in (0, 4, 2, 1, 0, 3, 4):
        assert equal(dataset[index], make(photos, 5)[index])
    assert len(dataset.shards._open) == 2


def test_every_setting_has_its_own_cache(photos, tmp_path):
    def folder(images=photos, extractor=None, **kwargs):
        kwargs = {"num_pairs": 4, "max_num_keypoints": 200, "cache": tmp_path, **kwargs}
        return SyntheticHomographies(images, extractor or SIFT(300), **kwargs).shards.folder

    paths = sorted(photos.rglob("*.png"))
    variants = [
        folder(),
        folder(seed=1),
        folder(size=(80, 60)),
        folder(max_num_keypoints=100),
        folder(extractor=SIFT(200)),
        folder(extractor=SIFT(300, edge_threshold=5.0)),
        folder(extractor="rootsift"),
        folder(warps=HomographyWarps(rotation=180)),
        folder(photometric=Photometric(noise=0.1)),
        folder(photometric=None),
        folder(repeats=0.5),
        folder(images=paths[:2]),
        folder(images=paths[::-1]),
    ]
    assert len(set(variants)) == len(variants)
    assert folder() == folder(num_pairs=9, transform=KNNGraph(k=2), shard_size=3) == variants[0]


def test_weights_and_image_content_belong_to_the_fingerprint(tmp_path):
    from PIL import Image

    class Weighted(SIFT):
        def __init__(self, value):
            super().__init__(10)
            self.weight = torch.nn.Parameter(torch.full((2,), value))

    def folder(name, value=0.0):
        return SyntheticHomographies(tmp_path / name, Weighted(value), cache=tmp_path / "cache").shards.folder

    for name, grey in (("a", 10), ("copy", 10), ("b", 200)):
        (tmp_path / name).mkdir()
        Image.new("L", (32, 32), grey).save(tmp_path / name / "1.bmp")
    assert folder("a") == folder("copy") != folder("b")
    assert folder("a") != folder("a", 1.0)


def test_a_longer_run_keeps_whole_shards(photos, tmp_path):
    assert make(photos, 4, cache=tmp_path).prepare() == 4
    assert make(photos, 7, cache=tmp_path).prepare() == 3


def prepare(photos, cache, num_pairs, max_bytes=None):
    """The body of another process, which exits with 3 on an error of the disk."""
    if max_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    try:
        make(photos, num_pairs, cache=cache).prepare()
    except OSError as error:
        sys.exit(3 if "cannot write the shard of pairs 0 to 1 (File too large)" in str(error) else 4)


def start(*args):
    process = multiprocessing.get_context("fork").Process(target=prepare, args=args)
    process.start()
    return process


def test_resume_after_kill(photos, tmp_path):
    """Killed with whole shards written, the next run makes only the rest, and the same as ever."""
    process = start(photos, tmp_path, 400)
    deadline = time.time() + 600
    while len(shard_files(tmp_path)) < 3 and process.is_alive() and time.time() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    done = len(shard_files(tmp_path))
    assert process.exitcode == -9 and 3 <= done < 200
    dataset = make(photos, 2 * done + 4, cache=tmp_path)
    assert dataset.prepare() == 4
    fresh = make(photos, 2 * done + 4)
    assert all(equal(dataset[index], fresh[index]) for index in (0, 2 * done - 1, 2 * done, 2 * done + 3))


def test_two_processes_prepare_the_same_cache(photos, tmp_path):
    processes = [start(photos, tmp_path, 12) for _ in range(2)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(shard_files(tmp_path)) == 6 and not list(tmp_path.rglob("*.tmp"))
    dataset = make(photos, 12, cache=tmp_path)
    assert dataset.prepare() == 0
    assert equal(dataset[7], make(photos, 12)[7])


def damage(file, how):
    content = bytearray(file.read_bytes())
    if how == "cut off":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    elif how == "one bit":
        content[len(content) // 2] ^= 4
    elif how == "header":
        content[:8] = (2**40).to_bytes(8, "little")
    else:
        content = bytearray(os.urandom(len(content)))
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["cut off", "empty", "one bit", "header", "noise"])
def test_corrupt_shard(photos, tmp_path, how):
    expected = list(make(photos, 4))
    make(photos, 4, cache=tmp_path).prepare()
    file = next(tmp_path.rglob("00000002-00000004.safetensors"))
    damage(file, how)

    dataset = make(photos, 4, cache=tmp_path)
    assert equal(dataset[1], expected[1])
    for touch in (lambda: dataset[2], lambda: dataset[2], dataset.prepare):
        with pytest.raises(
            CorruptShardError, match=f"shard '{file}' cannot be used: .*; delete it, or pass repair"
        ):
            touch()

    assert equal(make(photos, 4, cache=tmp_path, repair=True)[3], expected[3])
    assert make(photos, 4, cache=tmp_path).prepare() == 0
    damage(file, how)
    assert make(photos, 4, cache=tmp_path, repair=True).prepare() == 2
    assert all(equal(a, b) for a, b in zip(make(photos, 4, cache=tmp_path), expected, strict=True))


def test_shard_of_other_settings_is_refused(photos, tmp_path):
    first, second = make(photos, cache=tmp_path), make(photos, cache=tmp_path, seed=1)
    first.prepare()
    second.shards.folder.mkdir(parents=True)
    os.replace(first.shards.file(0), second.shards.file(0))
    with pytest.raises(CorruptShardError, match="made with other settings"):
        second[0]


def test_full_disk(photos, tmp_path, monkeypatch):
    dataset = make(photos, cache=tmp_path)
    flushed = []

    def full(descriptor):
        flushed.append(descriptor)
        if len(flushed) > 2:  # after the description and the first shard
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"pairs 2 to 3 .No space left on device.; the 1 shards") as caught:
        dataset.prepare()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(dataset.shards.file(1))
    assert shard_files(tmp_path) == ["00000000-00000002.safetensors"] and not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    assert dataset.prepare() == 4


def test_limit_on_file_size(photos, tmp_path):
    """The kernel itself refuses the bytes."""
    process = start(photos, tmp_path, 4, 20_000)
    process.join(60)
    assert process.exitcode == 3
    assert not list(tmp_path.rglob("*.tmp")) and shard_files(tmp_path) == []


def test_cache_below_a_file_is_unwritable(photos, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot write the shard of pairs 0 to 1"):
        make(photos, cache=tmp_path / "file").prepare()


def test_abandoned_temporary_files_are_swept(photos, tmp_path):
    dataset = make(photos, 2, cache=tmp_path)
    dataset.shards.folder.mkdir(parents=True)
    old, young = (dataset.shards.folder / f"{name}.tmp" for name in ("old", "young"))
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    dataset.prepare()
    assert not old.exists() and young.exists()


def test_progress_in_lines(photos, tmp_path, capsys):
    """A log has where it starts, in whole shards, and each tenth at most; nothing if there is nothing to do."""
    for total, told in ((3, range(4)), (24, [2, 3, 5, 8, 10, 12, 15, 17, 20, 22, 24]), (24, [])):
        made = make(photos, total, cache=tmp_path).prepare(progress=True)
        assert made == (total - told[0] if told else 0)
        lines = [f"finding keypoints {number}/{total}" for number in told]
        assert capsys.readouterr().err.splitlines() == lines


def test_progress_bar_in_a_terminal(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert make(photos, 3, cache=tmp_path).prepare(progress=True) == 3
    assert "3/3" in capsys.readouterr().err


def test_transform_is_never_cached(photos, tmp_path):
    dataset = make(photos, 2, cache=tmp_path, transform=KNNGraph(k=3))
    dataset.prepare()
    assert dataset[0].edge_index.size(1) == 3 * dataset[0].num_nodes
    dataset.transform = None
    assert "edge_index" not in dataset[0]


def test_pairs_with_limits_of_their_own(photos, tmp_path):
    """The same cache, fewer keypoints: the best ones, labelled as if the extractor had found no others."""
    whole = make(photos, 8, cache=tmp_path)
    limited = make(photos, 8, cache=tmp_path, min_num_keypoints=20)
    whole.prepare()
    assert limited.prepare() == 0
    counts = set()
    for few, many, again in zip(limited, whole, limited, strict=True):
        assert few.validate() and equal(few, again)
        count0, all0 = int(few.num_keypoints[0, 0]), int(many.num_keypoints[0, 0])
        counts.add(limit := int(few.num_keypoints.max()))
        assert 20 <= limit <= 200 and torch.equal(few.homography, many.homography)
        best = many.score[:all0].sort(descending=True).values[:count0]
        assert torch.equal(few.score[:count0].sort(descending=True).values, best)
        distance = torch.cdist(
            warp_points(few.pos[:count0].double(), few.homography[0]), few.pos[count0:].double()
        )
        has = few.y[:count0] >= 0
        assert torch.equal(few.y[count0:][few.y[:count0][has]], has.nonzero().flatten())
        assert float(distance[has, few.y[:count0][has]].amax() if has.any() else 0) < 3
        assert bool((distance[few.y[:count0] == -2].amin(1) < 6).all())
    assert len(counts) > 4
    for wrong in (0, 201):
        with pytest.raises(
            ValueError, match=f"'min_num_keypoints' must be None or between 1 .* = 200, got {wrong}"
        ):
            make(photos, min_num_keypoints=wrong)


def test_unusual_images(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    noise = np.kron(rng.integers(0, 255, (12, 16)), np.ones((10, 10)))
    rgba = np.dstack([noise, noise[::-1], noise, np.where(np.arange(160) < 80, 255, 128) + 0 * noise])
    images = {
        "grey.png": Image.fromarray(noise.astype(np.uint8)),
        "alpha.png": Image.fromarray(rgba.astype(np.uint8)),
        "deep.png": Image.fromarray((noise * 257).astype(np.uint16)),
        "pixel.png": Image.new("RGB", (1, 1), (200, 90, 10)),
        "tiny.png": Image.fromarray(rng.integers(0, 255, (3, 2, 3)).astype(np.uint8)),
        "thin.png": Image.fromarray(rng.integers(0, 255, (2, 300, 3)).astype(np.uint8)),
        "blank.png": Image.new("L", (200, 100), 128),
        "large.png": Image.fromarray(noise.astype(np.uint8)).resize((2000, 1500), 0),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    dataset = make(tmp_path, 16, photometric=None, cache=tmp_path / "cache", repeats=0.3)
    assert len(dataset.paths) == 8
    assert dataset.prepare() == 16
    counts = {}
    for index, pair in enumerate(dataset):
        assert pair.validate()
        counts.setdefault(dataset.path(index).name, []).append(pair.num_nodes)
    assert counts["blank.png"] == counts["pixel.png"] == [0, 0]
    assert min(map(min, (counts[name] for name in ("grey.png", "alpha.png", "deep.png", "large.png")))) > 20


def test_images_without_keypoints_batch(tmp_path):
    from PIL import Image

    Image.new("L", (200, 100), 128).save(tmp_path / "blank.png")
    dataset = make(tmp_path, 2, photometric=None)
    assert dataset[0].x.shape == (0, 128) and dataset[0].y.shape == (0,)
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    assert batch.num_keypoints.tolist() == [[0, 0], [0, 0]]


def test_large_photos_are_smoothed_before_they_are_shrunk(tmp_path):
    """A fine chequerboard becomes grey instead of noise."""
    from PIL import Image

    board = np.indices((900, 1200)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "board.png")
    image0 = make(tmp_path, 1, photometric=None, warps=HomographyWarps(both=0)).render(0).image0
    assert float((image0[:, 5:-5, 5:-5] - 0.5).abs().max()) < 0.2


def autocorrelation(image):
    """The highest correlation of an image with itself, moved by more than 6 pixels."""
    grey = image.mean(0)
    grey = grey - grey.mean()
    spectrum = torch.fft.rfft2(grey, s=[2 * extent for extent in grey.shape])
    correlation = torch.fft.irfft2(spectrum.abs() ** 2)
    correlation = correlation / correlation[0, 0]
    correlation[:7, :7] = correlation[-6:, :7] = correlation[:7, -6:] = correlation[-6:, -6:] = 0
    height, width = grey.shape
    return float(correlation[: height // 2, : width // 2].max())


def test_repeated_structure_repeats():
    blobs = torch.rand(1, 3, 24, 32)  # of 5 pixels, none of which resembles another
    photo = torch.nn.functional.interpolate(blobs, scale_factor=5.0)[0]
    repeats = [repeated_structure(photo, torch.Generator().manual_seed(seed)) for seed in range(6)]
    assert autocorrelation(photo) < 0.15
    for image in repeats:
        assert image.shape == photo.shape and 0 <= float(image.min()) <= float(image.max()) <= 1
        assert autocorrelation(image) > autocorrelation(photo)
    assert sum(map(autocorrelation, repeats)) / len(repeats) > 0.25
    assert not torch.equal(repeats[0], repeats[1])
    assert torch.equal(repeats[2], repeated_structure(photo, torch.Generator().manual_seed(2)))


def test_share_of_repeats(photos):
    plain, half, full = (make(photos, 20, photometric=None, repeats=share) for share in (0.0, 0.5, 1.0))
    differs = [not torch.equal(plain.render(i).image0, half.render(i).image0) for i in range(20)]
    assert 3 < sum(differs) < 17
    assert not any(torch.equal(plain.render(i).image0, full.render(i).image0) for i in range(6))


def test_views_of_different_photos(photos, tmp_path):
    """They are views of related pairs, joined anew, so that the cache serves them too."""
    related = make(photos, 12, cache=tmp_path)
    related.prepare()
    dataset = make(photos, 12, cache=tmp_path, unrelated=0.5, min_num_keypoints=64)
    assert dataset.prepare() == 0
    uncached = make(photos, 12, unrelated=0.5, min_num_keypoints=64)
    seconds = [related[i].image(1).x for i in range(12)]
    strange = 0
    for i in range(12):
        pair, again, views = dataset[i], uncached[i], dataset.render(i)
        assert torch.equal(pair.y, again.y) and torch.equal(pair.x, again.x)
        assert torch.equal(views.image0, related.render(i).image0)
        if pair.homography.isfinite().all():
            assert torch.equal(pair.homography, related[i].homography)
            assert torch.equal(views.image1, related.render(i).image1)
            continue
        strange += 1
        assert (pair.y == -1).all() and views.homography.isnan().all()
        shown = pair.image(1).x
        source = next(j for j in range(12) if (seconds[j][:, None] == shown[:1]).all(-1).any())
        assert dataset.path(source) != dataset.path(i)
        assert torch.equal(views.image1, related.render(source).image1)
    assert 2 < strange < 10
    dataset[next(i for i in range(12) if dataset[i].homography.isnan().all())].homography.zero_()
    assert not any((dataset[i].homography == 0).all() for i in range(12))
    with pytest.raises(ValueError, match="'unrelated' pairs need at least 2 photos, got 1"):
        make(dataset.paths[:1], 2, unrelated=1.0)


def test_user_errors(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="no images under"):
        make(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        make(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no image at .*missing.png' \(1 of 1"):
        make([tmp_path / "missing.png"])
    with pytest.raises(ValueError, match="list of images is empty"):
        make([])
    with pytest.raises(ValueError, match=r"broken\.jpg is not an image"):
        make(tmp_path)[0]
    with pytest.raises(TypeError, match="'extractor' must be a name or an Extractor, got function"):
        SyntheticHomographies(photos, lambda image: image)
    with pytest.raises(ValueError, match="unknown extractor 'alike'"):
        SyntheticHomographies(photos, "alike")
    with pytest.raises(ValueError, match="nothing to prepare without a cache"):
        make(photos).prepare()
    for name, value in (
        ("num_pairs", 0),
        ("size", (0, 5)),
        ("repeats", 2.0),
        ("unrelated", -1.0),
        ("shard_size", 0),
    ):
        with pytest.raises(ValueError, match=f"'{name}' must be .*, got"):
            make(photos, **{name: value})
    with pytest.raises(ValueError, match=r"'max_num_keypoints' must be .*, got 0"):
        SyntheticHomographies(photos, SIFT(), max_num_keypoints=0)


def test_import_is_cheap():
    script = (
        "import sys, pyg_match.datasets;"
        "print([name for name in ('kornia', 'cv2', 'rich', 'PIL.Image', 'matplotlib') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_extractor_by_name(photos):
    state = torch.get_rng_state()
    dataset = SyntheticHomographies(photos, "aliked", num_pairs=1, max_num_keypoints=64, size=SIZE)
    assert torch.equal(state, torch.get_rng_state())
    pair = dataset[0]
    assert pair.x.size(1) == 128 and int(pair.num_keypoints.max()) <= 64
    assert dataset.extractor.max_num_keypoints == 80


def test_a_shortened_direction_is_averaged_not_skipped():
    """Stripes finer than the pixels of a tilted view become grey, as a camera would see them."""
    from pyg_match.datasets.views import render_view

    photo = (torch.arange(300) % 2).float().repeat(3, 200, 1)
    to_view = torch.diag(torch.tensor([0.25, 1.0, 1.0], dtype=torch.float64))
    view = render_view(photo, to_view, (75, 200))
    assert view.shape == (3, 200, 75)
    assert float((view[:, 5:-5, 5:-5] - 0.5).abs().max()) < 0.05


def test_what_is_averaged_has_a_limit():
    """A view that shows next to nothing of one direction is no reason to run out of memory."""
    from pyg_match.datasets.views import render_view

    to_view = torch.diag(torch.tensor([1e-9, 1.0, 1.0], dtype=torch.float64))
    view = render_view(torch.rand(3, 40, 60), to_view, (60, 40))
    assert view.shape == (3, 40, 60)
    assert bool(view.isfinite().all())


def test_a_shortened_view_stays_in_its_place():
    """A photo whose grey values are its coordinates shows, in a pixel, where the homography says that it looks."""
    from pyg_match.datasets.views import render_view

    x, y = torch.arange(300.0).expand(200, 300) / 300, torch.arange(200.0)[:, None].expand(200, 300) / 300
    to_view = torch.tensor([[0.25, 0, 3.0], [0.1, 2.4, -4.0], [0, 0, 1]], dtype=torch.float64)
    view = render_view(torch.stack([x, y, x]), to_view, (70, 400))
    pixels = torch.cartesian_prod(torch.arange(8.0, 66), torch.arange(20.0, 380)).double()
    seen = warp_points(pixels, torch.linalg.inv(to_view)).float() / 300
    inside = ((seen > 0.05) & (seen < torch.tensor([0.95, 0.6]))).all(1)
    found = view[:2, pixels[:, 1].long(), pixels[:, 0].long()].T
    assert int(inside.sum()) > 1000
    assert float((found - seen)[inside].abs().max()) < 0.02 / 300
