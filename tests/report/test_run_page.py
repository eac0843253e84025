"""The page of a run: its figures are the run's, it says what is missing, and it needs nothing else."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halonet.report import Options, write_report
from halonet.report.answers import look_again
from halonet.report.classification import classification_sections, disagreement
from halonet.report.run_files import read_run
from halonet.training.classification.kind import build
from halonet.training.classification.results import write_weights
from halonet.training.config import RunConfig
from halonet.training.steps import read_steps
from tests.report.conftest import Page, leave_run, metrics_of
from tests.training.conftest import error_line, run

FILES_ALONE = Options(compute=False)


@pytest.fixture(scope="module")
def page(page_path: Path) -> Page:
    return Page.read(page_path)


@pytest.fixture
def cut(finished: Path, tmp_path: Path) -> Path:
    """The folder that the run would have left, had it been killed after its last epoch."""
    folder = tmp_path / "cut"
    shutil.copytree(finished, folder)
    for name in ("metrics.json", "weights.safetensors", "predictions.png", "curves.png", "attention.png"):
        (folder / name).unlink()
    return folder


def test_figures_are_those_of_the_metrics(finished: Path, page: Page) -> None:
    metrics = metrics_of(finished)
    low, high = (100 * bound for bound in metrics["test"]["accuracy_interval"])
    assert f"{100 * metrics['test']['accuracy']:.2f} %" in page.text
    assert f"95 % interval {low:.1f} to {high:.1f} %" in page.text
    assert f"{metrics['parameters']:,}" in page.text
    for row in metrics["history"]:
        cells = f"{row['epoch']:.0f} {row['train/loss']:.4f} {100 * row['train/accuracy']:.2f} % {row['val/loss']:.4f}"
        assert cells in page.text
    assert "1,259 train, 179 val, 359 test" in page.text
    assert metrics["torch"] in page.text
    assert "missing" not in page.headings


def test_the_weights_answer_as_when_the_run_ended(finished: Path, page: Page) -> None:
    """The classes' images and right ones add up to the test's."""
    rows = [attributes for tag, attributes in page.elements if tag == "tr"]
    assert len(rows) > 10
    right = round(359 * metrics_of(finished)["test"]["accuracy"])
    assert "Computed for this page from the weights, on all test images" in page.text
    assert "rounds otherwise" not in page.text
    assert f"{right} of 359" not in page.text  # said only where the two differ
    assert {"samples", "classes", "confusion", "attention"} <= set(page.headings)
    captions = [str(image["alt"]) for image in page.all("img")]
    assert sum(alt.startswith("attention of some pixels") for alt in captions) == 3
    wrong = [alt for alt in captions if "taken for" in alt]
    assert len(wrong) == min(12, 359 - right)
    assert all(alt.split(", taken for ")[0].removeprefix("a ") != alt.split(", taken for ")[1] for alt in wrong)


def test_some_images_stand_for_all(finished: Path) -> None:
    run_files = read_run(finished)
    few = look_again(run_files, most=5)
    assert few.numbers == [0, 90, 179, 268, 358]
    assert few.predictions.labels.tolist() == [few.data.dataset("test")[number][1] for number in few.numbers]
    sections = {section.anchor: section.content for section in classification_sections(run_files, few)}
    assert "Chosen among 5, spread evenly, of the 359 test images" in sections["samples"]
    assert sections["classes"] == ""
    ranked = [*few.surest_mistakes(5), *few.least_sure_right(5)]
    assert sorted(ranked) == [0, 1, 2, 3, 4]
    sure = few.predictions.confidences[few.surest_mistakes(5)].tolist()
    assert sure == sorted(sure, reverse=True)


def test_another_answer_is_told(finished: Path) -> None:
    run_files = read_run(finished)
    assert run_files.metrics is not None
    whole = look_again(run_files, most=359)
    assert disagreement(run_files, whole) == ""
    other = replace(run_files, metrics={**run_files.metrics, "test": {"accuracy": 1.0}})
    right = whole.figures.accuracy.right
    assert f"answered {right} of 359 test images right when this page was made, and 359 when" in disagreement(
        other, whole
    )


def test_what_was_judged_is_shown(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "judged"
    shutil.copytree(finished, folder)
    assert run("test", "--weights", folder / "weights.safetensors") == 0
    values = json.loads((folder / "judged-digits-test" / "judged.json").read_text())
    (folder / "judged-others-test").mkdir()
    elsewhere = {**values, "data": "others", "accuracy": 0.125}
    (folder / "judged-others-test" / "judged.json").write_text(json.dumps(elsewhere))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (700, 1800, 3), dtype=np.uint8)).save(folder / "attention.png")
    assert (folder / "attention.png").stat().st_size > 3.5e6
    path = write_report([folder], options=FILES_ALONE)
    assert path.stat().st_size < 2.5e6
    page = Page.read(path)
    assert "From judged-digits-test" in page.text
    assert {"classes", "confusion", "elsewhere"} <= set(page.headings)
    assert "12.50 %" in page.text


def test_an_unfinished_run(cut: Path, finished: Path) -> None:
    page = Page.read(write_report([cut]))
    metrics = metrics_of(finished)
    assert "No metrics.json" in page.text
    assert "not finished, or under way" in page.text
    assert f"halonet fit --ckpt_path {cut / 'checkpoints' / 'last.ckpt'}" in page.text
    assert "There is no test result yet. 2 whole epochs, step 6 of 6." in page.text
    assert f"{100 * metrics['val_accuracy']:.2f} % (epoch {metrics['epoch']})" in page.text
    assert f"{100 * metrics['test']['accuracy']:.2f} %" not in page.text or "test images right" not in page.text
    assert {"curves", "settings", "sizes"} <= set(page.headings)
    assert not {"samples", "environment"} & set(page.headings)


def test_the_command_to_go_on_can_be_pasted(cut: Path) -> None:
    folder = cut.rename(cut.with_name("a run's folder"))
    (command,) = [words for words in Page.read(write_report([folder])).words if words.startswith("halonet fit")]
    assert shlex.split(command) == ["halonet", "fit", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]


def test_a_damaged_checkpoint_is_passed_over(cut: Path) -> None:
    last = cut / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    text = Page.read(write_report([cut])).text
    assert "last.ckpt cannot be read" in text
    assert "There is no test result yet. 1 whole epochs" in text


def test_a_run_that_was_killed_in_its_first_epoch(cut: Path) -> None:
    shutil.rmtree(cut / "checkpoints")
    lines = (cut / "steps.csv").read_text().splitlines()
    (cut / "steps.csv").write_text("\n".join([*lines[:3], "3,1,2.2"]))
    assert len(read_steps(cut / "steps.csv")) == 2
    page = Page.read(write_report([cut]))
    assert "No checkpoint was written yet" in page.text
    assert "0 whole epochs, step 2 of 6." in page.text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    names = ("<script>alert(1)<", '"><img src=x onerror=alert(1)>')
    rng = np.random.default_rng(0)
    for name in names:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    settings = {"data": {"root": str(tmp_path / "photos"), "img_size": 16}, "name": "<b>bold"}
    config = RunConfig.from_dict({**settings, "model": {"overrides": {"slot": "conv"}}})
    parts = build(config)
    told = {"data": "<i>", "test": {"accuracy": 0.5}, "images": {"test": 2}, "history": [], "parameters": 1}
    about = {"epoch": 1, "epochs": 1, "test_is_val": False, "training_seconds": 1.0, "device": "<u>"}
    folder = leave_run(tmp_path / "run", config, {**told, **about})
    write_weights(parts.model, parts.data, folder, extra={})
    page = Page.read(write_report([folder]))
    assert all(words in page.text for words in (*names, "<b>bold", "<u>", "halonet_nano_32 on <i>"))
    assert len(page.all("script")) == 1
    assert not page.all("u")
    assert not [image for image in page.all("img") if "onerror" in image]
    assert page.asked_for == []


def test_it_asks_for_nothing(page: Page) -> None:
    assert page.asked_for == []
    assert len(page.all("script")) == len(page.all("style")) == 1


def test_the_command_on_files_alone(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a folder" / "page.html"
    assert run("report", finished, "--no-compute", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}: {out.stat().st_size / 1e6:.2f} MB\n"
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    page = Page.read(out)
    assert "classes" not in page.headings
    assert {"samples", "attention", "missing"} <= set(page.headings)
    assert "--no-compute" in page.text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"test": {}}, "test.accuracy"),
        ({"test": [0.5]}, "test"),
        ({"images": 3}, "images"),
        ({"epoch": None, "training_seconds": "1 s"}, "epoch, training_seconds"),
        ({"history": [{"epoch": 1.0}]}, "history"),
        ({"history": "none"}, "history"),
    ],
)
def test_metrics_that_no_run_wrote(change: dict[str, object], told: str, finished: Path, tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "run", RunConfig(), {**metrics_of(finished), **change})
    with pytest.raises(ValueError, match=f"no metrics of a run, it does not have {told} as a run writes it"):
        write_report([folder])
    assert not list(folder.glob("*.html"))


def test_files_beside_the_metrics_that_no_run_wrote(finished: Path, tmp_path: Path) -> None:
    """They are named, and left out."""
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder)
    (folder / "effective.yaml").write_text("devices: many")
    (folder / "judged-others-test").mkdir()
    (folder / "judged-others-test" / "judged.json").write_text('{"accuracy": 0.5, "images": 7}')
    (folder / "steps.csv").write_bytes(bytes(range(256)))
    page = Page.read(write_report([folder], options=FILES_ALONE))
    assert "effective.yaml cannot be read as what settings came to" in page.text
    assert "no judgement of a classifier, without data, part, accuracy_interval" in page.text
    assert "steps.csv cannot be read" in page.text
    assert "elsewhere" not in page.headings


def test_what_is_no_run(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty is no run's folder (which has config.yaml)" in error_line(capsys, "report", tmp_path / "empty")
    assert "no folder nowhere" in error_line(capsys, "report", "nowhere")
    assert f"the newest run in it is {finished}" in error_line(capsys, "report", finished.parents[1])
    assert "is a folder" in error_line(capsys, "report", finished, "--out", tmp_path)
    assert "--max-images" in error_line(capsys, "report", finished, "--max-images", "0")
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copy(finished / "config.yaml", broken)
    (broken / "metrics.json").write_text("{")
    assert f"{broken / 'metrics.json'} is no JSON" in error_line(capsys, "report", broken)
    (broken / "metrics.json").write_text("{}")
    assert "without data, test, history" in error_line(capsys, "report", broken)
    (broken / "config.yaml").write_text("task: dancing")
    assert "task: expected one of classification, stereo, detection, got 'dancing'" in error_line(
        capsys, "report", broken
    )
    (broken / "config.yaml").write_text("optim: {speed: 3}")
    (broken / "metrics.json").unlink()
    assert "no settings of a run that this version reads" in error_line(capsys, "report", broken)
    assert not list(broken.glob("*.html"))
