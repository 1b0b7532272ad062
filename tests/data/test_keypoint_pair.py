import warnings

import pytest
import torch
import torch_geometric.transforms as T
from helpers import random_pair, random_set
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, InMemoryDataset
from torch_geometric.loader import DataLoader
from torch_geometric.utils import unbatch

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import CandidateEdges, KNNGraph, RingPartition


def make_pairs():
    counts = [(5, 8), (7, 1), (0, 4), (3, 0), (1, 1), (0, 0)]
    return [CandidateEdges(3)(KNNGraph(2, loop=True)(random_pair(*c))) for c in counts]


def test_from_sets_joins_what_both_sets_have():
    set0, set1 = random_set(3), random_set(2)
    set0.scale = torch.rand(3)
    pair = KeypointPair.from_sets(set0, set1, y=torch.tensor([0, -1, -2, 0, -1]), homography=torch.eye(3))
    assert "scale" not in pair
    assert pair.image_ptr.tolist() == [0, 3, 5]
    assert pair.image_batch.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(pair.image(1).pos, set1.pos)
    assert pair.validate()


def test_batches_without_padding_and_comes_apart():
    pairs = make_pairs()
    (batch,) = DataLoader(pairs, batch_size=len(pairs))
    assert batch.validate()
    assert batch.num_nodes == sum(p.num_nodes for p in pairs)
    assert isinstance(batch.edge_index, EdgeIndex)
    assert batch.edge_index.is_sorted_by_col
    assert batch.cross_edge_index.is_sorted_by_col
    for before, after in zip(pairs, batch.to_data_list(), strict=True):
        assert isinstance(after, KeypointPair)
        for key in before.keys():  # noqa: SIM118
            assert torch.equal(before[key], after[key]), key
        after.validate()
    assert [len(p) for p in unbatch(batch.pos, batch.batch, batch_size=len(pairs))] == [
        p.num_nodes for p in pairs
    ]


def test_image_of_batch():
    pairs = make_pairs()
    batch = Batch.from_data_list(pairs)
    for number, pair in enumerate(pairs):
        for side in (0, 1):
            assert torch.equal(batch.image(2 * number + side).pos, pair.image(side).pos)
    for number in (12, -1):
        with pytest.raises(
            IndexError, match=f"image {number} does not exist, expected a number from 0 to 11"
        ):
            batch.image(number)


def test_swapped():
    homography = torch.tensor([[1.0, 0.1, 5], [0, 1.2, -3], [0, 0, 1]])
    pair = random_pair(3, 2)
    pair.y = torch.tensor([1, -1, -2, -1, 0])
    pair.homography = homography[None]
    swapped = pair.swapped()
    assert swapped.num_keypoints.tolist() == [[2, 3]]
    assert swapped.y.tolist() == [-1, 0, 1, -1, -2]
    assert torch.allclose(swapped.homography[0] @ homography, torch.eye(3), atol=1e-6)


@pytest.mark.parametrize("kind", [torch.long, torch.half])
def test_homographies_of_other_numbers(kind):
    homography = torch.tensor([[1, 0, 5], [0, 1, 0], [0, 0, 1]], dtype=kind)
    pair = KeypointPair.from_sets(random_set(3), random_set(2), homography=homography)
    assert pair.homography.dtype == torch.float and pair.validate()
    assert pair.swapped().homography[0, 0].tolist() == [1, 0, -5]


