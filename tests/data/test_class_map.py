"""Lists of classes in the forms that go around."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from halonet.data import DataConfig, SplitItems, open_source
from halonet.data.class_map import read_class_map
from tests.data.making import jpeg, write_folders, write_shards


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """a has 4 images, b 5, c 6."""
    counts = {"a": 4, "b": 5, "c": 6}
    write_folders(tmp_path / "pets", {name: {f"{i}.jpg": jpeg(i) for i in range(n)} for name, n in counts.items()})
    return tmp_path / "pets"


@pytest.mark.parametrize(
    "text",
    [
        "c cow of the field\na cat\nb dog\n",
        "# a comment\n\nc\tcow of the field\na  cat\nb dog",
        '{"c": "cow of the field", "a": "cat", "b": "dog"}',
        '{"0": ["c", "cow of the field"], "1": ["a", "cat"], "2": ["b", "dog"]}',
        "c cow of the field\nz zebra\na cat\nb dog",
    ],
)
def test_a_list_of_every_class_gives_names_and_numbers(pets: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "list").write_text(text)
    source = open_source(DataConfig(root=str(pets), class_map=str(tmp_path / "list")))
    assert source.class_names == ("cow of the field", "cat", "dog")
    assert source.class_ids == ("c", "a", "b")
    labels: list[int] = []
    for part in source.splits.values():
        assert isinstance(part, SplitItems)
        labels += list(part.labels)
        for item, label in zip(part.items, part.labels, strict=True):
            assert Path(str(item)).parent.name == "cab"[label]
    assert np.bincount(labels).tolist() == [6, 4, 5]


def test_a_list_of_some_classes_gives_names_alone(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("c a\n")
    source = open_source(DataConfig(root=str(pets), class_map=str(tmp_path / "list")))
    assert source.class_names == ("a (a)", "b", "a (c)")


def test_numbers_are_named_by_the_line(tmp_path: Path) -> None:
    write_folders(tmp_path / "v2", {str(number): {"a.jpeg": jpeg(number)} for number in range(3)})
    (tmp_path / "list").write_text("n01 one\nn02 two\nn03 three\n")
    config = DataConfig(root=str(tmp_path / "v2"), dataset="imagenetv2", class_map=str(tmp_path / "list"))
    assert open_source(config).class_names == ("one", "two", "three")


def test_streams_are_renumbered_too(tmp_path: Path) -> None:
    labels = write_shards(tmp_path / "shards", {"train": [6], "val": [3]})
    (tmp_path / "list").write_text(json.dumps({"2": "two", "0": "none", "1": "one"}))
    source = open_source(DataConfig(root=str(tmp_path / "shards"), class_map=str(tmp_path / "list")))
    part = source.splits["train"]
    samples = [sample for _, sample in part.shards.read(0, None)]  # type: ignore[union-attr]
    found = [part.label_of(sample) for sample in samples]  # type: ignore[union-attr]
    assert found == [[1, 2, 0][label] for label in labels["train"].values()]
    assert source.class_names == ("two", "none", "one")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read .*list: No such file"),
        ("", "names no class: expected JSON"),
        ("a\n", "line 1: expected an id and a name, got 'a'"),
        ("a cat\na dog\n", "names the class a twice"),
        ("{", r"is no JSON \(line 1"),
        ('{"a": 3}', "a: expected a name, got 3"),
        ('{"a": "cat", "a": "dog"}', "names the class a twice"),
        ("x cat\ny dog\n", "lists none of the classes of pets: it has x, y, the data a, b, c"),
    ],
)
def test_wrong_files_are_told_in_one_line(pets: Path, tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "list").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        open_source(DataConfig(root=str(pets), class_map=str(tmp_path / "list")))
    assert "\n" not in str(caught.value)


def test_the_order_of_a_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("n9 x\nn1 y z\n")
    assert list(read_class_map(tmp_path / "list").items()) == [("n9", "x"), ("n1", "y z")]
