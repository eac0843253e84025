"""The pages say what is so: their examples run, their links lead somewhere, their commands exist."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from inspect import isclass, isroutine
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

import halonet
from halonet.cli import COMMANDS, main, recipe_names, setting_names
from halonet.detection import list_detectors
from halonet.models import list_pyramids
from halonet.studies import STUDIES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PAPERS = json.loads((DOCS / "papers" / "contents.json").read_text(encoding="utf-8"))
# Whose names a program may count on (docs/api/index.md).
PACKAGES = [
    *("halonet.ops", "halonet.layers", "halonet.models", "halonet.detection", "halonet.data", "halonet.data.coco"),
    *("halonet.data.stereo", "halonet.stereo", "halonet.analysis", "halonet.analysis.attention", "halonet.studies"),
    *("halonet.export", "halonet.report"),
]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> Iterator[str]:
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        if match[1] == language:
            # Empty lines before it, so that a traceback gives the line of the page.
            yield "\n" * page.read_text(encoding="utf-8")[: match.start(2)].count("\n") + match[2]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=named)
def test_examples_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All python blocks of a page, one after the other, in one namespace and an empty folder; a comment behind a print
    is what it prints."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for source in blocks(page, "python"):
        exec(compile(source, named(page), "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    told = re.findall(r"^ *print\(.*\)  # (.*)$", "".join(blocks(page, "python")), re.MULTILINE)
    assert [line for line in told if line not in printed] == []


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
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "halonet" / "cli").glob("*.py"))
    plain = {"config", "print_config", "help", "version"}  # of the parser's own, and of every command
    plain |= set(re.findall(r'"--([\w-]+)"', sources)) | set(re.findall(r'^ +"([\w-]+)": ', sources, re.MULTILINE))
    wrong = []
    for line in command_lines(page):
        command = line.split("#")[0].split()
        if command[:1] == ["make"]:
            wrong += [word for word in command[1:] if "=" not in word and word not in targets]
        elif command[:1] == ["halonet"]:
            wrong += [word for word in command[1:2] if not word.startswith("-") and word not in COMMANDS]
            options = [word[2:].split("=")[0] for word in command if word.startswith("--")]
            known = {*setting_names(), *plain}
            wrong += [name for name in options if name not in known and not name.startswith("model.overrides.")]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_settings_in_commands_are_taken(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`halonet fit` takes every name and value that a page gives it, where that needs no data and no earlier run."""
    wrong = {}
    for line in set(command_lines(page)):
        words = shlex.split(line, comments=True)
        part_of_one = words[-1:] == ["--model.name"] or "|" in words
        if words[:2] != ["halonet", "fit"] or part_of_one or {"--ckpt_path", "my_recipe.yaml"} & set(words):
            continue
        try:
            status: object = main([*words[1:], "--print_config"])
        except SystemExit as done:  # that is how jsonargparse ends after it has printed
            status = done.code
        if status:
            wrong[line] = capsys.readouterr().err
    assert wrong == {}


def command_lines(page: Path) -> list[str]:
    """Lines of a page's blocks of commands, and commands in the running text."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return lines + re.findall(r"`((?:halonet|make) [^`\n]+)`", FENCE.sub("", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("paper", PAPERS)
def test_papers_are_told_whole(paper: str) -> None:
    """A page names every table and figure of its paper, each once, in order, with what came of it."""
    told = (DOCS / "papers" / f"{paper}.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:Table|Figure) \w+) \|(.*)\|$", told, re.MULTILINE)
    contents = PAPERS[paper]
    expected = [*(f"Table {name}" for name in contents["tables"]), *(f"Figure {name}" for name in contents["figures"])]
    assert [name for name, _ in rows] == expected
    words = ("**counted**", "**measured**", "**drawn**", "**in small**", "**not measured**", "**not here**")
    silent = [name for name, row in rows if not any(word in row for word in words)]
    assert silent == []


@pytest.mark.parametrize("paper", PAPERS)
def test_papers_name_what_there_is(paper: str) -> None:
    """Studies, recipes and models in the commands of a paper's page exist."""
    models = {*halonet.list_models(), *list_detectors(), *list_pyramids(), *halonet.list_models(task="stereo")}
    wrong = []
    for line in command_lines(DOCS / "papers" / f"{paper}.md"):
        words = shlex.split(line, comments=True)
        named = dict(pairwise(words))
        if words[:1] != ["halonet"]:
            continue
        if words[1] == "study" and words[2] not in STUDIES:
            wrong.append(words[2])
        if words[1] == "summary" and words[2] not in models:
            wrong.append(words[2])
        wrong += [
            named[option] for option in ("--model.name", "--model") if named.get(option, "vil_nano_32") not in models
        ]
        if named.get("--config", "smoke") not in recipe_names():
            wrong.append(named["--config"])
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_queries_lie_in_pictures(page: Path) -> None:
    """Where a command names its model, the pixels that it asks for are inside the picture that the model reads."""
    wrong = []
    for line in command_lines(page):
        words = shlex.split(line, comments=True)
        if words[:2] != ["halonet", "explain"] or "--query" not in words or "--model" not in words:
            continue
        name = words[words.index("--model") + 1]
        side = dict(pairwise(words)).get("--img-size", re.findall(r"_(\d+)$", name)[-1])
        asked = [word for word in words if re.fullmatch(r"\d+,\d+", word)]
        wrong += [f"{name}: {word}" for word in asked if max(map(int, word.split(","))) >= int(side)]
    assert wrong == []


