"""The package as installed, and what no committed file may hold."""

from __future__ import annotations

import ast
import hashlib
import re
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest

import halonet

ROOT = Path(__file__).parents[1]
# Written in pieces, so that this file does not trip over itself.
FORBIDDEN = {
    "a path of one machine": re.compile("/(" + "|".join(["ro" + "ot", "wo" + "rk", "ho" + "me/[a-z]"]) + ")[/'\"\\s]"),
    "a package registry's address": re.compile(
        "py" + "pi\\.org|python" + "hosted|find-" + "links|index" + "-url", re.I
    ),
    "a device in the maths": re.compile("\\.cu" + "da\\(\\)"),
}


def committed_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone: the list of committed files comes from there")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_version_is_written_once() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d*)?", halonet.__version__)
    assert distribution("halonet").version == halonet.__version__
    literal = f'"{halonet.__version__}"'
    holders = [path for path in (ROOT / "halonet").rglob("*.py") if literal in path.read_text(encoding="utf-8")]
    assert holders == [ROOT / "halonet" / "__init__.py"]
    assert literal not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_console_command() -> None:
    (command,) = (entry for entry in distribution("halonet").entry_points if entry.group == "console_scripts")
    assert (command.name, command.value) == ("halonet", "halonet.cli:main")
    assert callable(command.load())


def test_licence() -> None:
    metadata = distribution("halonet").metadata
    assert metadata["License-Expression"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_bytes()
    # The unaltered text of the Apache Licence 2.0.
    assert hashlib.md5(text, usedforsecurity=False).hexdigest() == "86d3f3a95c324c9479bd8986968f4327"


def test_requirements() -> None:
    metadata = distribution("halonet").metadata
    assert metadata["Requires-Python"] == "<3.14,>=3.10"
    core = {re.split(r"[<>=!\[; ]", line)[0] for line in distribution("halonet").requires or [] if "extra" not in line}
    assert core == {"torch", "timm", "safetensors"}


def test_constraints_hold_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    shape = re.compile(r'[a-z0-9-]+==[0-9a-z.]+( ; python_version (<|>=) "3\.11")?')
    assert [line for line in pins if not shape.fullmatch(line)] == []
    assert pins == sorted(pins, key=lambda line: line.split("==")[0])


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_committed_file_holds(what: str) -> None:
    found = []
    for path in committed_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if FORBIDDEN[what].search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_every_file_and_function_can_be_read_at_one_sitting() -> None:
    """Files stay under 400 lines, functions of the package under 60 (docstring not counted)."""
    long = []
    for path in sorted((ROOT / "halonet").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT)
        if len(text.splitlines()) >= 400:
            long.append(f"{name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node
                length = (node.end_lineno or 0) - first.lineno + 1
                if length >= 60:
                    long.append(f"{name}: {node.name} has {length} lines")
    assert long == []
