"""Small data sets in the forms that the large ones come in."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

# In the order of their ILSVRC2012_IDs, which is not that of their WordNet ids; two are called the same.
WNIDS = ("n02119789", "n01440764", "n03126707", "n02012849")
WORDS = {
    "n02119789": "kit fox, Vulpes macrotis",
    "n01440764": "tench, Tinca tinca",
    "n03126707": "crane",
    "n02012849": "crane",
}
ORDER = tuple(sorted(WNIDS))


def jpeg(seed: int, *, size: tuple[int, int] = (10, 8)) -> bytes:
    """An image file whose mean grey value is about 20 * seed."""
    pixels = np.random.default_rng(seed).integers(0, 20, (size[1], size[0], 3)) + 20 * (seed % 12)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "jpeg")
    return file.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def tar_bytes(files: Mapping[str, bytes], folder: Path) -> bytes:
    path = write_tar(folder / "inner.tmp", files)
    data = path.read_bytes()
    path.unlink()
    return data


def class_files(count: int = 3) -> dict[str, dict[str, bytes]]:
    """Image files by name, by WordNet id; all bytes differ."""
    return {
        wnid: {f"{wnid}_{number}.JPEG": jpeg(10 * place + number) for number in range(count)}
        for place, wnid in enumerate(WNIDS)
    }


def val_files() -> tuple[dict[str, bytes], list[int]]:
    """Flat validation images by name, and their ILSVRC2012_IDs."""
    truth = [3, 1, 2, 4, 1, 3]
    return {f"ILSVRC2012_val_{i + 1:08d}.JPEG": jpeg(100 + i) for i in range(len(truth))}, truth


def write_folders(root: Path, classes: Mapping[str, Mapping[str, bytes]]) -> None:
    for name, files in classes.items():
        for file, data in files.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / file).write_bytes(data)


def write_devkit(root: Path) -> None:
    """ILSVRC2012_devkit_t12.tar.gz with the four classes and one that is above them in WordNet."""
    from scipy.io import savemat

    kinds = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("gloss", object),
        ("num_children", object),
    ]
    rows = [(i + 1, wnid, WORDS[wnid], "", 0) for i, wnid in enumerate(WNIDS)]
    rows.append((len(rows) + 1, "n00001740", "entity", "", 4))
    synsets = np.array([rows], dtype=kinds).reshape(-1, 1)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{number}\n" for number in val_files()[1])
    plain = write_tar(
        root / "devkit.tmp",
        {
            "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
        },
    )
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


def write_original(root: Path) -> None:
    """The files that ImageNet's site hands out."""
    root.mkdir(parents=True, exist_ok=True)
    inner = {f"{wnid}.tar": tar_bytes(files, root) for wnid, files in class_files().items()}
    write_tar(root / "ILSVRC2012_img_train.tar", inner)
    files = val_files()[0]
    write_tar(root / "ILSVRC2012_img_val.tar", dict(sorted(files.items(), reverse=True)))
    write_devkit(root)


def write_shards(root: Path, counts: Mapping[str, list[int]], *, classes: int = 3) -> dict[str, dict[str, int]]:
    """Shards of others, PART-000000.tar; of each part the labels by "FILE: KEY"."""
    labels: dict[str, dict[str, int]] = {}
    number = 0
    for part, sizes in counts.items():
        labels[part] = {}
        for place, size in enumerate(sizes):
            files: dict[str, bytes] = {}
            name = f"{part}-{place:06d}.tar"
            for _ in range(size):
                label = number % classes
                files[f"{number:05d}.jpg"] = jpeg(number)
                if number % 2:
                    files[f"{number:05d}.json"] = json.dumps({"label": label, "other": "words"}).encode()
                else:
                    files[f"{number:05d}.cls"] = str(label).encode()
                labels[part][f"{name}: {number:05d}.jpg"] = label
                number += 1
            write_tar(root / name, files)
    return labels
