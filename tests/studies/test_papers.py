"""The studies as data: their settings exist, their models build, their figures are the papers'."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch

import halonet
from halonet.cli import recipe_names
from halonet.cli.settings import parse_settings
from halonet.studies import STUDIES, Study
from halonet.studies.settings import changed, refuse_clashes
from halonet.studies.study import own_settings, skipped
from halonet.training.config import RunConfig

NAMES = {
    *("halonet_table3", "halonet_table4", "halonet_table_a1", "halonet_appendix_f"),
    *("halonet_figure5", "halonet_figure6", "halonet_figure7"),
    *(f"botnet_table{number}" for number in (4, 5, 10, 11, 12, 19)),
    *("vil_table2", "vil_table3", "vil_table11", "vil_table12", "vil_figure10"),
}
DIGITS = 16  # pixels of the small form
# Differences as the papers print them, row by row; to the row given.
PRINTED = {
    "halonet_table3": (0, 1.1, 1.3, 0, 0.4, 1.1, 1.3, 1.9, 0, 0.5, 0.8, 1.0, 1.3, 1.3, 1.5, 1.9),
    "halonet_table_a1": (0, 0.9, 0.5, 0.4, 0.1, -0.2),
    "botnet_table4": (0, 0.6, 1.0, 1.5, 0.4),
    "botnet_table5": (0, 1.3, 1.3, 1.6, 1.5, 0, 2.2),
    "botnet_table10": (0, 0.2, 0.9),
    "botnet_table11": (0, 0.6, 1.4),
    "botnet_table12": (0, 0.4, 1.2),
    "botnet_table19": (0, 0.7, 1.0, 1.2),
}


def test_there_are_these() -> None:
    assert set(STUDIES) == NAMES
    assert {name for name, study in STUDIES.items() if study.other_task} == {"botnet_table4", "botnet_table5"}


@cache
def recipe_settings(name: str | None) -> RunConfig:
    """The settings of a recipe; None: the defaults."""
    return parse_settings("study", [] if name is None else ["--config", name], description="", options={})[0]


@cache
def builds(name: str, img_size: int | None, overrides: str) -> bool:
    """Whether the model is made, without memory for its weights; once for all studies, and not those of the list as
    they stand, which tests/models makes."""
    if overrides == "{}":
        return name in halonet.list_models()
    with torch.device("meta"):
        halonet.create_model(name, num_classes=10, in_chans=1, img_size=img_size, **json.loads(overrides))
    return True


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_every_row_s_settings_exist_and_its_model_builds(study: Study) -> None:
    """In both forms, or a reason is given; no two rows of a series are the same training."""
    assert study.recipe in recipe_names()
    for small in (False, True):
        seen = set()
        for row in study.rows:
            if skipped(row, small=small) is not None:
                continue
            base = recipe_settings(None if small else study.recipe)
            config = changed(base, own_settings(study, row, small=small))
            img_size = config.data.img_size or (DIGITS if small else None)
            assert builds(config.model.name, img_size, json.dumps(config.model.overrides))
            seen.add(str(config))
        assert len(seen) == sum(skipped(row, small=small) is None for row in study.rows), "two rows are one training"
        assert len(seen) >= 2


@pytest.mark.parametrize("name", PRINTED)
def test_published_figures_differ_as_the_paper_prints(name: str) -> None:
    study = STUDIES[name]
    found = [study.difference(row) for row in study.rows]
    assert found == pytest.approx(list(PRINTED[name]), abs=1e-6)


def test_published_figures() -> None:
    """Of every kind of table, against the papers' text."""

    def published(study: str, row: str) -> tuple[float | None, ...]:
        return tuple(STUDIES[study].row(row).published)

    assert published("halonet_table3", "halonet-ls-se-silu-ra") == (80.5,)
    assert published("halonet_table3", "resnet-ls-se-silu-ra") == (79.5,)
    assert published("halonet_table4", "conv-12") == (84.7, 1.0)
    assert published("halonet_table_a1", "r-v") == (81.0,)
    assert [published("halonet_appendix_f", row) for row in ("relative", "absolute")] == [(78.6,), (77.5,)]
    assert published("botnet_table4", "qk-abs") == (42.5, 38.1)
    assert published("botnet_table5", "BoT101-111") == (45.5, 40.4)
    assert published("botnet_table11", "bot-s1-50") == (79.1, 94.4)
    assert published("vil_table2", "vil-rpb-1-2-8-1") == (82.4,)
    assert published("vil_table3", "small-1-1-9-1-par-sra32") == (81.62,)
    assert published("vil_table3", "tiny-1-2-8-1-performer") == (73.09,)
    assert published("vil_table11", "small-position-avg") == (80.75,)
    assert published("vil_table12", "tiny-1-1-8-2-token") == (76.18,)
    assert {published("halonet_figure7", row.name) for row in STUDIES["halonet_figure7"].rows} == {(None,)}


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_statements_agree_with_the_published_figures(study: Study) -> None:
    """Where both rows have one; and a figure's rows have places on its axis."""
    for statement in study.statements:
        better, worse = (study.row(name).published[0] for name in (statement.better, statement.worse))
        if better is None or worse is None:
            continue
        assert better > worse
        assert statement.by is None or better - worse == pytest.approx(statement.by, abs=1e-6), statement.text
    for row in study.rows:
        assert (row.x is None) == (row.small_x is None) == (not study.axis)


def test_the_last_line_of_table_3_is_the_regularized_recipe() -> None:
    study = STUDIES["halonet_table3"]
    row = changed(recipe_settings(study.recipe), own_settings(study, study.row("halonet-ls-se-silu-ra"), small=False))
    recipe = recipe_settings("halonet50_regularized_imagenet")
    assert row.model == recipe.model
    assert (row.data, row.trainer.max_epochs) == (recipe.data, recipe.trainer.max_epochs)
    assert row.optim == recipe.optim


def test_what_the_rows_differ_in_cannot_be_given() -> None:
    study = STUDIES["halonet_table3"]
    refuse_clashes(study, rows=study.rows, given={"optim.lr": 1.0}, small=False)
    for name in ("optim.label_smoothing", "model.name", "data.randaugment", "optim.weight_decay"):
        with pytest.raises(ValueError, match=f"{name}: the chosen rows of halonet_table3 differ in it"):
            refuse_clashes(study, rows=study.rows, given={name: 1}, small=False)
    refuse_clashes(study, rows=study.rows[:1], given={"optim.label_smoothing": 0.2}, small=False)
    with pytest.raises(ValueError, match="seed: a study gives every training its own"):
        refuse_clashes(study, rows=study.rows, given={"seed": 3}, small=False)
