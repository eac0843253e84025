"""`replacing`: a file is the old one or the new one, never a part."""

import os
import subprocess
import sys

import pytest

import halonet.files
from halonet.analysis.plots import save_figure
from halonet.files import replacing


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "folders" / "text.txt"
    for content in ("first", "second"):
        with replacing(path) as beside:
            assert beside.parent == path.parent
            assert beside.suffix == path.suffix
            beside.write_text(content)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == content
        assert os.listdir(path.parent) == ["text.txt"]


def test_takes_a_string(tmp_path):
    with replacing(str(tmp_path / "text.txt")) as beside:
        beside.write_text("content")
    assert (tmp_path / "text.txt").read_text() == "content"


@pytest.mark.parametrize("failure", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_failure_leaves_what_was_there(tmp_path, old, failure):
    path = tmp_path / "text.txt"
    if old:
        path.write_text(old)

    def write_half():
        with replacing(path) as beside:
            beside.write_text("half of the n")
            raise failure

    with pytest.raises(failure):
        write_half()
    assert os.listdir(tmp_path) == (["text.txt"] if old else [])
    if old:
        assert path.read_text() == old


def test_nothing_written_is_an_error(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_a_killed_process_leaves_the_old_file(tmp_path):
    """Killed without any chance to clean up: the wanted path still holds the old file, whole."""
    path = tmp_path / "text.txt"
    path.write_text("old")
    code = (
        "import os, runpy, signal, sys\n"
        "with runpy.run_path(sys.argv[2])['replacing'](sys.argv[1]) as beside:\n"
        "    beside.write_text('half of the n')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path), halonet.files.__file__]).returncode < 0
    assert path.read_text() == "old"


def test_two_processes_do_not_share_the_file_beside(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    with replacing(path) as mine:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with replacing(path) as theirs:
            assert mine != theirs
            theirs.write_text("theirs")
        mine.write_text("mine")
    assert path.read_text() == "mine"


def test_a_picture_that_fails_leaves_the_old_one(tmp_path):
    class Figure:
        def savefig(self, path, **options):
            path.write_bytes(b"half")
            raise ValueError("no such font")

    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="no such font"):
        save_figure(Figure(), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["picture.png"]
