"""Files that are whole, and what killed writers leave."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
from helpers import has_links

from pyg_match import files
from pyg_match.commands.errors import check_outputs
from pyg_match.files import (
    _HOST,
    is_file,
    replace_file,
    sweep,
    temporary_name,
    walk,
    whole_path,
    write_whole,
)


def test_names_that_no_file_can_have(tmp_path):
    (tmp_path / "here").write_text("")
    assert is_file(tmp_path / "here")
    for name in ("a" * 5000, "a\0b", tmp_path, tmp_path / "missing", ""):
        assert not is_file(name)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system cannot kill a process like that")
def test_what_a_killed_writer_left_is_gone_at_the_next_start(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from pyg_match import files\n"
        "os.replace = lambda *_: (print('written', flush=True), time.sleep(60))\n"
        "files.write_whole(Path(sys.argv[1]) / 'last.ckpt', b'x' * 1000)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"written\n"
        sweep(tmp_path)
        assert len(list(tmp_path.glob("*.tmp"))) == 1  # its writer lives
        process.kill()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_others_write_now_is_left_alone(tmp_path):
    own, other, old = (tmp_path / name for name in ("own", "f.another-machine.7.tmp", "f.machine.8.tmp"))
    own = temporary_name(own)
    for file in (own, other, old):
        file.write_text("")
    os.utime(old, (time.time() - 7200,) * 2)
    sweep(tmp_path)
    assert own.exists() and other.exists() and not old.exists()
    notes = tmp_path / "notes.tmp"
    notes.write_text("of the user")
    os.utime(notes, (time.time() - 7200,) * 2)
    (tmp_path / f"f.{_HOST}.{10**30}.tmp").write_text("")
    sweep(tmp_path)
    assert notes.exists()
    sweep(tmp_path, everything=True)
    assert not notes.exists() and own.exists()
    write_whole(tmp_path / "whole", b"content")
    assert (tmp_path / "whole").read_bytes() == b"content"


@pytest.mark.skipif(
    not os.path.exists("/proc/self/ns/pid"), reason="the system does not count processes apart"
)
def test_containers_of_one_name_are_told_apart(tmp_path, monkeypatch):
    """No process has the number 10**30 here; of another container that cannot be told."""
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[1]")
    other = files._host()
    assert other != _HOST
    (tmp_path / f"f.{other}.{10**30}.tmp").write_text("")
    (tmp_path / f"f.{_HOST}.{10**30}.tmp").write_text("")
    os.utime(tmp_path / f"f.{_HOST}.{10**30}.tmp", (time.time() - 7200,) * 2)
    sweep(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [f"f.{other}.{10**30}.tmp"]


@has_links
def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path):
    """In a folder of all users others can foresee its name."""
    private, target = tmp_path / "private", tmp_path / "result.npz"
    private.write_text("kept")
    for write in (write_whole, replace_file, lambda path, _: check_outputs({"--out": path})):
        temporary_name(target).symlink_to(private)
        write(target, b"new")
        assert private.read_text() == "kept" and not target.is_symlink()
    assert target.read_bytes() == b"new" and sorted(tmp_path.iterdir()) == [private, target]


@pytest.mark.skipif(os.name == "nt", reason="the system has no such permissions")
def test_a_file_that_is_written_again_keeps_its_permissions(tmp_path):
    target = tmp_path / "result.npz"
    for mode in (0o600, 0o666, 0o444):
        target.write_bytes(b"old")
        target.chmod(mode)
        with whole_path(target) as temporary:
            assert stat.S_IMODE(temporary.stat().st_mode) & ~mode in (0, stat.S_IWUSR)
            temporary.write_bytes(b"new")
        assert target.read_bytes() == b"new" and stat.S_IMODE(target.stat().st_mode) == mode
        target.unlink()
    write_whole(target, b"new")
    os.umask(umask := os.umask(0))
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


@has_links
def test_the_file_that_a_link_points_to_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "link", tmp_path / "disk/file"
    link.symlink_to(target)
    for content in (b"first", b"second"):
        write_whole(link, content)
        assert link.is_symlink() and target.read_bytes() == content
    assert [file.name for file in (tmp_path / "disk").iterdir()] == ["file"]


@has_links
def test_links_to_folders_above_are_not_followed(tmp_path):
    for name in ("a", "b", "a/deep"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/photo").write_text("")
    (tmp_path / "a/deep/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/over").symlink_to(tmp_path / "b")
    (tmp_path / "b/back").symlink_to(tmp_path / "a")
    (tmp_path / "broken").symlink_to(tmp_path / "absent")
    found = [(folder.relative_to(tmp_path).as_posix(), names) for folder, _, names in walk(tmp_path)]
    assert found == [
        (".", ["broken"]),
        ("a", ["photo"]),
        ("a/deep", []),
        ("a/over", []),
        ("b", []),
        ("b/back", ["photo"]),
        ("b/back/deep", []),
    ]
    assert list(walk(tmp_path / "absent")) == []


def test_file_systems_that_sync_no_folders(tmp_path, monkeypatch):
    sync = os.fsync

    def of_files(descriptor, number=errno.EINVAL):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files)
    write_whole(tmp_path / "whole", b"content")
    assert (tmp_path / "whole").read_bytes() == b"content"
    monkeypatch.setattr(os, "fsync", lambda descriptor: of_files(descriptor, errno.EIO))
    if hasattr(os, "O_DIRECTORY"):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            write_whole(tmp_path / "whole", b"other")
