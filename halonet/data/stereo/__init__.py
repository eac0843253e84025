"""Stereo pairs: drawn ones, the Scene Flow sets and KITTI. Nothing here knows of a trainer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from halonet.data.stereo.config import StereoConfig
from halonet.data.stereo.dataset import MEAN, STD, StereoDataset, normalize
from halonet.data.stereo.disparity_files import read_disparity, write_disparity
from halonet.data.stereo.drawn import DrawnScene, DrawnScenes, draw_scene
from halonet.data.stereo.kitti import Year, is_kitti, load_kitti
from halonet.data.stereo.pfm import read_pfm, write_pfm
from halonet.data.stereo.scene_flow import LAYOUT, is_scene_flow, load_scene_flow
from halonet.data.stereo.source import Scene, ScenePaths, StereoItem, StereoSource, read_pair

__all__ = [
    "MEAN",
    "STD",
    "DrawnScene",
    "DrawnScenes",
    "Scene",
    "ScenePaths",
    "StereoConfig",
    "StereoDataset",
    "StereoItem",
    "StereoSource",
    "draw_scene",
    "load_kitti",
    "load_scene_flow",
    "normalize",
    "open_stereo_source",
    "read_disparity",
    "read_pair",
    "read_pfm",
    "write_disparity",
    "write_pfm",
]

_LEAST_DRAWN = 16  # fewer pairs than that are no judges


def open_stereo_source(stereo: StereoConfig, *, root: str | None, val_fraction: float, split_seed: int) -> StereoSource:
    """The pairs that `stereo` names, with its crop_size where it has one.

    Args:
        stereo: the settings.
        root: folder of files; None for drawn pairs.
        val_fraction: share of the training scenes of files that is held out.
        split_seed: of that cut; of drawn pairs, what all of them are drawn from.

    Returns:
        The source.

    Raises:
        ValueError: a folder that is missing, is not needed, or is not laid out as expected.
    """
    dataset = _told_by_folders(root) if stereo.dataset == "auto" else stereo.dataset
    if dataset == "drawn":
        if root is not None:
            raise ValueError(f"data.root: expected null for drawn stereo pairs, got {root}")
        source = _drawn(stereo, seed=split_seed)
    elif root is None:
        raise ValueError(f"data.root: expected the folder of {dataset}, got null")
    elif dataset == "scene_flow":
        source = load_scene_flow(root, render=stereo.render, val_fraction=val_fraction, split_seed=split_seed)
    else:
        year: Year = 2012 if dataset == "kitti2012" else 2015
        source = load_kitti(root, year=year, val_fraction=val_fraction, split_seed=split_seed)
    if stereo.crop_size is None:
        return source
    height, width = stereo.crop_size
    return replace(source, crop_size=(height, width))


def _told_by_folders(root: str | None) -> str:
    if root is None:
        return "drawn"
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.root: expected a folder of stereo pairs, found none at {root}")
    if is_kitti(folder, 2015):
        return "kitti2015"
    if is_kitti(folder, 2012):
        return "kitti2012"
    if is_scene_flow(folder):
        return "scene_flow"
    raise ValueError(
        f"data.root: no stereo pairs in {root}: expected Scene Flow ({LAYOUT}), KITTI 2012 (training/disp_occ) "
        "or KITTI 2015 (training/disp_occ_0)"
    )


def _drawn(stereo: StereoConfig, *, seed: int) -> StereoSource:
    held_out = max(_LEAST_DRAWN, stereo.drawn_pairs // 8)
    height, width = stereo.drawn_size
    # Three seeds that no other split_seed has.
    train, val, test = (
        DrawnScenes(count, 3 * seed + part, size=(height, width), max_disparity=stereo.drawn_disparity)
        for part, count in enumerate((stereo.drawn_pairs, held_out, held_out))
    )
    return StereoSource("drawn", {"train": train, "val": val, "test": test}, test_is_val=False, crop_size=None)
