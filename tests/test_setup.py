"""Set-up says in one line what is missing, and repairs what an interrupted run left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("bash", "cut", "dirname", "env", "grep", "rm", "sed", "tail", "touch")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the set-up script is for bash")


@pytest.fixture
def path_without_python(tmp_path: Path) -> Path:
    """A folder for PATH that holds the script's tools and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(str(shutil.which(tool)))
    return folder


def set_up(venv: Path, *, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with nothing of this process's environment, and no registry to reach."""
    unreachable = "http://127.0.0.1:9"
    return subprocess.run(
        ["bash", ROOT / "scripts" / "setup.sh", venv, "train"],
        env={
            "PATH": str(path),
            "HOME": str(venv.parent),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"{unreachable}/simple",
            "PIP_RETRIES": "0",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def script(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def assert_one_line(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 1, result
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("halonet: ")
    for part in parts:
        assert part in lines[0]


def test_no_python(tmp_path: Path, path_without_python: Path) -> None:
    result = set_up(tmp_path / "venv", path=path_without_python)
    assert_one_line(result, "Python 3.10 to 3.13 is needed", "no Python is on the PATH", "PYTHON=")
    assert not (tmp_path / "venv").exists()


def test_python_named_that_is_not_there(tmp_path: Path, path_without_python: Path) -> None:
    result = set_up(tmp_path / "venv", path=path_without_python, PYTHON="python9.9")
    assert_one_line(result, "there is no 'python9.9'")


@pytest.mark.parametrize(("version", "told"), [((3, 9, 1), "Python 3.9"), ((3, 14, 0), "Python 3.14")])
def test_python_of_another_version(
    version: tuple[int, int, int], told: str, tmp_path: Path, path_without_python: Path
) -> None:
    pretend = f"import sys; sys.version_info = {version}; sys.argv.remove(sys.argv[1]); exec(code)"
    other = f'#!/usr/bin/env bash\nexec "{sys.executable}" -c "import sys; code = sys.argv[1]; {pretend}" "$2" "$3"\n'
    script(path_without_python / "python3", other)
    assert_one_line(set_up(tmp_path / "venv", path=path_without_python), f"python3 is {told}")


def test_python_without_ensurepip(tmp_path: Path, path_without_python: Path) -> None:
    (tmp_path / "ensurepip.py").write_text("raise ImportError('No module named ensurepip')", encoding="utf-8")
    lacking = f'#!/usr/bin/env bash\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n'
    script(path_without_python / "python3", lacking)
    assert_one_line(set_up(tmp_path / "venv", path=path_without_python), "lacks the module ensurepip", "-venv")


def test_no_network_after_an_interrupted_run(tmp_path: Path, path_without_python: Path) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / ".installing").touch()  # what a killed run leaves
    (venv / "half-written").touch()
    (path_without_python / "python3").symlink_to(str(getattr(sys, "_base_executable", sys.executable)))
    result = set_up(venv, path=path_without_python)
    assert_one_line(result, "the package registry cannot be reached")
    assert "is incomplete" in result.stdout
    assert not (venv / "half-written").exists()
    # An orderly failure leaves an environment that the next run goes on with.
    assert not (venv / ".installing").exists()
    again = set_up(venv, path=path_without_python)
    assert_one_line(again, "the package registry cannot be reached")
    assert "is incomplete" not in again.stdout