def test_save_load_and_copy(tmp_path):
    pair = make_pairs()[0]
    torch.save(pair, tmp_path / "pair.pt")
    loaded = torch.load(tmp_path / "pair.pt", weights_only=False)
    assert loaded.validate()
    assert torch.equal(loaded.cross_edge_index, pair.cross_edge_index)
    moved = pair.clone().to("cpu", non_blocking=True)
    assert moved.edge_index.is_sorted_by_col
    if torch.cuda.is_available():
        assert pair.pin_memory().pos.is_pinned()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_keypoints": torch.tensor([[3, 3]])}, "must sum to the 5 keypoints"),
        ({"edge_index": torch.tensor([[0], [4]])}, "'edge_index' must join keypoints of the same image"),
        (
            {"cross_edge_index": torch.tensor([[0], [1]])},
            "'cross_edge_index' must join keypoints of the two images",
        ),
        ({"cross_edge_index": torch.tensor([[0], [7]])}, "names node 7, but there are 5"),
        ({"cross_edge_index": torch.tensor([[-1], [4]])}, "names node -1"),
        ({"y": torch.tensor([2, -1, -1, -1, -1])}, "'y' must hold"),
        (
            {"image_size": torch.tensor([[9, 9]])},
            "must have shape \\[2, 2\\], a row .* for each image, got \\[1, 2\\]",
        ),
        ({"y": torch.tensor([1])}, r"'y' must have shape \[5\]"),
        ({"x": torch.full((5, 16), torch.inf)}, "'x' holds NaN or infinite"),
    ],
)
def test_validate_names_the_fault(change, message):
    pair = random_pair(3, 2)
    for key, value in change.items():
        pair[key] = value
    with pytest.raises(ValueError, match=message):
        pair.validate()
    assert pair.validate(raise_on_error=False) is False


def test_from_sets_refuses_what_is_no_set():
    with pytest.raises(TypeError, match="'set1' must be a KeypointSet, got NoneType"):
        KeypointPair.from_sets(random_set(2), None)


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8])
def test_numbers_of_few_bits(dtype):
    pair = KeypointPair.from_sets(random_set(2), random_set(3))
    pair.num_keypoints = pair.num_keypoints.to(dtype)
    assert pair.validate() and pair.image_batch.tolist() == [0, 0, 1, 1, 1]


def test_from_sets_refuses_other_widths():
    with pytest.raises(ValueError, match="same width, got 16 and 8"):
        KeypointPair.from_sets(random_set(2, 16), random_set(2, 8))


@pytest.mark.parametrize("by_numbers", [False, True])
def test_subgraph_is_the_pair_of_what_is_kept(by_numbers):
    pair = T.Compose([KNNGraph(3), CandidateEdges(2), RingPartition([1, 2])])(random_pair(7, 5))
    pair.y = torch.tensor([0, -1, 3, 4, -2, -1, 2, 0, -2, 6, 2, 3])
    pair.edge_weight = torch.arange(float(pair.edge_index.size(1)))
    pair.cross_edge_mask = torch.arange(pair.cross_edge_index.size(1)) % 3 > 0
    pair.homography = torch.eye(3)[None]
    keep = torch.tensor([True, True, False, True, False, False, True, True, False, True, True, False])
    nodes = keep.nonzero().flatten()
    part = pair.subgraph(nodes if by_numbers else keep)
    part.validate()
    assert isinstance(part, KeypointPair) and part.num_keypoints.tolist() == [[4, 3]]
    assert torch.equal(part.pos, pair.pos[keep]) and torch.equal(part.image(1).x, pair.x[7:][keep[7:]])
    # Nodes 0, 1, 3, 6 of image 0, and 0, 2, 3 of image 1.
    assert part.y.tolist() == [0, -1, -1, 1, 0, 3, -1]
    for name, other in (
        ("edge_index", "edge_weight"),
        ("cross_edge_index", "cross_edge_mask"),
        ("edge_index_1", None),
    ):
        whole = {
            (int(s), int(t)): None if other is None else pair[other][i].item()
            for i, (s, t) in enumerate(pair[name].as_tensor().t())
        }
        expected = {ends: value for ends, value in whole.items() if keep[list(ends)].all()}
        found = {
            (int(nodes[s]), int(nodes[t])): None if other is None else part[other][i].item()
            for i, (s, t) in enumerate(part[name].as_tensor().t())
        }
        assert found == expected and part[name].is_sorted_by_col
    assert torch.equal(part.image_size, pair.image_size) and torch.equal(part.homography, pair.homography)
    assert pair.num_keypoints.tolist() == [[7, 5]] and pair.y.numel() == 12


