"""The pages say what is so: their examples run, their links lead somewhere, their commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import halonet
from halonet.cli import COMMANDS, setting_names

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> Iterator[str]:
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        if match[1] == language:
            # Empty lines before it, so that a traceback gives the line of the page.
            yield "\n" * page.read_text(encoding="utf-8")[: match.start(2)].count("\n") + match[2]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=named)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All python blocks of a page, one after the other, in one namespace and an empty folder."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for source in blocks(page, "python"):
        exec(compile(source, named(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        if "://" in name:
            continue
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(target)
    assert missing == []


def anchors(page: Path) -> set[str]:
    """Headings of a page as the anchors that a forge makes of them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    plain = {"config", "print_config", "help", "version", "weights", "ckpt_path", "top", "json", "img-size", "out"}
    plain |= {"basis", "masks", "layer", "query", "model", "png", "sides", "batch", "rounds", "side", "channels"}
    plain |= {"part", "backend", "csv", "device", "batch", "score-threshold", "size"}
    plain |= {"list", "rows", "seeds", "jobs", "small"}
    plain |= {"images-per-shard", "jobs", "seed", "data", "workers"}
    plain |= {"images", "size", "no-open"}
    plain |= {"format", "softmax", "opset", "push", "license"}
    plain |= {"rollout", "head"}
    wrong = []
    for line in "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
        command = line.split("#")[0].split()
        if command[:1] == ["make"]:
            wrong += [word for word in command[1:] if "=" not in word and word not in targets]
        elif command[:1] == ["halonet"]:
            wrong += [word for word in command[1:2] if not word.startswith("-") and word not in COMMANDS]
            options = [word[2:].split("=")[0] for word in command if word.startswith("--")]
            known = {*setting_names(), *plain}
            wrong += [name for name in options if name not in known and not name.startswith("model.overrides.")]
    assert wrong == []


def sizes_in_tables() -> list[tuple[str, str]]:
    """(model, parameters as docs/models.md gives them, in full or in millions) of its tables' lines."""
    found = []
    for line in (ROOT / "docs" / "models.md").read_text(encoding="utf-8").splitlines():
        name = re.match(r"\| `([\w{,}]+)`", line)
        if name is not None:
            cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
            full = [cell for cell in cells if re.fullmatch(r"\d+(,\d{3})+", cell)]
            found.append((re.sub(r"\{(\d+).*", r"\1", name[1]), (full or cells)[-1]))
    return found


def test_sizes_in_tables() -> None:
    wrong = []
    for name, told in sizes_in_tables():
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in halonet.create_model(name).parameters())
        if told not in (f"{count:,}", f"{count / 1e6:.2f}"):
            wrong.append(f"{name}: {told} is told, {count:,} is so")
    assert len(sizes_in_tables()) > 15
    assert wrong == []


def test_pictures_are_drawn_by_the_script(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "docs" / "draw_mechanism.py", tmp_path], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn >= {"blocks.png", "options.png", "position.png"}
    assert drawn <= {path.name for path in (ROOT / "docs" / "images").iterdir()}
