"""What studies print beside their measurements is what the table of published figures has, where both speak of it."""

from __future__ import annotations

from halonet.models.published import lines
from halonet.studies.papers import STUDIES

PAPERS = {"halonet": "HaloNet", "botnet": "BoTNet", "vil": "Vision Longformer"}


def test_studies_and_published_figures_agree() -> None:
    compared = 0
    for study in STUDIES.values() if isinstance(STUDIES, dict) else STUDIES:
        paper, _, place = study.name.partition("_")
        source = f"{PAPERS[paper]}, {place.replace('table_a', 'Table A').replace('table', 'Table ').replace('  ', ' ')}"
        if study.measures[0] != "top-1 %":
            continue
        for row in study.rows:
            settings = {**study.settings, **row.settings, **(row.paper if isinstance(row.paper, dict) else {})}
            options = {key for key in settings if key.startswith("model.overrides.")}
            of_row = [line for line in lines() if line.row == settings.get("model.name") and line.source == source]
            if of_row and not options and row.published[0] is not None:
                compared += 1
                told = {line.figures.get("top1") for line in of_row if not line.options}
                assert row.published[0] in told, (study.name, row.name, told)
    assert compared >= 25
