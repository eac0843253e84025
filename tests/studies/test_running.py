"""How a study's trainings are run: what is finished is left, what fails is told, what is cut goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from halonet.cli import main
from halonet.studies import STUDIES, Study, running
from halonet.studies.running import Failed, Processes, command, environment, only_one, run_jobs
from halonet.studies.settings import Job, fingerprint
from halonet.training.config import RunConfig
from tests.studies.conftest import jobs_of, leave_metrics

Capture = pytest.CaptureFixture[str]
QUICK = (
    *("--trainer.accelerator", "cpu", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2"),
    *("--trainer.limit_test_batches", "2", "--data.batch_size", "8"),
)


def quiet(job: Job, said: str) -> None:
    """Nobody listens."""


def train_here(job: Job) -> None:
    """The command of a training, in this process."""
    if main(command(job)[3:]):
        raise Failed("as told above")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings run in this process; the names of those that did."""
    trained: list[str] = []

    def train(self: Processes, job: Job, place: int) -> None:
        trained.append(job.row.name)
        train_here(job)

    monkeypatch.setattr(Processes, "train", train)
    return trained


@pytest.fixture
def two_rows(pair: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study of two rows, on the command line."""
    monkeypatch.setitem(STUDIES, pair.name, pair)
    return pair


def test_a_study_from_end_to_end(two_rows: Study, here: list[str], tmp_path: Path, capsys: Capture) -> None:
    """Trained once; a second time what was finished is left, and what was cut goes on from its checkpoint."""
    run = ("study", "pair", "--out", str(tmp_path))
    assert main(run) == 0
    assert here == ["plain", "se"]
    values = json.loads((tmp_path / "pair" / "small_results.json").read_text())
    assert [row["state"] for row in values["rows"]] == ["done", "done", "skipped: no machine for it"]
    assert 0 <= values["rows"][0]["measured"]["mean"] <= 100
    assert values["environment"]["device"].startswith("cpu")

    (metrics,) = tmp_path.glob("pair/se/seed0-*/*/metrics.json")
    before = json.loads(metrics.read_text())["test"]
    metrics.unlink()  # as if killed before the results were written
    capsys.readouterr()
    assert main(run) == 0
    assert here == ["plain", "se", "se"]
    assert "plain seed 0 was finished" in capsys.readouterr().out
    assert json.loads(metrics.read_text())["test"] == before, "it did not go on in its folder"
    assert len(list(metrics.parents[1].glob("*/"))) == 1


def test_failing_rows_are_told_and_leave_the_others(pair: Study, tmp_path: Path) -> None:
    jobs = jobs_of(pair, tmp_path, seeds=(0, 1))
    told: list[tuple[str, int, str]] = []

    def train(job: Job, place: int) -> None:
        if job.row.name == "plain":
            raise Failed("out of memory")
        leave_metrics(job, 0.9)

    failures = run_jobs(
        jobs, workers=1, report=lambda job, said: told.append((job.row.name, job.seed, said)), train=train
    )
    assert {(job.row.name, job.seed) for job in failures} == {("plain", 0), ("plain", 1)}
    assert told == [
        ("plain", 0, "failed: out of memory"),
        ("se", 0, "finished"),
        ("plain", 1, "failed: out of memory"),
        ("se", 1, "finished"),
    ]
    again = run_jobs(jobs, workers=1, report=quiet, train=lambda job, place: leave_metrics(job, 0.8))
    assert again == {}


def test_several_at_a_time(pair: Study, tmp_path: Path) -> None:
    """Two meet, in places of their own; one at a time they could not."""
    meeting, places = threading.Barrier(2, timeout=20), set()

    def train(job: Job, place: int) -> None:
        meeting.wait()
        places.add(place)
        leave_metrics(job, 0.9)

    assert run_jobs(jobs_of(pair, tmp_path), workers=2, report=quiet, train=train) == {}
    assert places == {0, 1}


def test_a_defect_is_raised(pair: Study, tmp_path: Path) -> None:
    def train(job: Job, place: int) -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        run_jobs(jobs_of(pair, tmp_path), workers=1, report=quiet, train=train)


def test_what_the_result_depends_on_is_in_the_folder_s_name(pair: Study, tmp_path: Path) -> None:
    """Other settings are another training; another machine, name or place is not; the same name elsewhere is."""
    config = RunConfig()
    same = replace(config, out="elsewhere", name="other", trainer=replace(config.trainer, threads=3, progress="none"))
    assert fingerprint(same) == fingerprint(config)
    for other in (
        replace(config, seed=1),
        replace(config, optim=replace(config.optim, lr=0.3)),
        replace(config, model=replace(config.model, overrides={"block_size": 2})),
        replace(config, data=replace(config.data, root="some")),
    ):
        assert fingerprint(other) != fingerprint(config)
    plain, changed = jobs_of(pair, tmp_path), jobs_of(pair, tmp_path, **{"optim.lr": 0.3})
    assert {job.folder for job in plain}.isdisjoint({job.folder for job in changed})
    assert all(job.config.optim.lr == 0.3 for job in changed)
    assert [job.folder.parent for job in plain] == [tmp_path / "pair" / name for name in ("plain", "se")]


def test_a_training_under_way_elsewhere_is_waited_for(
    pair: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And when it has finished it is not run again."""
    monkeypatch.setattr(running, "PATIENCE", 0.05)
    (job, _) = jobs_of(pair, tmp_path)
    other, stopping, told = threading.Event(), threading.Event(), []
    trained: list[str] = []

    def report(job: Job, said: str) -> None:
        told.append(said)
        other.set()

    with only_one(job, stopping=stopping, say=quiet):
        twin = replace(job)  # the same folder, of another study's process
        thread = threading.Thread(
            target=run_jobs,
            args=([twin],),
            kwargs={"workers": 1, "report": report, "train": lambda job, place: trained.append(job.row.name)},
        )
        thread.start()
        assert other.wait(20)
        leave_metrics(job, 0.9)
    thread.join(20)
    assert told == ["is under way in another process; waiting for it", "was finished"]
    assert trained == []


def test_what_a_process_is_given(pair: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs_of(pair, tmp_path)[0]
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert environment(job, 0, workers=4)["OMP_NUM_THREADS"] == "2"
    limited = jobs_of(pair, tmp_path, **{"trainer.threads": 3})[0]
    assert environment(limited, 0, workers=4)["OMP_NUM_THREADS"] == "3"
    on_gpu = jobs_of(pair, tmp_path, **{"trainer.accelerator": "gpu", "trainer.devices": 1})[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [environment(on_gpu, place, workers=3)["CUDA_VISIBLE_DEVICES"] for place in range(3)] == ["4", "6", "4"]
    assert "CUDA_VISIBLE_DEVICES" not in environment(on_gpu, 0, workers=1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("halonet_table",), "no study 'halonet_table', did you mean"),
        (("halonet_table3", "--rows", "halonet-lss"), "rows: no row 'halonet-lss' in halonet_table3, did you mean"),
        (("halonet_table3", "--seeds", "1", "1"), "seeds: expected each once, got 1 1"),
        (("halonet_table3", "--jobs", "0"), "expected a positive int, got '0'"),
        (("halonet_table3", "--optim.lrr", "1"), "no setting 'optim.lrr', did you mean optim.lr"),
        (("halonet_table3", "--optim.label_smoothing", "0.2"), "rows of halonet_table3 differ in it"),
        (("halonet_table3", "--config", "smoke"), "config: a study has its own recipe"),
        (("halonet_table3", "--seed", "1"), "seed: a study gives every training its own"),
        (("halonet_table3", "--optim.lr", "-1"), "optim.lr: expected more than 0, got -1.0"),
    ],
)
def test_mistakes_in_one_line(arguments: tuple[str, ...], told: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["study", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert len(error.splitlines()) == 1


def test_lists(capsys: Capture) -> None:
    assert main(["study"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()] == list(STUDIES)
    assert main(["study", "botnet_table4", "--list"]) == 0
    assert "published  box AP 42.7, mask AP 38.3" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_beside_each_other_one_failing_and_a_kill(tmp_path: Path) -> None:
    """Real processes: two at a time, then a study that is killed, whose training another study finishes."""
    run = [sys.executable, "-m", "halonet", "study", "halonet_appendix_f", "--out", str(tmp_path), *QUICK]
    done = subprocess.run([*run, "--jobs", "2", "--trainer.max_epochs", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("seed 0 finished") == 3

    broken = subprocess.run([*run, "--rows", "absolute", "--model.weights", "gone"], capture_output=True, text=True)
    assert broken.returncode == 1
    assert "seed 0 failed: no weights file at gone" in broken.stdout

    long = [*run, "--rows", "relative", "--trainer.max_epochs", "60", "--trainer.limit_train_batches", "1.0"]
    study = subprocess.Popen(long, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    whole = set(tmp_path.glob("*/relative/*/*"))
    while len(cut := set(tmp_path.glob("*/relative/*/*/checkpoints/last.ckpt"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (folder,) = {path.parents[1] for path in cut} - whole
    study.send_signal(signal.SIGTERM)
    study.communicate(timeout=60)
    assert study.returncode == 130
    assert not (folder / "metrics.json").exists()
    again = subprocess.run(long, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout
    assert (folder / "metrics.json").is_file()
    epochs = [line.split(",")[0] for line in (folder.parent / "log.txt").read_text().splitlines() if "epoch " in line]
    assert sum("epoch  1/60" in line for line in epochs) == 1, "it began anew"
