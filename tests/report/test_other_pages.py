"""Pages of studies, of several runs and of the other tasks; the pieces that pages are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from halonet.report import Options, write_report
from halonet.report.charts import stretches
from halonet.report.markup import Markup, Number, element, joined, table
from halonet.report.settings import changed, nearest_recipe, settings_section
from halonet.studies import Study
from halonet.studies.results import collect
from halonet.studies.writing import write_results
from halonet.training.config import RunConfig
from halonet.training.settings import RECIPES
from tests.browser import chromium
from tests.report.conftest import Page, leave_run, metrics_of
from tests.studies.conftest import jobs_of, leave_metrics, pair
from tests.training.conftest import error_line

__all__ = ["pair"]
FILES_ALONE = Options(compute=False)


def history_of(*scores: float) -> list[dict[str, float]]:
    names = ("train/loss", "val/loss", "lr", "seconds")
    return [
        {"epoch": float(number + 1), "val/accuracy": score, **dict.fromkeys(names, 1.0)}
        for number, score in enumerate(scores)
    ]


@pytest.fixture
def studied(pair: Study, tmp_path: Path) -> Path:
    """A study of two seeds: 80 and 82 % without, 90 and 92 % with squeeze-excite; an older training differs."""
    jobs = jobs_of(pair, tmp_path, seeds=(0, 1))
    for job in jobs:
        accuracy = {"plain": 0.80, "se": 0.90}[job.row.name] + 0.02 * job.seed
        leave_metrics(job, accuracy)
        (folder,) = job.folder.iterdir()
        leave_run(folder, job.config, {**metrics_of(folder), "history": history_of(0.5, accuracy)})
    results = collect(pair, rows=pair.rows, jobs=jobs, failures={}, small=True, given={})
    write_results(results, tmp_path)
    stale = tmp_path / "pair" / "plain" / "seed0-00000000" / "2020-01-01_00-00-00"
    leave_run(stale, jobs[0].config, {**metrics_of(folder), "test": {"accuracy": 0.1}})
    return tmp_path / "pair"


def test_a_study(studied: Path) -> None:
    path = write_report([studied])
    assert path == studied / "report.html"
    page = Page.read(path)
    assert page.asked_for == []
    assert "77.6 base 81.00 ± 1.41 (2) base 1,000" in page.text
    assert "78.6 +1.00 91.00 ± 1.41 (2) +10.00 1,000" in page.text
    assert "squeeze-excite helps +1.00 +10.00 1.41 agrees" in page.text  # sqrt(2 / 2 + 2 / 2)
    assert "80.00 82.00 81.00 1.41" in page.text
    assert "skipped: no machine for it" in page.text
    assert "another data set and model than the paper's" in page.text
    folders = [words for words in page.words if words.startswith(("plain/seed", "se/seed"))]
    assert len(folders) == 4
    assert not any("00000000" in words for words in folders)
    assert sum("rows" in str(image["alt"]) or "row's" in str(image["alt"]) for image in page.all("img")) == 1


def test_a_training_of_a_study_that_cannot_be_read_is_told(studied: Path) -> None:
    """As one that another version left: the results are shown all the same."""
    old = studied / "se" / "seed0-11111111" / "2020-01-01_00-00-00"
    old.mkdir(parents=True)
    (old / "config.yaml").write_text("optim: {speed: 3}")
    (old / "metrics.json").write_text("{}")
    page = Page.read(write_report([studied]))
    assert "77.6 base 81.00 ± 1.41 (2) base 1,000" in page.text
    assert f"{old / 'config.yaml'}: no settings of a run that this version reads" in page.text


def test_several_runs(tmp_path: Path) -> None:
    slow, fast = RunConfig(), RunConfig.from_dict({"optim": {"lr": 0.5}, "out": "elsewhere"})
    counts = {"images": {"train": 9, "val": 9, "test": 100}, "test_is_val": False, "epoch": 2, "epochs": 2}
    common = {"data": "digits", "parameters": 1000, "training_seconds": 2.0, **counts}
    folders = [
        leave_run(tmp_path / name, config, {**common, "test": {"accuracy": score}, "history": history_of(0.1, score)})
        for name, config, score in (("a", slow, 0.75), ("b", fast, 0.5))
    ]
    page = Page.read(write_report(folders))
    assert page.asked_for == []
    assert "75.00 % of 100 test images right" in page.text
    assert "50.00 % of 100 test images right" in page.text
    assert "setting A B optim.lr 0.2 0.5" in page.text
    assert page.text.split("setting A B")[1].count("optim.") == 1
    assert "cannot be compared" not in page.text
    leave_run(folders[1], fast, {**common, "data": "photos", "test": {"accuracy": 0.5}, "history": history_of(0.5)})
    assert "cannot be compared" in Page.read(write_report(folders)).text


def test_runs_of_several_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, task in (("a", "classification"), ("b", "stereo")):
        told = {"data": "x", "test": {"accuracy": 0.5}, "history": [], "parameters": 1, "training_seconds": 1.0}
        about = {"epoch": 1, "epochs": 1, "test_is_val": False}
        leave_run(tmp_path / name, RunConfig.from_dict({"task": task}), {**told, **about})
    assert "expected runs of one task, got classification, stereo" in error_line(capsys, "report", "a", "b")


STEREO = {
    "config": {"task": "stereo", "model": {"name": "psmnet_nano"}},
    "test": {"epe": 0.864, "bad1": 0.2, "bad3": 0.0625, "d1": 0.05, "loss": 1.0},
    "further": {"pairs": {"test": 4}, "constant": {"disparity": 11.0, "epe": 5.07, "own_epe": 4.5}},
    "picture": "disparities.png",
    "told": ("0.864 px", "where a constant errs by 5.07", "off by more than 3 px 6.25 %", "4.50 px", "744,736"),
}
DETECTION = {
    "config": {"task": "detection", "model": {"name": "maskrcnn_halo_nano_128"}},
    "test": {
        "box_ap": 0.62,
        "box_ap50": 0.837,
        "box_ap_large": None,
        "mask_ap": 0.508,
        "mask_ap50": 0.79,
        "per_category": {"circle": {"box_ap": 0.7}, "star": {"box_ap": None}},
    },
    "further": {"images": {"test": 32}},
    "picture": "detections.png",
    "told": ("62.00 %", "of masks 50.8 %", "AP at IoU 0.50 83.7 % 79.0 %", "circle 70.0 %", "star -", "backbone"),
}


@pytest.mark.parametrize("case", [STEREO, DETECTION], ids=["stereo", "detection"])
def test_other_tasks(case: dict[str, Any], tmp_path: Path) -> None:
    shared = {"data": "drawn", "epoch": 1, "epochs": 1, "test_is_val": True, "training_seconds": 3.0, "parameters": 1}
    score = {"stereo": "epe", "detection": "box_ap"}[case["config"]["task"]]
    row = {"epoch": 1.0, "train/loss": 1.0, f"val/{score}": 0.5, "lr": 0.1, "seconds": 3.0}
    metrics = {**shared, **case["further"], "test": case["test"], "history": [row]}
    folder = leave_run(tmp_path / "run", RunConfig.from_dict(case["config"]), metrics)
    Image.new("RGB", (64, 32)).save(folder / case["picture"])
    page = Page.read(write_report([folder]))
    assert page.asked_for == []
    for words in (*case["told"], "there was no test part", "drawn"):
        assert words in page.text, words
    assert "samples" in page.headings
    assert len(page.all("img")) == 2  # curves, and the picture


def test_only_what_differs_is_told_first() -> None:
    config = RunConfig.from_dict({"optim": {"lr": 0.5}, "model": {"overrides": {"block_size": 4}}})
    assert changed(config) == {"model.overrides": ({}, {"block_size": 4}), "optim.lr": (0.2, 0.5)}
    assert changed(RunConfig()) == {}


def test_the_nearest_recipe() -> None:
    drawn = yaml.safe_load((RECIPES / "stereo_drawn.yaml").read_text(encoding="utf-8"))
    found = nearest_recipe(RunConfig.from_dict(drawn))
    assert found is not None
    assert (found[0].name, found[1]) == ("stereo_drawn", [])
    assert "Published" in found[0].words
    drawn["optim"]["lr"] = 0.123
    other = nearest_recipe(RunConfig.from_dict(drawn))
    assert other is not None
    assert (other[0].name, other[1]) == ("stereo_drawn", ["optim.lr"])
    assert nearest_recipe(RunConfig()) is None
    section = settings_section(RunConfig.from_dict(drawn)).content
    assert "<td>0.123</td><td>0.2</td><td>recipe: 0.003</td>" in section.replace("\n", "")


def test_what_is_no_markup_is_escaped() -> None:
    assert element("p", "<b>&", title='a"b') == '<p title="a&quot;b">&lt;b&gt;&amp;</p>'
    assert element("p", Markup("<b>")) == "<p><b></p>"
    assert joined(["a<", "", None, 0, Markup("<br>")], "|") == "a&lt;|0|<br>"
    cells = table(("x<",), [[Number(math.nan, "<none>")], [Number(2.5, "2")]])
    assert "x&lt;" in cells
    assert '<td class="number">&lt;none&gt;</td>' in cells
    assert '<td class="number" data-value="2.5">2</td>' in cells


def test_steps_are_summed_up_in_stretches() -> None:
    told = [part.tolist() for part in stretches(np.array([1.0, 3.0, 2.0, 8.0]), most=2)]
    assert told == [[1.0, 2.0], [2.0, 5.0], [3.0, 8.0]]
    assert [part.tolist() for part in stretches(np.array([1.0, 3.0]))] == [[1.0, 3.0]] * 3


def test_in_a_browser(page_path: Path) -> None:
    """Opened from a folder of its own, in light and dark, at two widths; a heading sorts its table."""
    trouble: list[str] = []
    asked: list[str] = []
    with chromium() as browser:
        for width, scheme in ((400, "light"), (1280, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.on("console", lambda message: trouble.append(message.text))
            page.on("pageerror", lambda error: trouble.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(page_path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        heading = page.locator("#classes th", has_text="images")
        heading.click()
        images = column(page.locator("#classes td:nth-child(5)").all_inner_texts())
        assert images == sorted(images)
        heading.click()
        assert column(page.locator("#classes td:nth-child(5)").all_inner_texts()) == sorted(images, reverse=True)
    assert trouble == []
    assert [url for url in asked if not url.startswith("data:")] == [page_path.as_uri()] * 2


def column(texts: Sequence[str]) -> list[int]:
    return [int(text) for text in texts]
