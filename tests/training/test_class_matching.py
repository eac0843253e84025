"""Which of the weights' classes a folder is, without any model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from halonet.training.classification.class_matching import match_classes, read_class_map

ANIMALS = ("ant", "bee", "cow")


@pytest.mark.parametrize(
    ("names", "known", "class_map", "expected"),
    [
        (["ant", "bee", "cow"], ANIMALS, {}, [0, 1, 2]),
        (["cow", "ant"], ANIMALS, {}, [2, 0]),
        (["0", "2"], ANIMALS, {}, [0, 2]),
        (["1", "10", "2"], [f"class {number}" for number in range(11)], {}, [1, 10, 2]),
        (["002"], ANIMALS, {}, [2]),
        (["2", "0"], ["2", "1", "0"], {}, [0, 2]),  # names beat numbers
        (["n01", "n02"], ANIMALS, {"n01": "cow", "n02": "bee", "n99": "elk"}, [2, 1]),
        (["n01", "bee"], ANIMALS, {"n01": "cow"}, [2, 1]),
        (["n01", "n02"], ANIMALS, {"n01": "cow", "n02": "cow"}, [2, 2]),
        (["ant", "cow"], ANIMALS, {"ant": "cow", "cow": "ant"}, [2, 0]),
        (["n01"], ANIMALS, {"n01": "1"}, [1]),
        (["x", "y", "z"], None, {}, [0, 1, 2]),
        (["2"], None, {}, [2]),
        (["z", "x"], None, {"x": "ex", "y": "why", "z": "zed"}, [2, 0]),
        (["x", "z"], None, {"x": "2", "y": "1", "z": "0"}, [2, 0]),
    ],
)
def test_matches(
    names: Sequence[str], known: Sequence[str] | None, class_map: Mapping[str, str], expected: list[int]
) -> None:
    num_classes = 3 if known is None else len(known)
    assert match_classes(names, known, num_classes=num_classes, class_map=class_map) == expected


@pytest.mark.parametrize(
    ("names", "known", "told"),
    [
        (
            ["ant", "elk", "yak"],
            ANIMALS,
            "2 of 3 classes of here are unknown to file: elk, yak; it knows ant, bee, cow",
        ),
        (["0", "3", "7"], ANIMALS, "3, 7 of here: no class of file, which has 3, 0 to 2"),
        (["-1", "0"], ANIMALS, "unknown to file: -1, 0"),
        (["x", "y"], None, "file does not name its 3 classes: expected as many in here, .* got 2: x, y"),
        ([f"c{number}" for number in range(8)], ANIMALS, "c0, c1, c2, c3, c4 and 3 more"),
    ],
)
def test_classes_that_are_unknown(names: Sequence[str], known: Sequence[str] | None, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        match_classes(names, known, num_classes=3, data="here", weights="file")


@pytest.mark.parametrize(
    "text", ['{"n01": "ant", "n02": "honey bee"}', "# folder class\nn01 ant\n\n  n02   honey bee\n"]
)
def test_maps_in_both_forms(text: str, tmp_path: Path) -> None:
    (tmp_path / "map").write_text(text, encoding="utf-8")
    assert list(read_class_map(tmp_path / "map").items()) == [("n01", "ant"), ("n02", "honey bee")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("n01 ant\nn02\n", "a folder and its class on each line, got 'n02'"),
        ("", "got no line"),
        ('{"n01": ', "is no JSON"),
        ('{"n01": 3}', "expected a JSON object"),
        ('["n01"]', "expected a JSON object"),
        ("{}", "expected a JSON object"),
        ("n01 ant\nn01 bee\n", "gives n01 two classes, ant and bee"),
        ('{"n01": "ant", "n01": "bee"}', "gives n01 two classes"),
    ],
)
def test_maps_that_are_none(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "map").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_class_map(tmp_path / "map")


def test_a_map_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        read_class_map(tmp_path / "gone")
