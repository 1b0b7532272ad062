import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import loaded_example
from training_pairs import labelled_pair

from pyg_match.data import KeypointPair
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import KNNGraph, PrecomputedEdges, graph_from_recipe

PAGE = Path(__file__).parents[2] / "docs" / "ablation.md"


@pytest.fixture
def example():
    threads = torch.get_num_threads()
    with loaded_example("ablation") as module:
        yield module
    torch.set_num_threads(threads)


def run(recall: float, place: str = "synthetic") -> dict:
    return {"metrics": {place: {"recall": recall, "precision": 0.5, "auc@5_dlt": 0.0, "auc@5_poselib": 0.25}}}


def test_smoke_resumes_and_repeats(example, tmp_path, capsys):
    """Four runs; a second call does the one whose record is lost, with the same result, and no other."""
    folder = tmp_path / "docs"
    places = [
        f"--{name}={folder / part}" for name, part in (("records", "runs"), ("page", "p.md"), ("plots", "i"))
    ]
    example.main(["--smoke", *places])
    assert "4 runs, 0 of them done" in capsys.readouterr().out
    files = sorted((folder / "runs").iterdir())
    assert len(files) == 4 and all(file.suffix == ".json" for file in files)
    records = [json.loads(file.read_text()) for file in files]
    for record in records:
        assert (
            record["versions"]["torch"] == torch.__version__ and record["date"] and record["machine"]["cores"]
        )
        assert record["settings"]["training"]["steps"] == 2
        assert set(record["metrics"]) == {"synthetic", "real"}
        numbers = [value for metrics in record["metrics"].values() for value in metrics.values()]
        assert len(numbers) == 8 and all(0 <= value <= 1 for value in numbers)
    page = (folder / "p.md").read_text()
    assert (
        page.count("**Verdict**") == 2 and "| k = 4 | 1 |" in page and "Too few seeds to tell: k = 4" in page
    )
    assert {file.name for file in (folder / "i").iterdir()} == {
        "ablation_values.svg",
        "ablation_neighbours.svg",
    }

    whole = files[1].read_text()
    files[1].unlink()
    example.main(["--smoke", *places])
    assert "4 runs, 3 of them done" in capsys.readouterr().out
    assert json.loads(files[1].read_text())["metrics"] == json.loads(whole)["metrics"]
    assert sorted((folder / "runs").iterdir()) == files

    example.main(["--smoke", "--table", *places])
    assert "runs," not in capsys.readouterr().out
    example.main(["--smoke", *places, "--budget", "0"])  # nothing is missing
    assert (folder / "p.md").read_text() == page


def test_the_budget_starts_no_more_runs(example, tmp_path, capsys):
    places = [f"--{name}={tmp_path / name}" for name in ("records", "page", "plots")]
    example.main(["--smoke", *places, "--budget", "0"])
    out = capsys.readouterr().out
    assert "4 runs are missing" in out and "| current | 0 | " in out
    assert not (tmp_path / "records").exists()


def test_every_option_trains(example):
    """Every graph fits its matcher, and no two options of a question are the same."""
    for question, options in example.QUESTIONS.items():
        assert question in example.TITLES
        configs = [
            example.config_from_dict(
                example.merged(example.merged(example.BASE, changes), {"matcher": {"in_channels": 16}})
            )
            for changes in options.values()
        ]
        assert all(a != b for i, a in enumerate(configs) for b in configs[:i])
        for config in configs:
            matcher = GraphMatcher(**{**config.matcher, "hidden_channels": 16, "heads": 2})
            pair: KeypointPair = graph_from_recipe(config.graph)(labelled_pair(0, count=80))
            output = matcher(pair)
            assert output.matches.shape == (len(pair.pos),)


