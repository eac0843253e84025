"""One small finished run, and a page taken apart."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from halonet.report import write_report
from halonet.training.config import RunConfig
from halonet.training.results import write_config
from tests.training.conftest import SMALL, only_run, run

# Attention by torch's own kernels: ours would be compiled first.
QUICK = (
    *(*SMALL, "--trainer.max_epochs=2", "--model.overrides.backend=sdpa"),
    *("--trainer.limit_train_batches=3", "--trainer.limit_val_batches=4"),
)
EMPTY = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """A page's text and its elements; fails where they do not close as they should."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    @classmethod
    def read(cls, path: Path) -> Page:
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def headings(self) -> list[str]:
        return [str(attributes["id"]) for attributes in self.all("section")]

    @property
    def asked_for(self) -> list[str]:
        """What a browser would fetch."""
        return [
            str(value)
            for _, attributes in self.elements
            for name, value in attributes.items()
            if name in ("src", "href", "srcset", "action", "data", "poster")
            and not str(value).startswith(("data:", "#"))
        ]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a two-epoch run on a few digits, tested on all 359."""
    out = tmp_path_factory.mktemp("report")
    assert run("fit", "--out", out, *QUICK) == 0
    return only_run(out)


@pytest.fixture(scope="session")
def page_path(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the finished run, alone in its folder, with what its weights answer."""
    return write_report([finished], tmp_path_factory.mktemp("alone") / "page.html")


def leave_run(folder: Path, config: RunConfig, metrics: dict[str, Any]) -> Path:
    """What a finished training would have left, as far as a report reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, folder)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def metrics_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return values


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written into the working tree."""
    monkeypatch.chdir(tmp_path)
