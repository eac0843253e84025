"""ImageNet in all forms that it is handed out in, four classes small."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from halonet.data import (
    DataConfig,
    ImageDataset,
    ImageSource,
    Preprocessing,
    SplitItems,
    archives,
    eval_transform,
    open_source,
)
from halonet.data.images import UnreadableImageError, load_item
from halonet.data.source import Encoded
from tests.data.making import (
    ORDER,
    WNIDS,
    class_files,
    jpeg,
    tar_bytes,
    val_files,
    write_devkit,
    write_folders,
    write_original,
    write_tar,
)

COLOUR = Preprocessing(img_size=8, in_chans=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), crop_pct=0.875)


def contents(source: ImageSource, part: str) -> set[tuple[bytes, str]]:
    """(image file, WordNet id) of every image of a part."""
    items = source.splits[part]  # type: ignore[index]
    assert isinstance(items, SplitItems)
    assert source.class_ids is not None
    found = set()
    for item, label in zip(items.items, items.labels, strict=True):
        data = item.read() if isinstance(item, Encoded) else Path(str(item)).read_bytes()
        found.add((data, source.class_ids[label]))
    assert len(found) == len(items)
    return found


TRAIN = {(data, wnid) for wnid, files in class_files().items() for data in files.values()}
VAL = {(data, WNIDS[number - 1]) for data, number in zip(val_files()[0].values(), val_files()[1], strict=True)}


def folders(root: Path) -> None:
    write_folders(root / "train", class_files())
    for (name, data), number in zip(val_files()[0].items(), val_files()[1], strict=True):
        write_folders(root / "val", {WNIDS[number - 1]: {name: data}})


def flat_validation(root: Path) -> None:
    write_folders(root / "train", class_files())
    write_folders(root, {"val": val_files()[0]})
    write_devkit(root)


def class_tars(root: Path) -> None:
    for wnid, files in class_files().items():
        write_tar(root / "train" / f"{wnid}.tar", files)
    write_folders(root, {"val": val_files()[0]})
    write_devkit(root)


@pytest.mark.parametrize("write", [folders, flat_validation, class_tars, write_original])
@pytest.mark.parametrize("dataset", ["auto", "imagenet"])
def test_every_form_gives_the_same_images_and_classes(
    tmp_path: Path, write: Callable[[Path], None], dataset: str
) -> None:
    root = tmp_path / "imagenet"
    write(root)
    source = open_source(DataConfig(root=str(root), dataset=dataset))  # type: ignore[arg-type]
    assert source.class_ids == ORDER
    assert contents(source, "train") == TRAIN
    assert contents(source, "val") == contents(source, "test") == VAL
    assert (source.form, source.test_is_val, source.in_chans) == ("imagenet", True, 3)
    if write is folders:
        assert source.class_names == ORDER
    else:
        assert source.class_names[0] == "tench, Tinca tinca"
        assert source.class_names[1:4:2] == ("crane (n02012849)", "crane (n03126707)")


def test_the_index_is_kept_and_made_again_when_the_archive_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_original(tmp_path)
    first = open_source(DataConfig(root=str(tmp_path)))
    assert (tmp_path / "ILSVRC2012_img_train.tar.index.npz").is_file()

    def never(*_: object) -> None:
        raise AssertionError("headers were read again")

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_scan_all", never)
        again = open_source(DataConfig(root=str(tmp_path)))
        assert contents(again, "train") == contents(first, "train")
    (tmp_path / "ILSVRC2012_img_val.tar.index.npz").write_bytes(b"damaged")
    files = {wnid: class_files(4)[wnid] for wnid in WNIDS}
    write_tar(tmp_path / "ILSVRC2012_img_train.tar", {f"{w}.tar": tar_bytes(f, tmp_path) for w, f in files.items()})
    assert len(open_source(DataConfig(root=str(tmp_path))).splits["train"]) == 16


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index goes to the user's cache."""
    write_original(tmp_path / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    original = archives.replacing

    def refusing(path: Path) -> object:
        if Path(path).parent == tmp_path / "data":
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(archives, "replacing", refusing)
    for _ in range(2):
        assert contents(open_source(DataConfig(root=str(tmp_path / "data"))), "train") == TRAIN
    assert len(list((tmp_path / "cache" / "halonet").glob("*.npz"))) == 2


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_archives_are_read_by_loading_processes(tmp_path: Path, context: str) -> None:
    write_original(tmp_path)
    part = open_source(DataConfig(root=str(tmp_path))).splits["train"]
    assert isinstance(part, SplitItems)
    data = ImageDataset(part, in_chans=3, transform=eval_transform(COLOUR), seed=0)
    expected = [data[i] for i in range(len(data))]  # the handle is open when processes start
    workers = 2 if context == "fork" else 1
    loader = DataLoader(data, batch_size=5, num_workers=workers, multiprocessing_context=context)
    images = [image for batch, _ in loader for image in batch]
    assert all((one == other[0]).all() for one, other in zip(images, expected, strict=True))


def test_few_handles_are_open_however_many_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "OPEN_FILES", 2)
    for wnid, files in class_files().items():
        write_tar(tmp_path / f"{wnid}.tar", files)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    source = open_source(DataConfig(root=str(tmp_path), val_fraction=0.4))
    part = source.splits["train"]
    assert isinstance(part, SplitItems)
    for item in (*part.items, *part.items):
        load_item(item, in_chans=3)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2 * 2
    assert load_item(pickle.loads(pickle.dumps(part)).items[0], in_chans=3).size == (10, 8)


