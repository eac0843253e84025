"""From a row of a study to the settings of its training, and what tells two trainings apart."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halonet.studies.study import OVERRIDE, Row, Study, own_settings, skipped
from halonet.training.config import RunConfig

# They change where a training runs or what it leaves, not what it learns.
_NOT_OF_THE_RESULT = (
    *("name", "out", "data.num_workers", "trainer.progress", "trainer.threads"),
    *("trainer.save_every_steps", "trainer.save_every_minutes", "trainer.keep_last"),
)


@dataclass(frozen=True, eq=False)
class Job:
    """One training of a study. folder: of the row, seed and settings; log: what the training said."""

    row: Row
    seed: int
    config: RunConfig
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"


def make_jobs(
    study: Study,
    *,
    base: RunConfig,
    given: Mapping[str, Any],
    rows: Sequence[Row],
    seeds: Sequence[int],
    small: bool,
    out: Path,
) -> list[Job]:
    """The trainings of the rows that can be run in this form, seed by seed, so that every row has one first.

    base: the settings that the rows differ from. given: dotted settings that the user changed; they win. out: the
    folder of all studies. Raises ValueError for a given setting that the rows differ in, or one that does not fit.
    """
    runnable = [row for row in rows if skipped(row, small=small) is None]
    refuse_clashes(study, rows=runnable, given=given, small=small)
    jobs = []
    for seed in seeds:
        for row in runnable:
            settings = {**own_settings(study, row, small=small), **given, "seed": seed, "trainer.progress": "lines"}
            config = changed(base, settings)
            parent = out / study.name / row.name
            name = f"seed{seed}-{fingerprint(config)}"
            config = changed(config, {"out": str(parent), "name": name})
            jobs.append(Job(row=row, seed=seed, config=config, folder=parent / name))
    return jobs


def refuse_clashes(study: Study, *, rows: Sequence[Row], given: Mapping[str, Any], small: bool) -> None:
    """Raises ValueError if a given setting is one that the rows of the study differ in."""
    for name in ("seed", "name"):
        if name in given:
            raise ValueError(f"{name}: a study gives every training its own; --seeds chooses them")
    values: dict[str, set[str]] = {}
    all_settings = [own_settings(study, row, small=small) for row in rows]
    for name in {name for settings in all_settings for name in settings}:
        values[name] = {json.dumps(settings.get(name)) for settings in all_settings}
    for name in given:
        if len(values.get(name, ())) > 1:
            raise ValueError(f"{name}: the chosen rows of {study.name} differ in it, so it cannot be given for all")


def changed(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The settings with some changed by dotted name; `model.overrides.NAME` changes one override."""
    values = config.to_dict()
    for name, value in settings.items():
        if name.startswith(OVERRIDE):
            values["model"]["overrides"][name.removeprefix(OVERRIDE)] = value
            continue
        *sections, last = name.split(".")
        place = values
        for section in sections:
            place = place[section]
        if last not in place:
            raise ValueError(f"no setting {name!r}")
        place[last] = value
    return RunConfig.from_dict(values)


def fingerprint(config: RunConfig) -> str:
    """Eight hexadecimal digits of all settings that a result depends on."""
    values = config.to_dict()
    for name in _NOT_OF_THE_RESULT:
        *sections, last = name.split(".")
        place = values
        for section in sections:
            place = place[section]
        place.pop(last, None)
    root = values["data"]["root"]
    if root is not None and Path(root).exists():
        values["data"]["root"] = str(Path(root).resolve())  # the same name elsewhere may be another data set
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
