"""Every published size is met by the row it is of, or the table says why not."""

from __future__ import annotations

import pytest
import torch

import halonet
from halonet.analysis.cost import CONVENTIONS, ModelCost, count_costs
from halonet.models.facts import QUANTITIES, Figure, figures, known_rows

UNIT = {"parameters": 1e6, "multiply_adds": 1e9}
HALF_A_DIGIT = {"parameters": 0.05, "multiply_adds": 0.005}  # as most tables print them
LAST_DIGIT = 0.5e-4 + 1e-9  # counted values are kept to four decimals


def cost_of(name: str, *, size: int | None = None, **options) -> ModelCost:
    with torch.device("meta"):
        model = halonet.create_model(name, **options)
    return count_costs(model, input_size=None if size is None else (3, size, size))


def value(cost: ModelCost, figure: Figure) -> float:
    return getattr(cost.total(convention=figure.convention), figure.quantity) / UNIT[figure.quantity]


@pytest.mark.parametrize("name", known_rows())
def test_figures_are_met(name):
    costs: dict[str, ModelCost] = {}
    for figure in figures(name):
        key = f"{figure.image_size} {figure.options}"
        if key not in costs:
            costs[key] = cost_of(name, size=figure.image_size, **figure.options)
        ours = value(costs[key], figure)
        if figure.counted is not None:
            assert ours == pytest.approx(figure.counted, rel=0, abs=LAST_DIGIT), figure
        if figure.contradicted:
            assert abs(ours - figure.published) > HALF_A_DIGIT[figure.quantity], f"met after all: {figure}"
            assert figure.convention == "vil" or abs(ours / figure.published - 1) > 0.03, f"met after all: {figure}"
            assert figure.note, figure
        elif figure.published is not None:
            assert ours == pytest.approx(figure.published, rel=0, abs=figure.tolerance + 1e-9), figure


def test_table_is_of_our_rows_and_words():
    assert set(known_rows()) <= {*halonet.list_models(), *halonet.list_models(task="stereo")}
    for name in known_rows():
        assert any(figure.quantity == "parameters" for figure in figures(name)), name
        for figure in figures(name):
            assert figure.quantity in QUANTITIES
            assert figure.convention in CONVENTIONS
            assert figure.source
            assert figure.published is not None or figure.counted is not None


def test_every_published_halonet_has_its_parameters():
    names = [
        f"halonet_{row}" for row in ("h0_256", "h1_256", "h2_256", "h3_320", "h4_384", "h5_448", "h6_512", "h7_600")
    ]
    published = [figures(name)[0].published for name in names]
    assert published == [5.5, 8.1, 9.4, 12.3, 19.1, 30.7, 43.4, 67]
    assert figures("halonet50_256")[0].published == 18.0
    assert not any(figure.contradicted for name in names for figure in figures(name))


def test_row_without_figures():
    assert figures("halonet_nano_32") == ()


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("halonet_h7_c123_600", {"squeeze_excite": [0.25, 0.25, 0.25, 0.0]}, 64.93),
        ("halonet_h7_c123_600", {"squeeze_excite": [0.298, 0.298, 0.298, 0.0]}, 67.0),
        ("halonet_h4_base128_256", {"num_classes": 21841}, 170.53),
        ("halonet_h4_base128_patch4_256", {"num_classes": 21841}, 170.52),
        ("halonet_h4_base128_c12_256", {"num_classes": 21841}, 172.39),
        ("halonet_h3_320", {"head_width": 1024}, 11.82),
    ],
)
def test_what_the_notes_say(name, options, told):
    ours = cost_of(name, **options).total(convention="halonet").parameters / 1e6
    assert ours == pytest.approx(told, abs=0.05 if told == 67.0 else 0.006)


def test_note_on_senet350_without_squeeze_excite():
    ours = cost_of("senet350_320", squeeze_excite=0.0).total(convention="botnet").parameters / 1e6
    assert ours == pytest.approx(135.87, abs=0.006)
