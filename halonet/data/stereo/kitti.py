"""KITTI's stereo sets of 2012 and 2015 (Geiger et al. 2012; Menze and Geiger 2015), as they are unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from halonet.data.stereo.source import ScenePaths, StereoSource, cut_validation

Year = Literal[2012, 2015]
# Folders of left pictures, right pictures and disparities below training/; where two are told, the first that is there.
FOLDERS: dict[Year, tuple[tuple[str, str, str], ...]] = {
    2012: (("colored_0", "colored_1", "disp_occ"), ("image_0", "image_1", "disp_occ")),
    2015: (("image_2", "image_3", "disp_occ_0"),),
}
TRAINING_CROP = (256, 512)  # height and width of PSMNet's crops (arXiv 1803.08669, section 4.1)
_FRAMES = "*_10.png"  # of the two moments of a scene, _10 and _11, the one with disparities


def is_kitti(root: Path, year: Year) -> bool:
    """Whether `root` looks like a folder for `load_kitti`: nothing is said about its being complete."""
    return any((root / "training" / name).is_dir() for _, _, name in FOLDERS[year])


def load_kitti(root: str | Path, *, year: Year, val_fraction: float, split_seed: int) -> StereoSource:
    """List the training pairs below `root`; the files themselves are opened later.

    KITTI's testing/ comes without disparities, so that training/ is cut in two and validation serves as test.

    Args:
        root: folder that holds training/.
        year: 2012 (training/colored_0, colored_1, or grey image_0, image_1, and disp_occ) or 2015 (image_2, image_3,
            disp_occ_0).
        val_fraction: share of the pairs that is held out.
        split_seed: of that cut.

    Returns:
        The source.

    Raises:
        ValueError: no such folders, no pictures, or a left picture without its right one or its disparity.
    """
    folder = Path(root).expanduser() / "training"
    choices = FOLDERS[year]
    left, right, disparity = next((names for names in choices if (folder / names[0]).is_dir()), choices[0])
    if not (folder / left).is_dir():
        layouts = " or ".join("/, ".join(names) + "/" for names in choices)
        raise ValueError(f"data.root: expected KITTI {year} with {layouts} in {folder}")
    pairs = []
    for path in sorted((folder / left).glob(_FRAMES)):
        pair = ScenePaths(path, folder / right / path.name, folder / disparity / path.name)
        for what, needed in (("right image", pair.right), ("disparity", pair.disparity)):
            if not needed.is_file():
                raise ValueError(f"data.root: {what} missing: {path} needs {needed}")
        pairs.append(pair)
    if not pairs:
        raise ValueError(f"data.root: no pictures {_FRAMES} in {folder / left}")
    train, val = cut_validation([0] * len(pairs), val_fraction=val_fraction, seed=split_seed, root=folder)
    parts = [[pair for i, pair in enumerate(pairs) if i in part] for part in (train, val)]
    return StereoSource(
        name=f"kitti{year}",
        splits={"train": parts[0], "val": parts[1], "test": parts[1]},
        test_is_val=True,
        crop_size=TRAINING_CROP,
    )
