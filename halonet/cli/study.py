"""`halonet study`: a table or figure of a paper as a sweep, published beside measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halonet.cli.commands import positive
from halonet.cli.detectors import refuse_detector
from halonet.cli.settings import parse_settings, setting_names
from halonet.cli.words import Parser, UsageError, nearest

if TYPE_CHECKING:
    from halonet.studies import Row, Study
    from halonet.training.config import RunConfig


def study(arguments: Sequence[str]) -> int:
    """Run what is not run yet, and show all that is. Returns 1 if a row failed."""
    parser = Parser(
        prog="halonet study",
        description="Run the rows of a paper's table or figure and show published beside measured. Without --data.root "
        "in a small form on handwritten digits. What is finished is not run again; what was cut goes on.",
        epilog="Any setting of halonet fit may follow, as in --trainer.devices 1; it holds for all rows.",
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a study; without one they are listed")
    parser.add_argument("--list", action="store_true", help="list the studies, or the rows of NAME, and run nothing")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="names of rows; baselines come along (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="trainings of a row (default 0)")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="trainings at a time (default 1)")
    parser.add_argument("--small", action="store_true", help="the small models on --data.root too")
    parser.add_argument("--out", type=Path, default=Path("studies"), metavar="FOLDER", help="default studies")
    values, rest = parser.parse_known_args(arguments)
    from halonet.studies import STUDIES

    if values.name is None or values.list:
        from halonet.studies.report import list_rows, list_studies

        print(list_studies(list(STUDIES.values())) if values.name is None else list_rows(_chosen(STUDIES, values.name)))
        return 0
    chosen = _chosen(STUDIES, values.name)
    small = values.small or _is_missing(rest, "data.root")
    base, given = _settings(chosen, rest, small=small)
    if len(set(values.seeds)) < len(values.seeds):
        raise UsageError(f"seeds: expected each once, got {' '.join(map(str, values.seeds))}")
    return _run(
        chosen,
        rows=_rows(chosen, values.rows),
        seeds=values.seeds,
        jobs=values.jobs,
        small=small,
        base=base,
        given=given,
        out=values.out,
    )


def _run(
    study: Study,
    *,
    rows: Sequence[Row],
    seeds: Sequence[int],
    jobs: int,
    small: bool,
    base: RunConfig,
    given: Mapping[str, Any],
    out: Path,
) -> int:
    from halonet.studies.results import collect
    from halonet.studies.running import run_jobs
    from halonet.studies.settings import Job, make_jobs
    from halonet.studies.writing import write_results

    wanted = make_jobs(study, base=base, given=given, rows=rows, seeds=seeds, small=small, out=out)
    started, done = time.monotonic(), 0

    def report(job: Job, said: str) -> None:
        nonlocal done
        done += "waiting" not in said
        print(f"{done}/{len(wanted)}  {job.row.name} seed {job.seed} {said}", flush=True)
        # After every row, so that a study that is cut leaves a table of what it has.
        so_far = collect(study, rows=rows, jobs=wanted, failures={}, small=small, given=given)
        write_results(so_far, out, draw=False)

    print(f"{study.name}: {len(wanted)} trainings, {jobs} at a time, in {out / study.name}", flush=True)
    failures = run_jobs(wanted, workers=jobs, report=report)
    results = collect(study, rows=rows, jobs=wanted, failures=failures, small=small, given=given)
    text, files = write_results(results, out)
    print(f"\n{text}\n\nafter {time.monotonic() - started:.0f} s")
    print("\n".join(map(str, files)))
    return 1 if failures else 0


def _chosen(studies: Mapping[str, Study], name: str) -> Study:
    if name not in studies:
        refuse_detector(name, instead="halonet analyse detectors NAME sets what is published beside what is counted")
        raise UsageError(f"no study {name!r}{nearest(name, studies)}; halonet study --list lists them")
    return studies[name]


def _rows(study: Study, names: Sequence[str] | None) -> list[Row]:
    """The rows asked for and the baselines of their series, in the order of the study."""
    if names is None:
        return list(study.rows)
    known = [row.name for row in study.rows]
    for name in names:
        if name not in known:
            raise UsageError(f"rows: no row {name!r} in {study.name}{nearest(name, known)}")
    wanted = {*names, *(study.baselines[study.row(name).series] for name in names)}
    return [row for row in study.rows if row.name in wanted]


def _settings(study: Study, arguments: Sequence[str], *, small: bool) -> tuple[RunConfig, dict[str, Any]]:
    """The settings that the rows differ from, and those that the user changed, by dotted name."""
    names = [token[2:].split("=", 1)[0] for token in arguments if token.startswith("--")]
    if "config" in names:
        raise UsageError("config: a study has its own recipe; give settings as in --trainer.max_epochs 2")
    if "task" in names:
        raise UsageError("task: studies are of classification")
    recipe = [] if small else ["--config", study.recipe]
    base, _ = parse_settings("study", [*recipe, *arguments], description="", options={})
    refuse_detector(base.model.name, instead="studies are of classification")
    flat = base.to_dict()
    given: dict[str, Any] = {}
    for name in names:
        place: Any = flat
        for part in name.split("."):
            place = place[part]
        given[name] = place
    overrides = given.pop("model.overrides", {})
    given |= {f"model.overrides.{name}": value for name, value in overrides.items()}
    return base, given


def _is_missing(arguments: Sequence[str], name: str) -> bool:
    assert name in setting_names()
    return not any(token == f"--{name}" or token.startswith(f"--{name}=") for token in arguments)
