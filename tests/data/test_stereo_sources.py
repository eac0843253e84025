"""Folders of stereo pairs as they are unpacked, their parts, and the data set of tensors over them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from halonet.data.stereo import (
    MEAN,
    STD,
    DrawnScenes,
    StereoConfig,
    StereoDataset,
    StereoSource,
    normalize,
    open_stereo_source,
    write_disparity,
)

Files = tuple[str, str, str]


def write_pairs(root: Path, *files: Files) -> None:
    """Drawn pairs of 12 x 24 pixels as left, right and disparity below `root`."""
    for number, names in enumerate(files):
        scene = DrawnScenes(1, number, size=(12, 24), max_disparity=8.0)[0].load()
        left, right, disparity = (root / name for name in names)
        for path, picture in ((left, scene.left), (right, scene.right)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
        write_disparity(disparity, scene.disparity)


def scene_flow_files(scene: str, name: str = "0006", *, frames: str = "frames_finalpass", prefix: str = "") -> Files:
    left, right = (f"{prefix}{frames}/{scene}/{view}/{name}.png" for view in ("left", "right"))
    return left, right, f"{prefix}disparity/{scene}/left/{name}.pfm"


def open_folder(root: Path, **options: object) -> StereoSource:
    config = StereoConfig(**options)  # type: ignore[arg-type]
    return open_stereo_source(config, root=str(root), val_fraction=0.34, split_seed=0)


def names(source: StereoSource, split: str) -> set[str]:
    return {item.name for item in source.splits[split]}  # type: ignore[index]


def test_flyingthings(tmp_path: Path) -> None:
    """TEST is the test part; whole scenes are held out, not single frames."""
    train = [scene_flow_files(f"TRAIN/A/{scene:04d}", name) for scene in range(6) for name in ("0006", "0007")]
    write_pairs(tmp_path, *train, scene_flow_files("TEST/C/0000"))
    source = open_folder(tmp_path)
    assert source.name == "scene_flow"
    assert source.crop_size == (256, 512)
    assert not source.test_is_val
    assert names(source, "test") == {"frames_finalpass/TEST/C/0000/left/0006"}
    assert len(names(source, "train")) == 8
    assert len(names(source, "val")) == 4
    scenes = [{name.rsplit("/", 2)[0] for name in names(source, part)} for part in ("train", "val")]
    assert scenes[0].isdisjoint(scenes[1])
    scene = source.splits["train"][0].load()
    assert scene.left.shape == (12, 24, 3)
    assert scene.valid.all()


def test_all_three_sets_in_one_folder(tmp_path: Path) -> None:
    write_pairs(tmp_path / "FlyingThings3D", *(scene_flow_files(f"TRAIN/B/{i:04d}") for i in range(3)))
    write_pairs(tmp_path / "FlyingThings3D", scene_flow_files("TEST/A/0001"))
    driving = [
        f"35mm_focallength/scene_{way}/{speed}" for way in ("forwards", "backwards") for speed in ("fast", "slow")
    ]
    write_pairs(tmp_path / "driving", *(scene_flow_files(scene, "0001") for scene in driving))
    write_pairs(
        tmp_path / "monkaa", *(scene_flow_files(scene, "0000") for scene in ("eating_x2", "family_x2", "a_rain"))
    )
    source = open_folder(tmp_path)
    everything = names(source, "train") | names(source, "val")
    assert len(everything) == 10
    assert {name.split("/")[0] for name in everything} == {"FlyingThings3D", "driving", "monkaa"}
    assert names(source, "test") == {"FlyingThings3D/frames_finalpass/TEST/A/0001/left/0006"}


def test_psmnets_own_folder(tmp_path: Path) -> None:
    """All sets unpacked side by side, told apart by a prefix."""
    write_pairs(tmp_path, *(scene_flow_files(f"TRAIN/B/{i:04d}") for i in range(2)))
    write_pairs(tmp_path, *(scene_flow_files(f"15mm/{i}", prefix="driving_") for i in range(2)))
    source = open_folder(tmp_path)
    assert len(names(source, "train") | names(source, "val")) == 4


def test_the_other_render(tmp_path: Path) -> None:
    write_pairs(tmp_path, *(scene_flow_files(f"TRAIN/A/{i:04d}", frames="frames_cleanpass") for i in range(3)))
    assert len(names(open_folder(tmp_path, render="cleanpass"), "train")) == 2
    with pytest.raises(ValueError, match=r"stereo.render: .* has frames_cleanpass, but no frames_finalpass"):
        open_folder(tmp_path)


def test_without_a_test_part_validation_judges(tmp_path: Path) -> None:
    write_pairs(tmp_path, *(scene_flow_files(f"TRAIN/A/{i:04d}") for i in range(3)))
    source = open_folder(tmp_path)
    assert source.test_is_val
    assert names(source, "test") == names(source, "val")


@pytest.mark.parametrize(("part", "what"), [(1, "right image missing"), (2, "disparity missing")])
def test_a_missing_file_is_told_by_its_path(part: int, what: str, tmp_path: Path) -> None:
    files = [scene_flow_files(f"TRAIN/A/{i:04d}") for i in range(3)]
    write_pairs(tmp_path, *files)
    (tmp_path / files[1][part]).unlink()
    with pytest.raises(ValueError, match=what) as caught:
        open_folder(tmp_path)
    assert str(tmp_path / files[1][part]) in str(caught.value)
    kitti = [(f"training/{folder}/{i:06d}_10.png" for folder in ("image_2", "image_3", "disp_occ_0")) for i in range(3)]
    rows = [tuple(row) for row in kitti]
    write_pairs(tmp_path / "kitti", *rows)  # type: ignore[arg-type]
    (tmp_path / "kitti" / rows[2][part]).unlink()
    with pytest.raises(ValueError, match=what) as caught:
        open_folder(tmp_path / "kitti")
    assert str(tmp_path / "kitti" / rows[2][part]) in str(caught.value)


@pytest.mark.parametrize(
    ("folders", "name"),
    [
        (("image_2", "image_3", "disp_occ_0"), "kitti2015"),
        (("colored_0", "colored_1", "disp_occ"), "kitti2012"),
        (("image_0", "image_1", "disp_occ"), "kitti2012"),
    ],
)
def test_kitti(folders: Files, name: str, tmp_path: Path) -> None:
    rows = [tuple(f"training/{folder}/{i:06d}_10.png" for folder in folders) for i in range(6)]
    write_pairs(tmp_path, *rows)  # type: ignore[arg-type]
    Image.new("RGB", (24, 12)).save(tmp_path / "training" / folders[0] / "000000_11.png")  # the later moment
    source = open_folder(tmp_path)
    assert source.name == name
    assert source.test_is_val
    assert source.crop_size == (256, 512)
    assert {len(names(source, part)) for part in ("train", "val")} == {4, 2}
    assert names(source, "train") | names(source, "val") == {f"{i:06d}_10" for i in range(6)}
    assert open_folder(tmp_path, crop_size=[8, 16]).crop_size == (8, 16)


def test_drawn_pairs_are_the_default() -> None:
    source = open_stereo_source(
        StereoConfig(drawn_pairs=200, drawn_size=[16, 32], drawn_disparity=9.0),
        root=None,
        val_fraction=0.1,
        split_seed=4,
    )
    assert {part: len(items) for part, items in source.splits.items()} == {"train": 200, "val": 25, "test": 25}
    assert len(names(source, "train") | names(source, "val") | names(source, "test")) == 250
    assert source.splits["test"][0].load().left.shape == (16, 32, 3)


@pytest.mark.parametrize(
    ("options", "root", "message"),
    [
        ({"dataset": "drawn"}, "somewhere", "data.root: expected null for drawn stereo pairs"),
        ({"dataset": "kitti2015"}, None, "data.root: expected the folder of kitti2015, got null"),
        ({}, "nowhere", "data.root: expected a folder of stereo pairs, found none at"),
        ({}, ".", "data.root: no stereo pairs in .*: expected Scene Flow"),
        ({"dataset": "kitti2012"}, ".", "data.root: expected KITTI 2012 with colored_0/, colored_1/, disp_occ/"),
        ({"dataset": "scene_flow"}, ".", "data.root: no Scene Flow pictures in"),
    ],
)
def test_folders_that_do_not_fit_are_told(options: dict, root: str | None, message: str, tmp_path: Path) -> None:
    place = None if root is None else str(tmp_path / root)
    with pytest.raises(ValueError, match=message):
        open_stereo_source(StereoConfig(**options), root=place, val_fraction=0.1, split_seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": [3]}, r"stereo.crop_size: expected height and width of at least 1, got \[3\]"),
        ({"drawn_size": [0, 9]}, "stereo.drawn_size: expected"),
        ({"drawn_pairs": 0}, "stereo.drawn_pairs: expected at least 1, got 0"),
        ({"drawn_disparity": 1.0}, "stereo.drawn_disparity: expected 2 to the width of drawn pairs, 128, got 1.0"),
        ({"loss_weights": []}, "stereo.loss_weights: expected"),
        ({"loss_weights": [1.0, 0.0]}, "stereo.loss_weights: expected"),
    ],
)
def test_settings_out_of_range_are_told(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StereoConfig(**options)


def test_pictures_are_normalized_by_imagenets_statistics() -> None:
    picture = np.zeros((2, 3, 3), dtype=np.uint8)
    picture[0, 1] = (255, 128, 0)
    tensor = normalize(picture)
    assert tensor.shape == (3, 2, 3)
    expected = [(value / 255 - mean) / std for value, mean, std in zip((255, 128, 0), MEAN, STD, strict=True)]
    torch.testing.assert_close(tensor[:, 0, 1], torch.tensor(expected))
    with pytest.raises(ValueError, match=r"picture must be .* uint8"):
        normalize(picture.astype(np.float32))


def test_training_cuts_all_alike_and_repeatably() -> None:
    items = DrawnScenes(3, 0, size=(20, 40), max_disparity=9.0)
    dataset = StereoDataset(items, crop_size=(8, 16), seed=5, augment=True)
    scene, cut = items[1].load(), dataset[3 + 1]  # pair 1 in epoch 1
    whole = normalize(scene.left)
    places = [
        (top, left)
        for top in range(13)
        for left in range(25)
        if torch.equal(whole[:, top:, left:][:, :8, :16], cut["left"])
    ]
    ((top, left),) = places
    assert torch.equal(normalize(scene.right)[:, top : top + 8, left : left + 16], cut["right"])
    assert np.array_equal(scene.disparity[top : top + 8, left : left + 16], cut["disparity"])
    assert cut["valid"].shape == (8, 16)
    torch.rand(7)  # what ran before makes no difference
    assert torch.equal(dataset[4]["left"], cut["left"])
    assert any(not torch.equal(dataset[1 + 3 * epoch]["left"], cut["left"]) for epoch in (0, 2, 3))


def test_judging_takes_whole_pictures_and_hides_what_is_unknown(tmp_path: Path) -> None:
    files = [
        tuple(f"training/{folder}/{i}_10.png" for folder in ("image_2", "image_3", "disp_occ_0")) for i in range(2)
    ]
    write_pairs(tmp_path, *files)  # type: ignore[arg-type]
    known = np.zeros((12, 24), dtype=bool)
    known[3:5] = True
    for row in files:
        write_disparity(tmp_path / row[2], np.full((12, 24), 4.5), known)
    source = open_stereo_source(StereoConfig(), root=str(tmp_path), val_fraction=0.5, split_seed=0)
    dataset = StereoDataset(source.splits["val"], crop_size=source.crop_size, seed=0, augment=False)
    pair = dataset[0]
    assert pair["left"].shape == pair["right"].shape == (3, 12, 24)
    assert torch.equal(pair["valid"], torch.from_numpy(known))
    assert torch.equal(pair["disparity"], torch.from_numpy(np.where(known, 4.5, 0).astype(np.float32)))
    training = StereoDataset(source.splits["train"], crop_size=source.crop_size, seed=0, augment=True)
    with pytest.raises(
        ValueError, match=r"stereo.crop_size: expected at most the picture's size, got 256 x 512 .* 12 x 24"
    ):
        training[0]
    shutil.rmtree(tmp_path / "training" / "image_3")
    with pytest.raises(ValueError, match="image_3"):
        training[0]