def test_imagenet21k(tmp_path: Path) -> None:
    """From tar files and from folders, the same cut."""
    for wnid, files in class_files(5).items():
        write_tar(tmp_path / "tars" / f"{wnid}.tar", files)
    write_folders(tmp_path / "folders", class_files(5))
    (tmp_path / "folders" / "n99999999").mkdir()
    tars = open_source(DataConfig(root=str(tmp_path / "tars"), val_fraction=0.2))
    plain = open_source(DataConfig(root=str(tmp_path / "folders"), dataset="imagenet21k", val_fraction=0.2))
    assert tars.form == plain.form == "imagenet21k"
    assert tars.class_names == plain.class_names == ORDER
    assert tars.counts == {"train": 16, "val": 4, "test": 4}
    for part in ("train", "val"):
        assert contents(tars, part) == contents(plain, part)
    assert not contents(tars, "train") & contents(tars, "val")


def test_imagenetv2(tmp_path: Path) -> None:
    """Folders count as numbers: 10 comes after 9."""
    for number in range(12):
        write_folders(tmp_path, {str(number): {"a.jpeg": jpeg(number)}})
    source = open_source(DataConfig(root=str(tmp_path), dataset="imagenetv2"))
    assert source.class_names == tuple(map(str, range(12)))
    assert set(source.splits) == {"val", "test"}
    part = source.splits["test"]
    assert isinstance(part, SplitItems)
    assert [(Path(str(item)).parent.name, label) for item, label in zip(part.items, part.labels, strict=True)] == [
        (str(number), number) for number in range(12)
    ]


@pytest.mark.parametrize(
    ("dataset", "write", "message"),
    [
        ("imagenet", lambda root: write_folders(root, {"cat": {"a.jpg": b""}}), "no ImageNet in .*expected train/ and"),
        ("imagenet21k", lambda root: write_folders(root, {"cat": {"a.jpg": b""}}), "no ImageNet-21k in"),
        ("imagenetv2", lambda root: write_folders(root, {"1": {"a.jpg": b""}, "2": {}}), "expected folders 0, 1"),
        ("imagenet", lambda root: write_folders(root, {"val": val_files()[0]}), "says no classes: expected ILSVRC2012"),
        ("huggingface", lambda root: write_folders(root, {"cat": {}}), "cannot load"),
        ("webdataset", lambda root: write_folders(root, {"cat": {"a.jpg": b""}}), "no tar files in"),
    ],
)
def test_a_form_that_does_not_fit_says_why(
    tmp_path: Path, dataset: str, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_source(DataConfig(root=str(tmp_path), dataset=dataset))  # type: ignore[arg-type]


def test_truth_and_images_must_be_as_many(tmp_path: Path) -> None:
    flat_validation(tmp_path)
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    with pytest.raises(ValueError, match=r"has 5 images, .*_ground_truth\.txt has 6 lines"):
        open_source(DataConfig(root=str(tmp_path)))


def test_an_archive_cut_short(tmp_path: Path) -> None:
    write_original(tmp_path)
    tar = tmp_path / "ILSVRC2012_img_train.tar"
    tar.write_bytes(tar.read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"cannot read .*train\.tar as a tar file: unexpected end of data"):
        open_source(DataConfig(root=str(tmp_path)))


def test_an_unreadable_member_is_named_with_its_archive(tmp_path: Path) -> None:
    write_original(tmp_path)
    files = class_files()
    files["n02119789"]["n02119789_1.JPEG"] = b"no picture"
    write_tar(tmp_path / "ILSVRC2012_img_train.tar", {f"{w}.tar": tar_bytes(f, tmp_path) for w, f in files.items()})
    part = open_source(DataConfig(root=str(tmp_path))).splits["train"]
    assert isinstance(part, SplitItems)
    broken = [i for i in range(len(part)) if part.items[i].read() == b"no picture"]  # type: ignore[union-attr]
    with pytest.raises(UnreadableImageError, match=r"img_train\.tar: n02119789_1\.JPEG: not an image"):
        load_item(part.items[broken[0]], in_chans=3)
    assert np.bincount(part.labels).tolist() == [3, 3, 3, 3]
