"""Which page a folder gets, and where it goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import halonet
from halonet.files import replacing
from halonet.report.compare_page import compare_page
from halonet.report.markup import Markup, Section, page, paragraph
from halonet.report.run_files import is_run, read_run
from halonet.report.run_page import run_page
from halonet.report.study_page import results_files, study_page
from halonet.training.files import CONFIG

PAGE = "report.html"


@dataclass(frozen=True)
class Options:
    """compute: ask a finished classifier's weights again on the run's own test images, where these are there; else
    show what lies in the folder alone. most_images: how many of them at most, spread evenly over the part."""

    compute: bool = True
    most_images: int = 2000


def write_report(folders: Sequence[Path], out: Path | None = None, *, options: Options = Options()) -> Path:
    """Write the page of a run's or a study's folder, or of several runs, beside its name and renamed; returns its path.

    out: the file; None: report.html in the folder, of several runs here.

    Raises:
        ValueError: no folder, one that is neither a run's nor a study's, or files in it that cannot be read.
    """
    if not folders:
        raise ValueError("RUN: expected at least one folder, got none")
    if out is not None and out.is_dir():
        raise ValueError(f"--out: expected a file to write, {out} is a folder")
    for folder in folders:
        _check(folder, alone=len(folders) == 1)
    title, head, sections = _contents(folders, options)
    path = out or (folders[0] / PAGE if len(folders) == 1 else Path(PAGE))
    text = page(title, head=head, sections=sections, foot=_foot())
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return path


def _contents(folders: Sequence[Path], options: Options) -> tuple[str, Markup, list[Section]]:
    if len(folders) > 1:
        return compare_page([read_run(folder) for folder in folders])
    if results_files(folders[0]) and not is_run(folders[0]):
        return study_page(folders[0])
    run = read_run(folders[0])
    return run.title, *run_page(run, compute=options.compute, most_images=options.most_images)


def _check(folder: Path, *, alone: bool) -> None:
    if is_run(folder) or (alone and results_files(folder)):
        return
    if not folder.is_dir():
        raise ValueError(f"RUN: no folder {folder}")
    if results_files(folder):
        raise ValueError(f"RUN: {folder} is a study's folder, which has a page of its own")
    inside = sorted((path.parent for path in [*folder.glob(f"*/{CONFIG}"), *folder.glob(f"*/*/{CONFIG}")]), key=_age)
    hint = f"; the newest run in it is {inside[-1]}" if inside else ""
    raise ValueError(f"RUN: {folder} is no run's folder (which has {CONFIG}) and no study's (results.json){hint}")


def _age(folder: Path) -> int:
    return (folder / CONFIG).stat().st_mtime_ns


def _foot() -> Markup:
    made = time.strftime("%Y-%m-%d %H:%M")
    words = f"Made by halonet {halonet.__version__} on {made}. The page asks nothing of any other file or server."
    return paragraph(words)
