"""What a study is, as data: a table or figure of a paper, row by row. See `halonet.studies.papers` for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OVERRIDE = "model.overrides."


@dataclass(frozen=True)
class Row:
    """One training: a line of the table, or the cell of one of its columns.

    name: of its folder, unique in the study. label: as the paper prints it. published: the paper's figure for each of
        the study's `measures`; None where its text gives none.
    series: the column of the table or the curve of the figure, compared within itself.
    settings: dotted settings that make the row, in the paper's form and in the small one alike.
    paper, small: settings of one form alone; in place of them, why the row cannot be run in it.
    x, mark: place on a figure's horizontal axis and the words beside the point. note: what is to be known.
    """

    name: str
    label: str
    published: Sequence[float | None]
    series: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, Any] | str = field(default_factory=dict)
    small: Mapping[str, Any] | str = field(default_factory=dict)
    x: float | None = None
    small_x: float | None = None
    mark: str = ""
    small_mark: str = ""
    note: str = ""


@dataclass(frozen=True)
class Statement:
    """What the paper says of two rows: `better` is above `worse`, by so many points (None: not told)."""

    text: str
    better: str
    worse: str
    by: float | None = None


@dataclass(frozen=True)
class Study:
    """A table or figure.

    name: of the command line. title: what is asked. source: paper, table, section. measures: what the published
        figures are. task: the data and task they were measured on.
    recipe: of the package, the training in the paper's form; `settings`: differences from it that all rows share.
    small_settings: those of the small form, from the defaults of `halonet fit` on.
    baselines: a row's name for each series, which the others' differences are to.
    other_task: why what is measured is of another task than what was published; empty where it is the same.
    axis: of a figure, what x is. notes: what is to be known of the paper's form, small_notes: of the small one.
    """

    name: str
    title: str
    source: str
    rows: Sequence[Row]
    recipe: str
    baselines: Mapping[str, str]
    small_settings: Mapping[str, Any]
    measures: Sequence[str] = ("top-1 %",)
    task: str = "top-1 accuracy on ImageNet's validation images"
    settings: Mapping[str, Any] = field(default_factory=dict)
    statements: Sequence[Statement] = ()
    other_task: str = ""
    axis: str = ""
    notes: Sequence[str] = ()
    small_notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        assert len(set(names)) == len(names), f"{self.name}: two rows of one name"
        assert all(len(row.published) == len(self.measures) for row in self.rows), self.name
        assert set(self.baselines) == {row.series for row in self.rows}, self.name
        named = {*self.baselines.values(), *(name for s in self.statements for name in (s.better, s.worse))}
        assert named <= set(names), f"{self.name}: no row {named - set(names)}"

    def row(self, name: str) -> Row:
        """A row by name."""
        return next(row for row in self.rows if row.name == name)

    def difference(self, row: Row) -> float | None:
        """The published first measure's difference to the baseline of the row's series."""
        own, base = row.published[0], self.row(self.baselines[row.series]).published[0]
        return None if own is None or base is None else own - base


def own_settings(study: Study, row: Row, *, small: bool) -> dict[str, Any]:
    """Dotted settings of a row over the recipe: the study's, then the row's."""
    of_row = row.small if small else row.paper
    assert not isinstance(of_row, str), "a row that is skipped has no settings"
    return {**(study.small_settings if small else study.settings), **row.settings, **of_row}


def skipped(row: Row, *, small: bool) -> str | None:
    """Why a row cannot be run in a form; None where it can."""
    of_row = row.small if small else row.paper
    return of_row if isinstance(of_row, str) else None
