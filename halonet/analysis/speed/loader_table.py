"""Loading and augmenting images: ours from a folder, tar files and shards beside timm's from the same folder."""

from __future__ import annotations

import io
import statistics
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from halonet.analysis.speed.measuring import compare, describe, interleaved_times, print_setting
from halonet.data import (
    DataConfig,
    EpochSampler,
    ImageDataset,
    Preprocessing,
    SplitItems,
    StreamDataset,
    StreamItems,
    open_source,
    train_transform,
)
from halonet.data.source import Encoded

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSING = Preprocessing(img_size=SIDE, in_chans=3, mean=MEAN, std=STD, crop_pct=0.875)
MAGNITUDE = 9
AUGMENTATIONS = {"plain": 0, "randaugment": MAGNITUDE}
CLASSES, SIZE = 1000, (500, 375)  # ImageNet's classes, and the commonest size of its pictures
SHARD = 250  # images
# Told apart: what timm's workers hand over, and so what is left for the training process to do.
PEERS = {
    "timm": "folder; workers give normalized float32, as ours do",
    "timm-uint8": "folder; workers give bytes, which the main process normalizes",
    "folder": "ours",
    "tar": "ours, tar files of classes read in place",
    "shards": "ours, WebDataset shards as a stream",
}

Images = list[tuple[str, bytes]]


def loader_table(*, data: Path | None, workers: int | None, batch: int, rounds: int) -> dict[str, Any]:
    """Images a second with random crops and flips, without and with RandAugment, printed as they come; ratios are to
    timm's first row.

    data: a set whose training images to take, 1000 at most; None: 1000 generated JPEGs of 500x375, one a class. All of
        them lie in the file cache of the system after the first pass: the figures are of reading files that are there,
        decoding and augmenting, not of disks.
    workers: None: as many as the machine has cores.

    Raises:
        ValueError: `data` cannot be opened, or is a stream.
    """
    workers = workers if workers is not None else torch.multiprocessing.cpu_count()
    images = generated() if data is None else taken(data)
    sizes = [len(file) for _, file in images]
    whose = "generated" if data is None else f"of {data.name}"
    told = f"{len(images)} {whose}, {statistics.mean(sizes) / 1024:.0f} KiB in the mean, {SIDE}x{SIDE} to the network"
    setting = describe(batch=batch, rounds=rounds, images=told, workers=workers)
    print_setting(setting)
    report: dict[str, Any] = {"setting": setting}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_forms(images, root)
        for name, magnitude in AUGMENTATIONS.items():
            calls = {
                peer: partial(one_pass, make(peer, root, magnitude=magnitude, workers=workers, batch=batch))
                for peer in PEERS
            }
            report[name] = compare(interleaved_times(calls, rounds), "timm")
            count = len(images) // batch * batch
            for peer, row in report[name].items():
                row["images_per_second"] = count / row["median_ms"] * 1e3
                slowest, fastest = (count / row[key] * 1e3 for key in ("slowest_ms", "fastest_ms"))
                print(
                    f"{name:12} {peer:11} {row['images_per_second']:8.1f} images/s ({slowest:.1f} to {fastest:.1f}), "
                    f"{row['times_as_fast']:.2f} times as fast as timm   {PEERS[peer]}",
                    flush=True,
                )
            del calls  # ends the loading processes
    return report


def one_pass(loader: Any) -> int:
    """Loads everything once; how many images."""
    return sum(len(labels) for _, labels in loader)


def generated(count: int = CLASSES, *, size: tuple[int, int] = SIZE) -> Images:
    """JPEG files of as many classes, about as large as photographs of their size are."""
    images = []
    rng = np.random.default_rng(0)
    for number in range(count):
        shapes = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        noise = rng.normal(0, 8, (size[1], size[0], 3))
        pixels = np.clip(np.asarray(shapes) + noise, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "jpeg", quality=90)
        images.append((f"n{number:08d}", file.getvalue()))
    return images


