"""What the pictures show, read off their figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from halonet.analysis import plots
from halonet.analysis.overlay import contrasting_pixels
from halonet.analysis.plots import plain, plot_curves, plot_predictions
from halonet.training.classification.kind import Classification
from halonet.training.classification.results import Predictions, _worth_showing


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be written."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def row(epoch: int, **values: float) -> dict[str, float]:
    usual = {"train/loss": 1.0, "val/loss": 0.5, "train/accuracy": 0.5, "val/accuracy": 0.6, "lr": 0.1}
    return {"epoch": epoch, **usual, **{name.replace("_", "/"): value for name, value in values.items()}}


def test_curves_hold_the_history(drawn: list[Figure]) -> None:
    plot_curves(
        [row(1, val_accuracy=0.25), row(2, val_accuracy=0.75), row(3, val_accuracy=0.5)],
        "unused",
        score=Classification.score,
    )
    loss, accuracy, lr = drawn[0].axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[1.0] * 3, [0.5] * 3]  # type: ignore[union-attr]
    assert accuracy.lines[1].get_ydata().tolist() == [25.0, 75.0, 50.0]  # type: ignore[union-attr]
    assert "75.0 % (epoch 2)" in accuracy.texts[0].get_text()
    assert lr.lines[0].get_ydata().tolist() == [0.1] * 3  # type: ignore[union-attr]


def test_one_wild_loss_does_not_flatten_the_rest(drawn: list[Figure]) -> None:
    plot_curves([row(1, val_loss=1e6), row(2), row(3)], "unused", score=Classification.score)
    assert drawn[0].axes[0].get_ylim()[1] < 10


def test_curves_need_an_epoch() -> None:
    with pytest.raises(ValueError, match="at least one epoch"):
        plot_curves([], "unused", score=Classification.score)


def test_predictions_name_answer_and_truth(drawn: list[Figure]) -> None:
    images = [torch.zeros(1, 4, 4), torch.ones(3, 4, 4)]
    plot_predictions(
        images, answers=torch.tensor([0, 1]), confidences=torch.tensor([0.9, 0.7]), labels=torch.tensor([0, 0]),
        class_names=["cat", "dog"], subtitle="both", path="unused",
    )  # fmt: skip
    right, wrong = drawn[0].axes
    assert (right.get_title(), right.get_xlabel()) == ("cat  90 %", "")
    assert (wrong.get_title(), wrong.get_xlabel()) == ("dog  70 %", "is cat")
    assert wrong.images[0].get_array().shape == (4, 4, 3)  # type: ignore[union-attr]


def test_a_dollar_in_a_name_is_no_formula(tmp_path: Path) -> None:
    """matplotlib reads what stands between two dollars as one, and refuses what it cannot read."""
    told = {"answers": torch.tensor([0]), "confidences": torch.tensor([0.9]), "labels": torch.tensor([1])}
    path = tmp_path / "p.png"
    plot_predictions([torch.zeros(1, 4, 4)], class_names=["$^$", "$x_$"], subtitle="", path=path, **told)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plain("5 $ of a long name", most=5) == r"5 \$ …"


def test_pictures_are_png_files(tmp_path: Path) -> None:
    plot_curves([row(1)], tmp_path / "c.png", score=Classification.score)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_come_first_and_the_surest_before_the_others() -> None:
    labels = torch.zeros(60, dtype=torch.long)
    labels[[5, 50]] = 1
    chosen = _worth_showing(Predictions(torch.zeros(60, dtype=torch.long), torch.linspace(0.6, 0.9, 60), labels))
    assert chosen[:2] == [50, 5]
    assert len(chosen) == len(set(chosen)) == 24


@pytest.mark.parametrize("wrong", [0, 3])
def test_fewer_images_than_places(wrong: int) -> None:
    labels = torch.tensor([1] * wrong + [0] * (3 - wrong))
    chosen: Any = _worth_showing(Predictions(torch.zeros(3, dtype=torch.long), torch.full((3,), 0.9), labels))
    assert sorted(chosen) == [0, 1, 2]


def test_contrasting_pixels_of_an_oblong_image_are_three() -> None:
    """Wide as it is, two of them must not leave nothing for the third."""
    image = torch.zeros(1, 4, 64)
    image[0, 2, [16, 31, 48]] = torch.tensor([1.0, 0.5, 0.9])
    assert contrasting_pixels(image) == [(2, 16), (2, 48), (2, 31)]


def test_contrasting_pixels_stand_apart_where_something_is() -> None:
    image = torch.zeros(1, 16, 16)
    image[0, 3, 4], image[0, 12, 10] = 2.0, 1.0
    queries = contrasting_pixels(image)
    assert queries[:2] == [(3, 4), (12, 10)]
    distances = [np.hypot(a[0] - b[0], a[1] - b[1]) for a in queries for b in queries if a != b]
    assert min(distances) >= 4
