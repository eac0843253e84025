"""What trainings gave, as figures, words and a picture."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from PIL import Image

from halonet.studies import STUDIES, Statement, Study
from halonet.studies.report import list_rows, to_markdown, to_text
from halonet.studies.results import Measured, Results, collect, difference, judge
from halonet.studies.writing import write_results
from tests.studies.conftest import jobs_of, leave_metrics


def measured(*accuracies: float) -> Measured:
    return Measured(by_seed=dict(enumerate(accuracies)), parameters=1, seconds=1.0)


def results_of(study: Study, out: Path, **accuracies: tuple[float, ...]) -> Results:
    """Of trainings with these accuracies, a seed each."""
    jobs = jobs_of(study, out, seeds=(0, 1, 2))
    for job in jobs:
        if job.seed < len(accuracies[job.row.name]):
            leave_metrics(job, accuracies[job.row.name][job.seed])
    failures = {job: "out of memory" for job in jobs if job.row.name == "se" and job.seed == 2}
    return collect(study, rows=study.rows, jobs=jobs, failures=failures, small=True, given={"optim.lr": 0.5})


def test_mean_and_sample_deviation_by_hand() -> None:
    one = measured(90.0, 92.0, 97.0)
    assert one.n == 3
    assert one.mean == pytest.approx(93.0)
    assert one.deviation == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert measured(90.0).deviation is None


def test_a_difference_and_its_standard_error_by_hand() -> None:
    apart = difference(measured(90.0, 92.0), measured(80.0, 84.0, 88.0))
    assert apart.points == pytest.approx(7.0)
    assert apart.error == pytest.approx(math.sqrt(2 / 2 + 16 / 3))
    assert difference(measured(90.0), measured(80.0, 84.0)).error is None


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [
        (measured(90.0, 90.2), measured(80.0, 80.2), "agrees"),
        (measured(80.0, 80.2), measured(90.0, 90.2), "disagrees"),
        (measured(85.0, 90.0), measured(84.0, 89.0), "within the error"),
        (measured(90.0), measured(80.0), "one seed: agrees"),
        (measured(80.0), measured(90.0), "one seed: disagrees"),
        (measured(90.0), measured(90.0), "equal"),
        (None, measured(90.0), "not run"),
    ],
)
def test_verdicts(better: Measured | None, worse: Measured | None, verdict: str) -> None:
    assert judge(Statement("said", "a", "b"), better, worse).verdict == verdict


def test_the_files(pair: Study, tmp_path: Path) -> None:
    """Table, marks, reasons and figures, in text, Markdown, JSON and a picture; the figures as they were read."""
    results = results_of(pair, tmp_path, plain=(0.90, 0.92, 0.94), se=(0.95, 0.97))
    text, paths = write_results(results, tmp_path)
    assert [path.name for path in paths] == ["small_results.json", "small_results.md", "small_results.png"]
    assert not list((tmp_path / "pair").glob(".small*"))
    for words in (
        "92.00 ± 2.00 (3)",
        "96.00 ± 1.41 (2)",
        "+4.00",
        "+1.00",
        "seed 2 failed: out of memory",
        "skipped: no machine for it",
        "MARK: measured on digits: another data set and model than the paper's; not comparable in height",
        "settings changed: optim.lr 0.5",
        "parts of the data alone were used",
        "squeeze-excite helps (+1 published): +4.00 here, error 1.53: agrees",
    ):
        assert words in text
        assert words in paths[1].read_text() or words.startswith("MARK")
    values = json.loads(paths[0].read_text())
    by_name = {row["name"]: row for row in values["rows"]}
    assert by_name["plain"]["measured"]["by_seed"] == pytest.approx({"0": 90.0, "1": 92.0, "2": 94.0})
    assert by_name["plain"]["measured"]["sample_standard_deviation"] == pytest.approx(2.0)
    assert by_name["se"]["measured_difference"]["points"] == pytest.approx(4.0)
    assert by_name["huge"]["measured"] is None
    assert values["statements"][0]["verdict"] == "agrees"
    assert Image.open(paths[2]).size[0] > 800


def test_marks(pair: Study, tmp_path: Path) -> None:
    """None is left out, and on ImageNet itself there is none."""

    def marked(study: Study, *, train: int, small: bool, test_is_val: bool = False) -> str:
        whole = {f"trainer.limit_{part}_batches": 1.0 for part in ("train", "val", "test")}
        out = tmp_path / f"{study.other_task}{train}{small}{test_is_val}"
        jobs = jobs_of(study, out, **whole)
        for job in jobs:
            leave_metrics(job, 0.5, train=train, test_is_val=test_is_val)
        return "\n".join(collect(study, rows=study.rows, jobs=jobs, failures={}, small=small, given={}).marks)

    assert marked(pair, train=1_281_167, small=False) == ""
    assert "another data set than ImageNet-1k" in marked(pair, train=360, small=False)
    assert "another data set and model" in marked(pair, train=360, small=True)
    assert "test images are the validation images" in marked(pair, train=1_281_167, small=False, test_is_val=True)
    one_batch = dataclasses.replace(pair, small_settings={**pair.small_settings, "trainer.limit_train_batches": 1})
    jobs = jobs_of(one_batch, tmp_path, **{"trainer.limit_val_batches": 1.0, "trainer.limit_test_batches": 1.0})
    found = collect(one_batch, rows=pair.rows, jobs=jobs, failures={}, small=False, given={})
    assert list(found.marks) == ["parts of the data alone were used: these are no results"]
    detected = dataclasses.replace(pair, other_task="published is AP")
    assert marked(detected, train=1_281_167, small=False) == "another task: published is AP"


@pytest.mark.parametrize("name", ["halonet_figure5", "halonet_figure7", "botnet_table4"])
def test_pictures_of_figures_and_of_several_measures(name: str, tmp_path: Path) -> None:
    """On the figure's own axes; with one seed there are no error bars, without a published value no left side."""
    study = STUDIES[name]
    jobs = jobs_of(study, tmp_path)
    for number, job in enumerate(jobs):
        leave_metrics(job, 0.9 + 0.005 * number)
    results = collect(study, rows=study.rows, jobs=jobs, failures={}, small=True, given={})
    text, paths = write_results(results, tmp_path)
    assert paths[2].name == "small_results.png"
    assert ("another task: published are APs on COCO" in text) == (name == "botnet_table4")
    assert study.rows[0].label in to_markdown(results, picture=None)
    assert "(1)" in text


def test_nothing_measured_yet(tmp_path: Path) -> None:
    study = STUDIES["halonet_appendix_f"]
    jobs = jobs_of(study, tmp_path, seeds=(0, 1))
    text = to_text(collect(study, rows=study.rows, jobs=jobs, failures={}, small=True, given={}))
    assert text.count("2 of 2 seeds missing") == 3
    assert "relative is better than absolute position (+1.1 published): not run" in text


def test_rows_are_listed_with_what_makes_them() -> None:
    text = list_rows(STUDIES["vil_table2"])
    assert 'paper      model.overrides.position="relative" model.name="msvit_small_2_9_1_224"' in text
    assert "small      not run: the small model has two stages" in text