def test_subgraphs_of_few_keypoints_and_of_batches():
    pair = random_pair(2, 1)
    assert pair.subgraph(torch.tensor([0, 2])).num_keypoints.tolist() == [[1, 1]]
    assert pair.subgraph(torch.zeros(3, dtype=torch.bool)).num_keypoints.tolist() == [[0, 0]]
    assert T.LargestConnectedComponents()(KNNGraph(2)(random_pair(1, 3))).num_keypoints.tolist() == [[0, 3]]
    with pytest.raises(ValueError, match="must rise"):
        pair.subgraph(torch.tensor([2, 0]))
    with pytest.raises(ValueError, match="names node 3, but there are 3"):
        pair.subgraph(torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"a mask of 3 nodes, got shape \[2\]"):
        pair.subgraph(torch.tensor([True, False]))
    with pytest.raises(ValueError, match="a single pair, got a batch of 2"):
        Batch.from_data_list([pair, pair]).subgraph(torch.tensor([0]))


@pytest.mark.parametrize(
    ("subset", "error", "message"),
    [
        ([0, 1], TypeError, "must be a mask or numbers of nodes, got list"),
        (torch.tensor([0.0]), TypeError, "must be a mask or numbers of nodes"),
        (torch.tensor([-1]), ValueError, "names node -1, but there are 3"),
        (torch.tensor([[0, 1]]), ValueError, "must rise"),
    ],
)
def test_subsets_that_are_none_are_refused(subset, error, message):
    with pytest.raises(error, match=message):
        random_pair(2, 1).subgraph(subset)


def test_subgraphs_of_pairs_that_are_wrong_are_refused():
    pair, keep = random_pair(2, 1), torch.tensor([True, False, True])
    pair.edge_index = torch.tensor([[0, 9], [1, 0]])
    with pytest.raises(ValueError, match="'edge_index' names node 9"):
        pair.subgraph(keep)
    pair = random_pair(2, 1)
    pair.y = torch.tensor([5, -1, 0])
    with pytest.raises(ValueError, match="'y'"):
        pair.subgraph(keep)


@pytest.mark.parametrize("kind", [KeypointPair, KeypointSet])
def test_datasets_of_them_load_without_running_code(kind, tmp_path):
    class Saved(InMemoryDataset):
        def __init__(self, file):
            super().__init__()
            self.load(file, data_cls=kind)

    items = make_pairs() if kind is KeypointPair else [random_set(3), random_set(5)]
    InMemoryDataset.save(items, str(tmp_path / "data.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of PyG, that it runs the code of the file
        saved = Saved(str(tmp_path / "data.pt"))
    assert len(saved) == len(items)
    for item, other in zip(saved, items, strict=True):
        assert type(item) is kind and item.validate()
        assert all(torch.equal(item[name], other[name]) for name in other.keys())  # noqa: SIM118


def test_another_default_device():
    """What is made of tensors lies where they do, whatever ``torch.set_default_device`` says."""
    sets = [random_set(4), random_set(3)]
    matcher = GraphMatcher(in_channels=16, hidden_channels=16, num_layers=1).eval()
    expected = matcher(KeypointPair.from_sets(*sets))
    with torch.device("meta"):
        again = [KeypointSet(pos=s.pos, x=s.x, image_size=s.image_size) for s in sets]
        pair = KeypointPair.from_sets(*again)
        listed = KeypointPair(pos=pair.pos, num_keypoints=[[4, 3]], image_size=[[640, 480], [640, 480]])
        assert pair.validate() and all(keypoints.validate() for keypoints in again)
        assert {str(p.image_size.device) for p in (pair, listed)} == {"cpu"}
        assert torch.equal(matcher(pair).scores, expected.scores)
