"""What the trainings of a study gave, row by row, beside what was published."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from halonet.studies.running import finished_folder
from halonet.studies.settings import Job
from halonet.studies.study import Row, Statement, Study, skipped

SMALL_MARK = "another data set and model than the paper's; not comparable in height, only in direction"
# Training images by which ImageNet-1k is known: all, or less a held-out part.
IMAGENET_IMAGES = range(1_200_000, 1_281_167 + 1)
# Settings that say where the data lie and what the machine is; changing them is not reported.
_MACHINE = {
    *("data.root", "data.dataset", "data.streaming", "data.num_workers", "model.grad_checkpointing"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.threads"),
    *("trainer.compile", "trainer.progress", "trainer.save_every_steps", "trainer.save_every_minutes"),
    "trainer.keep_last",
}
# Trainings that run through all of their settings' data; a limit makes another training of it.
_LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches")


@dataclass(frozen=True)
class Measured:
    """Accuracies of a row's finished trainings, in percent, by seed."""

    by_seed: Mapping[int, float]
    parameters: int
    seconds: float

    @property
    def n(self) -> int:
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for a single seed."""
        return statistics.stdev(self.by_seed.values()) if self.n > 1 else None


@dataclass(frozen=True)
class Difference:
    """Of two means, in points; error: its standard error, None where one has a single seed."""

    points: float
    error: float | None


def difference(one: Measured, other: Measured) -> Difference:
    """One's mean less the other's."""
    error = None
    if one.deviation is not None and other.deviation is not None:
        error = math.sqrt(one.deviation**2 / one.n + other.deviation**2 / other.n)
    return Difference(one.mean - other.mean, error)


@dataclass(frozen=True)
class RowResult:
    """A row with what was measured, and its difference to the baseline of its series; state: in words."""

    row: Row
    published_difference: float | None
    measured: Measured | None
    difference: Difference | None
    state: str


@dataclass(frozen=True)
class StatementResult:
    """A statement with the measured difference of its two rows; verdict: whether the measurement agrees."""

    statement: Statement
    difference: Difference | None
    verdict: Literal[
        "agrees", "disagrees", "equal", "within the error", "one seed: agrees", "one seed: disagrees", "not run"
    ]


@dataclass(frozen=True)
class Results:
    """A study as measured. marks: what keeps the two columns from being compared as they stand."""

    study: Study
    small: bool
    rows: Sequence[RowResult]
    statements: Sequence[StatementResult]
    marks: Sequence[str]
    data: str
    environment: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def collect(
    study: Study,
    *,
    rows: Sequence[Row],
    jobs: Sequence[Job],
    failures: Mapping[Job, str],
    small: bool,
    given: Mapping[str, Any],
) -> Results:
    """Read the finished trainings of `jobs`. given: settings that the user changed, which are reported."""
    metrics = {job: _metrics(job) for job in jobs}
    found = [read for read in metrics.values() if read is not None]
    measured = {row.name: _measure({job: metrics[job] for job in jobs if job.row is row}) for row in rows}
    of_rows = []
    for row in rows:
        own, base = measured[row.name], measured.get(study.baselines[row.series])
        of_rows.append(
            RowResult(
                row=row,
                published_difference=study.difference(row),
                measured=own,
                difference=difference(own, base) if own is not None and base is not None else None,
                state=_state(row, jobs=jobs, metrics=metrics, failures=failures, small=small),
            )
        )
    names = {row.name for row in rows}
    statements = [
        judge(statement, measured.get(statement.better), measured.get(statement.worse))
        for statement in study.statements
        if {statement.better, statement.worse} <= names
    ]
    data = sorted({f"{read['data']} ({_counts(read)})" for read in found})
    return Results(
        study=study,
        small=small,
        rows=of_rows,
        statements=statements,
        marks=marks(study, small=small, found=found, given=given, jobs=jobs),
        data=", ".join(data),
        environment={key: found[0][key] for key in ("device", "threads", "python", "torch", "halonet")}
        if found
        else {},
        settings=dict(given),
    )


def judge(statement: Statement, better: Measured | None, worse: Measured | None) -> StatementResult:
    """Whether what the paper says of two rows holds here: a difference below its standard error says nothing."""
    if better is None or worse is None:
        return StatementResult(statement, None, "not run")
    apart = difference(better, worse)
    if apart.points == 0:
        return StatementResult(statement, apart, "equal")
    agrees = apart.points > 0
    if apart.error is None:
        return StatementResult(statement, apart, "one seed: agrees" if agrees else "one seed: disagrees")
    if abs(apart.points) <= apart.error:
        return StatementResult(statement, apart, "within the error")
    return StatementResult(statement, apart, "agrees" if agrees else "disagrees")


def marks(
    study: Study,
    *,
    small: bool,
    found: Sequence[Mapping[str, Any]],
    given: Mapping[str, Any],
    jobs: Sequence[Job],
) -> list[str]:
    """What a reader must know before comparing the two columns; empty only for the paper's own setting."""
    said = []
    if small:
        names = ", ".join(sorted({str(read["data"]) for read in found})) or "the data given"
        said.append(f"measured on {names}: {SMALL_MARK}")
    elif any(read["images"]["train"] not in IMAGENET_IMAGES for read in found):
        said.append("measured on another data set than ImageNet-1k: not comparable in height, only in direction")
    if study.other_task:
        said.append(f"another task: {study.other_task}")
    if any(read["test_is_val"] for read in found):
        said.append("the test images are the validation images, by which the epoch was chosen")
    changes = {name: value for name, value in given.items() if name not in _MACHINE}
    if changes:
        said.append("settings changed: " + ", ".join(f"{name} {value}" for name, value in sorted(changes.items())))
    if any(repr(getattr(job.config.trainer, name)) != "1.0" for job in jobs for name in _LIMITS):  # 1 is one batch
        said.append("parts of the data alone were used: these are no results")
    return said


def _metrics(job: Job) -> dict[str, Any] | None:
    folder = finished_folder(job)
    return None if folder is None else json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def _measure(metrics: Mapping[Job, dict[str, Any] | None]) -> Measured | None:
    read = {job.seed: values for job, values in metrics.items() if values is not None}
    if not read:
        return None
    return Measured(
        by_seed={seed: 100.0 * values["test"]["accuracy"] for seed, values in read.items()},
        parameters=next(iter(read.values()))["parameters"],
        seconds=statistics.fmean(values["training_seconds"] for values in read.values()),
    )


def _counts(read: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {part}" for part, count in read["images"].items())


def _state(
    row: Row,
    *,
    jobs: Sequence[Job],
    metrics: Mapping[Job, dict[str, Any] | None],
    failures: Mapping[Job, str],
    small: bool,
) -> str:
    reason = skipped(row, small=small)
    if reason is not None:
        return f"skipped: {reason}"
    own = [job for job in jobs if job.row is row]
    failed = [f"seed {job.seed} failed: {failures[job]}" for job in own if job in failures]
    if failed:
        return "; ".join(failed)
    missing = sum(metrics[job] is None for job in own)
    return f"{missing} of {len(own)} seeds missing" if missing else ""