def test_answers_of_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks of commands with their answers: each is run, and says so."""
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (32, 32), (40 * number, 90, 30)).save(tmp_path / "photos" / kind / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    lines = "".join(blocks(DOCS / "troubleshooting.md", "console")).split("\n")
    told = [line for line in lines if line]
    for command, answer in zip(told[::2], told[1::2], strict=True):
        assert command.startswith("$ halonet ")
        assert main(shlex.split(command)[2:]) == 2
        assert capsys.readouterr().err.strip() == answer


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_backends_take_what_is_told() -> None:
    """The tables of docs/backends.md are what the backends say today."""
    page = (DOCS / "backends.md").read_text(encoding="utf-8")
    assert script("backend_table").filled(page) == page
    assert len(re.findall(r"\| no \(\d+\)", page)) > 20


def test_every_page_is_in_the_site() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = re.findall(r"^ +- (?:.*: )?([\w/]+\.md)$", nav, re.MULTILINE)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert len(listed) == len(set(listed))
    hooks = script("site_hooks")
    assert set(listed) == pages | set(hooks.PAGES.values()) | set(hooks.LESSONS.values())


def test_lessons_are_pages_of_the_site() -> None:
    """Each tutorial is there to read, whole."""
    hooks = script("site_hooks")
    assert {ROOT / name for name in hooks.LESSONS} == set((ROOT / "tutorials").glob("*.py"))
    source = (ROOT / "tutorials" / "speed_up_timm.py").read_text(encoding="utf-8")
    told = hooks.lesson(source, "tutorials/speed_up_timm.py")
    assert told.startswith("# Make a model of timm faster, and see that it stays the same\n")
    assert FENCE.findall(told) == [("python", source)]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_have_a_place_in_the_api(package: str) -> None:
    """Every function and class that a package offers is told on a page of the API."""
    told = script("site_hooks").api_pages()
    module = importlib.import_module(package)
    offered = {name: getattr(module, name) for name in module.__all__}
    makers = {name: one.__module__.replace(".", "/") for name, one in offered.items() if isroutine(one) or isclass(one)}
    assert makers
    assert [name for name, file in makers.items() if not {f"{file}.py", f"{file}/__init__.py"} & told.keys()] == []
    # A module hides a function of its own name in its package, which then has to be asked for by itself.
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    hidden = [name for name, file in makers.items() if file == f"{package.replace('.', '/')}/{name}"]
    assert [name for name in hidden if not re.search(rf"^::: {package}\.{name}(\.{name})?$", pages, re.MULTILINE)] == []


def test_every_picture_is_shown() -> None:
    shown = {Path(name).name for page in PAGES for name in re.findall(r"!\[[^\]]*\]\((\S+)\)", page.read_text("utf-8"))}
    assert {path.name for path in (DOCS / "images").iterdir()} - shown == set()


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("mechanism.md", "[a](vil.md#speed)", "[a](vil.md#speed)"),
        ("papers/vil.md", "[a](../../README.md#in-ten-lines)", "[a](../index.md#in-ten-lines)"),
        ("vil.md", "[changes](../CHANGELOG.md)", "[changes](changelog.md)"),
        ("vil.md", "[`l`](../tutorials/many_machines.py)", "[`l`](tutorials/many_machines.md)"),
        ("vil.md", "[op](../halonet/ops/local_attention/api.py)", "[op](api/ops.md)"),
        (
            "papers/vil.md",
            "[`H`](../../halonet/layers/halo_attention.py)",
            "[`H`](../api/layers.md#halonet.layers.HaloAttention)",
        ),
        ("vil.md", "[JSON](../benchmarks/results/x.json)", "JSON (`benchmarks/results/x.json`)"),
        ("vil.md", "```\n[a](../setup.py)\n```", "```\n[a](../setup.py)\n```"),
        ("vil.md", "![a](../docs/images/blocks.png)", "![a](../docs/images/blocks.png)"),
    ],
)  # fmt: skip
def test_links_of_the_site(page: str, link: str, expected: str) -> None:
    """Links that leave docs/ end at the site's own pages, or are text."""
    assert script("site_hooks").for_site(link, page) == expected


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
    assert drawn >= {"blocks.png", "options.png", "papers.png", "factorized.png", "position.png"}
    assert drawn <= {path.name for path in (ROOT / "docs" / "images").iterdir()}
