"""The command line as a whole; see tests/commands for its commands."""

import re
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pyg_match.cli import app

COMMANDS = sorted(get_command(app).commands)


def run(*args, **options):
    return CliRunner().invoke(app, [str(a) for a in args], **options)


def test_version_and_module():
    from pyg_match import __version__

    assert run("--version").stdout == f"pyg-match {__version__}\n"
    words = [sys.executable, "-m", "pyg_match", "--version"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == run("--version").stdout


def test_all_commands_are_there():
    expected = [
        "explore",
        "export",
        "extract",
        "match",
        "match-pairs",
        "narrow",
        "pairs",
        "to-colmap",
        "train",
    ]
    assert expected == COMMANDS


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "explore"])
def test_help_is_readable_in_80_columns(command):
    result = run(command, "--help", env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert result.exit_code == 0
    # Names that are cut, or types of Python instead of words.
    assert "\N{HORIZONTAL ELLIPSIS}" not in result.stdout
    for parameter in get_command(app).commands[command].params:
        if parameter.name != "help":
            assert parameter.metavar is not None, f"{command} {parameter.name}"
        for name in (*parameter.opts, *parameter.secondary_opts):
            assert not name.startswith("--") or re.search(rf"{name}\b", result.stdout), name


def test_import_is_light():
    script = (
        "import sys, pyg_match.cli;"
        "heavy = ['torch', 'matplotlib', 'cv2', 'kornia', 'poselib', 'bokeh', 'h5py', 'ray', 'yaml'];"
        "print([name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