def taken(data: Path, count: int = CLASSES) -> Images:
    """Training images of a set, evenly from all of it, with their class as a folder's name."""
    part = open_source(DataConfig(root=str(data))).splits.get("train")
    if not isinstance(part, SplitItems):
        raise ValueError(f"data: expected a set with single training images, got none or a stream at {data}")
    images = []
    for place in np.linspace(0, len(part) - 1, min(count, len(part)), dtype=int).tolist():
        item = part.items[place]
        assert not isinstance(item, Image.Image)
        file = item.read() if isinstance(item, Encoded) else item.read_bytes()
        images.append((f"n{int(part.labels[place]):08d}", file))
    return images


def write_forms(images: Images, root: Path) -> None:
    """The same images as folder/train/CLASS/, as tar/train/CLASS.tar and as shards."""
    by_class: dict[str, list[tuple[str, bytes]]] = {}
    for number, (name, file) in enumerate(images):
        by_class.setdefault(name, []).append((f"{number:06d}.jpg", file))
    for name, files in by_class.items():
        (root / "folder" / "train" / name).mkdir(parents=True)
        for image, contents in files:
            (root / "folder" / "train" / name / image).write_bytes(contents)
        write_tar(root / "tar" / f"{name}.tar", files)
    numbers = {name: number for number, name in enumerate(by_class)}
    for start in range(0, len(images), SHARD):
        files = []
        for number, (name, contents) in enumerate(images[start : start + SHARD], start):
            files += [(f"{number:06d}.cls", str(numbers[name]).encode()), (f"{number:06d}.jpg", contents)]
        write_tar(root / "shards" / f"{start:06d}.tar", files)


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    """A tar file at `path` of (name, contents)."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, contents in files:
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents))


def make(peer: str, root: Path, *, magnitude: int, workers: int, batch: int) -> Any:
    """A loader that gives shuffled batches of all images, whole ones only."""
    if peer.startswith("timm"):
        return _timm(root / "folder" / "train", magnitude, workers, batch, uint8=peer == "timm-uint8")
    transform: Callable[..., torch.Tensor] = train_transform(
        PREPROCESSING, augment="photo", randaugment=magnitude, crop_scale=0.08
    )
    options: dict[str, Any] = {"in_chans": 3, "transform": transform, "seed": 0}
    machinery: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    if peer == "shards":
        stream = StreamDataset(_shards(root / peer), **options, batch_size=batch, shuffle=True, buffer=1000)
        return DataLoader(stream, batch_size=None, **machinery)
    dataset = ImageDataset(_items(root, peer), **options)
    sampler = EpochSampler(dataset, seed=0, num_replicas=1, rank=0)
    return DataLoader(dataset, batch_size=batch, sampler=sampler, drop_last=True, **machinery)


def _items(root: Path, peer: str) -> SplitItems:
    from halonet.data.folder import read_classes
    from halonet.data.imagenet import class_tars_as_split

    if peer == "tar":
        return class_tars_as_split(root / "tar")
    folder = root / "folder" / "train"
    return read_classes(folder, sorted(path.name for path in folder.iterdir()))


def _shards(folder: Path) -> StreamItems:
    from halonet.data.web import stream_of

    return stream_of(sorted(str(path) for path in folder.glob("*.tar")))


def _timm(folder: Path, magnitude: int, workers: int, batch: int, *, uint8: bool) -> Any:
    from timm.data import create_dataset, create_loader

    return create_loader(
        create_dataset("", root=str(folder)),
        input_size=(3, SIDE, SIDE),
        batch_size=batch,
        is_training=True,
        use_prefetcher=uint8,
        auto_augment=f"rand-m{magnitude}-n2-mstd0.5" if magnitude else None,
        color_jitter=None,  # type: ignore[arg-type]  # none at all, where 0.0 would still draw
        scale=(0.08, 1.0),
        hflip=0.5,
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=False,
        device=torch.device("cpu"),
    )
