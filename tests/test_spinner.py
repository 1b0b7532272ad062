"""The sign of life."""

import io
import os
import sys
import time

import torch

from pyg_match.spinner import _Activity, spinner


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_it_says_what_is_being_done_on_a_terminal_only(monkeypatch):
    said = []
    monkeypatch.setenv("TERM", "xterm")
    for stream, shown in ((Terminal(), True), (Terminal(), False), (io.StringIO(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with spinner("loading weights", shown) as say:
            time.sleep(0.2)
            say("matching [4]")
            time.sleep(0.2)
        said.append(stream.getvalue())
    assert "loading weights" in said[0] and "matching" in said[0]
    assert said[1:] == ["", ""]


def test_it_says_what_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert _Activity("loading weights").__rich__().plain == "loading weights …"
    file = tmp_path / "checkpoints" / "weights.pth.0123.partial"
    file.parent.mkdir()
    file.write_bytes(bytes(2_500_000))
    assert _Activity("loading weights").__rich__().plain == "loading weights, downloading them: 2.5 MB …"
    os.utime(file, (0, 0))  # of a download that was killed long ago
    assert _Activity("loading weights").__rich__().plain == "loading weights …"
