"""Which of the weights' classes a folder is, without any model."""

from collections.abc import Mapping, Sequence

import pytest

from halonet.training.classification.class_matching import match_classes

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


def test_ids_where_names_differ() -> None:
    """Weights that learnt ImageNet's words, and a folder that has its ids alone; and the other way round."""
    words, ids = ("tench", "goldfish"), ("n01440764", "n01443537")
    options = {"num_classes": 2, "class_map": {}}
    assert match_classes(("n01443537",), words, known_ids=ids, **options) == [1]
    assert match_classes(("goldfish", "tench"), ids, ids=ids[::-1], **options) == [1, 0]
    with pytest.raises(ValueError, match="unknown to weights: n01443537"):
        match_classes(("n01443537",), words, **options)
