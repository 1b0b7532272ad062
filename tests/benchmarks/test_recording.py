import importlib
import json
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_recording(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    try:
        common = importlib.import_module("common")
        monkeypatch.setattr(common, "SAMPLE_SECONDS", 1e-4)
        recording = importlib.import_module("recording")
        out = tmp_path / "recording.json"
        recording.main(["--sizes", "32", "--budget", "0", "--threads", "1", "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
        for name in ("common", "recording"):
            sys.modules.pop(name, None)
    results = json.loads(out.read_text())
    assert [(row["graph"], row["peer"]) for row in results["rows"]] == [
        (graph, peer)
        for graph in ("complete", "sparse")
        for peer in (
            "never recorded",
            "recorded before",
            "recording 16 query points",
            "recording the top 8 of each",
        )
    ]
    assert all(row["seconds"] > 0 for row in results["rows"])
    assert [target["wanted"] for target in results["targets"]] == [1.01, 1.01]
    assert all(target["found"] > 0 for target in results["targets"])
