"""A study of two rows, and figures of trainings that never ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halonet.studies import Row, Statement, Study
from halonet.studies.settings import Job, make_jobs
from halonet.training.config import RunConfig


@pytest.fixture
def pair() -> Study:
    """Convolutions with and without squeeze-excite on the digits, a few steps: attention would be compiled first."""
    return Study(
        name="pair",
        title="Squeeze-excite or not",
        source="ours",
        recipe="smoke",
        baselines={"": "plain"},
        small_settings={
            "model.overrides.slot": "conv",
            "data.batch_size": 8,
            "trainer.max_epochs": 1,
            "trainer.accelerator": "cpu",
            "trainer.limit_train_batches": 2,
            "trainer.limit_val_batches": 2,
            "trainer.limit_test_batches": 2,
        },
        rows=[
            Row(name="plain", label="convolution", published=(77.6,)),
            Row(name="se", label="+ SE", published=(78.6,), settings={"model.overrides.squeeze_excite": 0.125}),
            Row(name="huge", label="at scale", published=(None,), small="no machine for it", note="no figure"),
        ],
        statements=[Statement("squeeze-excite helps", "se", "plain", 1.0)],
    )


def jobs_of(study: Study, out: Path, *, seeds: tuple[int, ...] = (0,), **given: object) -> list[Job]:
    """The small form's trainings."""
    return make_jobs(study, base=RunConfig(), given=given, rows=study.rows, seeds=seeds, small=True, out=out)


def leave_metrics(job: Job, accuracy: float, *, train: int = 360, test_is_val: bool = False) -> None:
    """What a finished training would have left, as far as studies read it."""
    folder = job.folder / "2021-06-01_00-00-00"
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {
        "data": "digits",
        "parameters": 1000,
        "images": {"train": train, "val": 179, "test": 1258},
        "test": {"accuracy": accuracy},
        "test_is_val": test_is_val,
        "epoch": 1,
        "epochs": 1,
        "training_seconds": 2.0,
        "device": "cpu (x86_64)",
        "threads": 1,
        "python": "3",
        "torch": "2",
        "halonet": "0",
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