def test_shared_options_run_once(example):
    runs = example.plan(example.QUESTIONS, example.BASE, seeds=2)
    options = sum(map(len, example.QUESTIONS.values()))
    assert len(runs) % 2 == 0 and len(runs) < 2 * options
    assert [config.seed for config in runs.values()] == [0] * (len(runs) // 2) + [1] * (len(runs) // 2)
    files = {example.record_file(Path(), {"training": example.plain(config)}) for config in runs.values()}
    assert len(files) == len(runs)


def test_precomputed_edges_are_those_of_the_neighbours(example):
    pair = labelled_pair(3)
    drawn = KNNGraph(8, loop=True)(pair.clone()).edge_index.as_tensor()
    adjacency = torch.zeros(len(pair.pos), len(pair.pos), dtype=torch.bool)
    adjacency[drawn[1], drawn[0]] = True
    given = PrecomputedEdges(adjacency)(pair.clone()).edge_index.as_tensor()
    assert set(map(tuple, given.t().tolist())) == set(map(tuple, drawn.t().tolist()))


def test_the_strongest_keypoints_are_labelled_anew(example):
    whole = labelled_pair(1, count=30, extra=0)
    whole.score = torch.rand(len(whole.pos))
    labelled = sys.modules["ablation_laboratory"].labelled
    pair = labelled([whole.image(0), whole.image(1)], whole.homography[0], count=20)
    assert pair.num_keypoints.tolist() == [[20, 20]]
    assert torch.equal(pair.score[:20].sort().values, whole.image(0).score.sort().values[-20:])
    partner = pair.y[:20]
    found = (partner >= 0).nonzero().squeeze(1)
    assert len(found) > 5
    assert torch.equal(pair.y[20 + partner[found]], found)
    # The same partners as before, by their descriptors.
    before = {
        tuple(x.tolist()): tuple(whole.image(1).x[y].tolist())
        for x, y in zip(whole.x[:31], whole.y[:31], strict=True)
        if y >= 0
    }
    for i in found.tolist():
        assert before[tuple(pair.x[i].tolist())] == tuple(pair.x[20 + int(partner[i])].tolist())


def test_verdicts(example):
    from ablation_tables import difference, mean_error, table, verdict

    reference = {seed: run(0.5 + 0.1 * seed) for seed in range(3)}
    better = {seed: run(0.52 + 0.1 * seed + 0.001 * (seed == 1)) for seed in range(3)}
    worse = {seed: run(0.4 + 0.1 * seed) for seed in range(3)}
    alike = {seed: run(0.5 + 0.1 * seed + 0.01 * (-1) ** seed) for seed in range(3)}
    # Paired: 2 points are seen although the seeds differ by 10.
    mean, *limits = difference(better, reference, "synthetic", "recall")
    assert mean == pytest.approx(2 + 0.1 / 3) and limits == pytest.approx([mean - 0.2 / 3, mean + 0.2 / 3])
    assert mean_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, math.sqrt(1 / 3)))
    options = {"ref": reference, "up": better, "down": worse, "same": alike, "once": {0: run(0.9)}}
    lines = table(options)
    assert lines[2] == "| ref | 3 | 60.0 ± 5.8 | 50.0 ± 0.0 | 0.0 ± 0.0 | 25.0 ± 0.0 |"
    assert lines[3].startswith("| up | 3 | 62.0 ± 5.8 ▲ |") and "▼" in lines[4]
    assert "▲" not in lines[5] and "▼" not in lines[5] and lines[6].startswith("| once | 1 | 90.0 |")
    text = verdict(options)
    assert "Better: up (+2.0, +2.0 to +2.1)." in text and "Worse: down (-10.0, -10.0 to -10.0)." in text
    assert "No difference measured: same" in text and "Too few seeds to tell: once." in text
    text = verdict({"ref": reference, "same": alike})
    assert (
        text.endswith("- Held-out pairs. No difference measured: same (+0.3, -1.0 to +1.7).")
        and "Better" not in text
    )


def test_a_page_without_markers_stays_as_it_is(example, tmp_path):
    from ablation_tables import filled

    page = tmp_path / "page.md"
    page.write_text("text")
    with pytest.raises(SystemExit, match="lacks the lines"):
        filled(page, "tables")
    page.write_text("before\n<!-- tables: begin -->\nold\n<!-- tables: end -->\nafter\n")
    assert filled(page, "new") == "before\n<!-- tables: begin -->\n\nnew\n<!-- tables: end -->\nafter\n"


def test_the_page_is_made_of_the_records(example, tmp_path):
    """Settings that came after the records stand as they stand by default."""
    page = tmp_path / "docs" / "ablation.md"
    page.parent.mkdir()
    page.write_text(PAGE.read_text())
    example.main(["--table", f"--page={page}", f"--plots={page.parent / 'images'}"])
    assert page.read_text() == PAGE.read_text()


def paired(differences):
    """Records of an option and of the reference whose recall differs so, seed by seed and pair by pair."""
    option, reference = {}, {}
    for seed, row in enumerate(differences):
        for runs, values in ((option, 0.5 + row), (reference, 0.5 + 0 * row)):
            known = [None if value != value else value for value in values.tolist()]
            runs[seed] = {"metrics": {}, "pairs": {"real": {"recall": known}}}
    return option, reference


def test_intervals_hold_the_choice_of_pairs_and_of_seeds(example):
    from ablation_tables import difference
    from scipy.stats import ttest_1samp

    generator = np.random.default_rng(0)
    of_pairs = generator.normal(0.02, 0.05, 40)
    found = difference(*paired(np.stack([of_pairs] * 3)), "real", "recall")
    expected = ttest_1samp(100 * of_pairs, 0).confidence_interval()
    assert found.mean == pytest.approx(100 * of_pairs.mean())
    assert (found.low, found.high) == pytest.approx(tuple(expected))

    # Alike pairs: of seeds alone, whose mean varies by their deviation over the root of their number.
    of_seeds = generator.normal(0.02, 0.01, 8)
    found = difference(*paired(np.stack([of_seeds] * 30, axis=1)), "real", "recall")
    assert (found.low, found.high) == pytest.approx(
        tuple(ttest_1samp(100 * of_seeds, 0).confidence_interval())
    )

    both = of_seeds[:, None] + of_pairs
    apart = difference(*paired(both), "real", "recall")
    assert apart.high - apart.low > found.high - found.low
    strict = difference(*paired(both), "real", "recall", comparisons=40)
    assert strict.low < apart.low < apart.mean < apart.high < strict.high
    assert apart.sign == (1 if apart.low > 0 else 0)

    # No effect, and noise of three seeds: few intervals may leave out 0.
    marked = 0
    for _ in range(200):
        rows = generator.normal(0, 0.02, (3, 1)) + generator.normal(0, 0.005, (1, 30))
        marked += difference(*paired(rows), "real", "recall").sign != 0
    assert marked <= 20

    both[:, 7] = np.nan  # a pair without anything to find
    assert difference(*paired(both), "real", "recall").mean == pytest.approx(100 * np.nanmean(both))
