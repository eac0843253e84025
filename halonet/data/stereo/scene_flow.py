"""The Scene Flow sets (FlyingThings3D, Monkaa, Driving; Mayer et al. 2016, arXiv 1512.02134) as they are unpacked."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from halonet.data.stereo.source import ScenePaths, StereoSource, cut_validation

Render = Literal["finalpass", "cleanpass"]
SET_FOLDERS = ("flyingthings3d", "monkaa", "driving")
LAYOUT = (
    "frames_finalpass/ or frames_cleanpass/ (or the same with _webp) beside disparity/, "
    "in it or in its flyingthings3d/, monkaa/ and driving/"
)
TRAINING_CROP = (256, 512)  # height and width of PSMNet's crops (arXiv 1803.08669, section 4.1)
_PREFIXES = ("", "driving_", "monkaa_")  # PSMNet has all sets unpacked side by side, told apart by a prefix
_SUFFIXES = (".png", ".webp")


@dataclass(frozen=True)
class _Folders:
    """Where the pictures of one set and their disparities begin; below them the folders are alike."""

    images: Path
    disparity: Path


def is_scene_flow(root: Path) -> bool:
    """Whether `root` looks like a folder for `load_scene_flow`: nothing is said about its being complete."""
    named = any(entry.is_dir() and entry.name.lower() in SET_FOLDERS for entry in root.iterdir())
    return named or any(
        _images_folder(root, prefix, render) is not None
        for prefix in _PREFIXES
        for render in ("finalpass", "cleanpass")
    )


def load_scene_flow(
    root: str | Path, *, render: Render = "finalpass", val_fraction: float, split_seed: int
) -> StereoSource:
    """List the pairs below `root`; the files themselves are opened later.

    A left picture lies at frames_RENDER/.../left/NAME.png (or .webp), the right one at .../right/NAME.png, the
    disparity at disparity/.../left/NAME.pfm. Pictures below TEST (FlyingThings3D has one) are the test part, all
    others are cut by whole scenes, the folders that hold left/ and right/, into training and validation.

    Args:
        root: one set, or a folder of flyingthings3d/, monkaa/ and driving/ (in any case, not all needed), or PSMNet's,
            where driving_frames_RENDER/ and driving_disparity/, and monkaa's, stand beside FlyingThings3D's.
        render: "finalpass", with blur, or "cleanpass".
        val_fraction: share of each set's training scenes that is held out.
        split_seed: of that cut.

    Returns:
        The source; without a TEST folder its validation part serves twice.

    Raises:
        ValueError: no such folders, or a left picture without its right one or its disparity.
    """
    root = Path(root).expanduser()
    scenes: dict[tuple[int, Path], list[ScenePaths]] = defaultdict(list)
    test: list[ScenePaths] = []
    for group, folders in enumerate(_find_sets(root, render)):
        for scene, pairs in _scenes(folders, root):
            if scene.parts[:1] and scene.parts[0].upper() == "TEST":
                test.extend(pairs)
            else:
                scenes[group, scene] += pairs
    groups = [group for group, _ in scenes]
    train, val = cut_validation(groups, val_fraction=val_fraction, seed=split_seed, root=root)
    parts = [[pair for i, pairs in enumerate(scenes.values()) if i in part for pair in pairs] for part in (train, val)]
    return StereoSource(
        name="scene_flow",
        splits={"train": parts[0], "val": parts[1], "test": test or parts[1]},
        test_is_val=not test,
        crop_size=TRAINING_CROP,
    )


def _find_sets(root: Path, render: Render) -> list[_Folders]:
    """All sets in `root` and in its folders named after one; none of them may lack this render."""
    if not root.is_dir():
        raise ValueError(f"data.root: expected a folder of the Scene Flow sets, found none at {root}")
    named = sorted(entry for entry in root.iterdir() if entry.is_dir() and entry.name.lower() in SET_FOLDERS)
    other: Render = "cleanpass" if render == "finalpass" else "finalpass"
    sets: list[_Folders] = []
    for folder in (root, *named):
        before = len(sets)
        for prefix in _PREFIXES:
            images = _images_folder(folder, prefix, render)
            if images is not None:
                sets.append(_Folders(images, _disparity_folder(folder, prefix)))
            # A set that is there in the other render only would be left out unnoticed.
            elif _images_folder(folder, prefix, other) is not None:
                raise ValueError(f"stereo.render: {folder} has {prefix}frames_{other}, but no {prefix}frames_{render}")
        if folder is not root and len(sets) == before:
            raise ValueError(f"data.root: expected frames_{render} in {folder}, found none")
    if not sets:
        raise ValueError(f"data.root: no Scene Flow pictures in {root}: expected {LAYOUT}")
    return sets


def _images_folder(folder: Path, prefix: str, render: Render) -> Path | None:
    candidates = (folder / f"{prefix}frames_{render}{ending}" for ending in ("", "_webp"))
    return next((path for path in candidates if path.is_dir()), None)


def _disparity_folder(folder: Path, prefix: str) -> Path:
    candidates = [folder / f"{prefix}{name}" for name in ("disparity", "frames_disparity")]
    for path in candidates:
        if path.is_dir():
            return path
    raise ValueError(f"data.root: disparities missing: expected the folder {candidates[0]}")


def _scenes(folders: _Folders, root: Path) -> list[tuple[Path, list[ScenePaths]]]:
    """(folder below the set's, its pairs) of each scene, in the order of their names."""
    found = []
    for parent, names, _ in os.walk(folders.images, followlinks=True):
        names.sort()
        if "left" in names:
            scene = Path(parent).relative_to(folders.images)
            found.append((scene, _pairs(Path(parent), folders.disparity / scene / "left", root)))
            names[:] = [name for name in names if name not in ("left", "right")]
    if not any(pairs for _, pairs in found):
        raise ValueError(f"data.root: no left/NAME.png or left/NAME.webp below {folders.images}")
    return found


def _pairs(scene: Path, disparities: Path, root: Path) -> list[ScenePaths]:
    """Of one scene. Folders are read once each: a set has tens of thousands of files, and a status each is slow."""
    there = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in (scene / "right", disparities)}
    pairs = []
    for name in sorted(os.listdir(scene / "left")):
        if not name.lower().endswith(_SUFFIXES) or name.startswith("."):
            continue
        left, right = scene / "left" / name, scene / "right" / name
        disparity = disparities / f"{left.stem}.pfm"
        for what, path in (("right image", right), ("disparity", disparity)):
            if path.name not in there[path.parent]:
                raise ValueError(f"data.root: {what} missing: {left} needs {path}")
        pairs.append(ScenePaths(left, right, disparity, left.relative_to(root).with_suffix("").as_posix()))
    return pairs
