"""The digits and image folders: which images, which classes, which part."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halonet.data import DataConfig, ImageSource, open_source


def fill(folder: Path, counts: dict[str, int]) -> None:
    """`counts` images of 6x6 grey pixels per class sub-folder."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (6, 6), 10 * number).save(folder / name / f"{number}.png")


def sizes(source: ImageSource) -> dict[str, int]:
    return {name: len(part) for name, part in source.splits.items()}


def paths(items: Sequence[object]) -> set[str]:
    return {str(item) for item in items}


def test_digits() -> None:
    source = open_source(DataConfig())
    assert source.class_names == tuple("0123456789")
    assert sum(sizes(source).values()) == 1797
    assert sizes(source) == {"train": 1259, "val": 179, "test": 359}
    for part in source.splits.values():
        assert min(np.bincount(part.labels)) >= 0.09 * len(part)


def test_digits_statistics_are_those_of_the_scans() -> None:
    source = open_source(DataConfig())
    pixels = np.stack([np.asarray(item) for part in source.splits.values() for item in part.items]) / 255  # type: ignore[arg-type]
    assert pixels.shape == (1797, 8, 8)
    np.testing.assert_allclose(source.mean, pixels.mean(), atol=2e-3)
    np.testing.assert_allclose(source.std, pixels.std(), atol=2e-3)


def test_digits_are_grey() -> None:
    with pytest.raises(ValueError, match="in_chans"):
        open_source(DataConfig(in_chans=3))


def test_a_folder_of_classes_is_cut_in_three(tmp_path: Path) -> None:
    fill(tmp_path / "pets", {"cat": 10, "dog": 20})
    config = DataConfig(root=str(tmp_path / "pets"))
    source = open_source(config)
    assert (source.name, source.class_names, source.in_chans) == ("pets", ("cat", "dog"), 3)
    assert sizes(source) == {"train": 21, "val": 3, "test": 6}
    parts = [paths(part.items) for part in source.splits.values()]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 30
    assert open_source(config).splits["test"].items == source.splits["test"].items
    other = open_source(DataConfig(root=str(tmp_path / "pets"), split_seed=1))
    assert other.splits["test"].items != source.splits["test"].items


def test_labels_belong_to_their_images(tmp_path: Path) -> None:
    fill(tmp_path, {"b": 4, "a": 4})
    for part in open_source(DataConfig(root=str(tmp_path))).splits.values():
        for item, label in zip(part.items, part.labels, strict=True):
            assert Path(str(item)).parent.name == "ab"[label]


def test_given_parts_are_kept(tmp_path: Path) -> None:
    for name, count in (("train", 5), ("valid", 2), ("test", 3)):
        fill(tmp_path / name, {"a": count, "b": count})
    source = open_source(DataConfig(root=str(tmp_path)))
    assert sizes(source) == {"train": 10, "val": 4, "test": 6}
    assert not source.test_is_val


def test_without_a_test_folder_validation_serves_twice(tmp_path: Path) -> None:
    for name in ("train", "val"):
        fill(tmp_path / name, {"a": 3, "b": 3})
    source = open_source(DataConfig(root=str(tmp_path)))
    assert source.test_is_val
    assert source.splits["test"].items == source.splits["val"].items


def test_without_a_val_folder_it_is_cut_from_train(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 10, "b": 10})
    fill(tmp_path / "test", {"a": 2, "b": 2})
    source = open_source(DataConfig(root=str(tmp_path), val_fraction=0.2))
    assert sizes(source) == {"train": 16, "val": 4, "test": 4}
    assert not paths(source.splits["train"].items) & paths(source.splits["val"].items)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path, {"bus": 4, "train": 4})
    assert open_source(DataConfig(root=str(tmp_path))).class_names == ("bus", "train")


def test_deeper_folders_hidden_files_and_other_files(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "a" / "more").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "more" / "deep.JPG", format="jpeg")
    (tmp_path / "a" / ".hidden.png").write_bytes(b"")
    (tmp_path / "b" / "notes.txt").write_text("not a picture")
    (tmp_path / "empty").mkdir()
    source = open_source(DataConfig(root=str(tmp_path)))
    assert source.class_names == ("a", "b")
    assert sum(sizes(source).values()) == 9


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root: expected a folder of images, found nothing at .*gone"):
        open_source(DataConfig(root=str(tmp_path / "gone")))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="found a file at"):
        open_source(DataConfig(root=str(tmp_path / "file")))


def test_no_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no classes in"):
        open_source(DataConfig(root=str(tmp_path)))


def test_one_class(tmp_path: Path) -> None:
    fill(tmp_path, {"alone": 4})
    with pytest.raises(ValueError, match=r"one class only \(alone\)"):
        open_source(DataConfig(root=str(tmp_path)))


def test_too_few_images(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 2, "b": 2})
    with pytest.raises(ValueError, match="no images left for val"):
        open_source(DataConfig(root=str(tmp_path)))


def test_a_class_that_train_has_not(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 3, "b": 3})
    fill(tmp_path / "val", {"a": 1, "c": 1})
    with pytest.raises(ValueError, match="classes that train has not: c"):
        open_source(DataConfig(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("num_workers", -1),
        ("img_size", 0),
        ("val_fraction", 0.0),
        ("test_fraction", 1.0),
        ("randaugment", 32),
        ("crop_scale", 0),
    ],
)
def test_bad_settings_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"data\.{name}: expected .*got {value}"):
        DataConfig(**{name: value})


def test_fractions_leave_something_to_train_on() -> None:
    with pytest.raises(ValueError, match=r"less than 1, got 1\.2"):
        DataConfig(val_fraction=0.6, test_fraction=0.6)
