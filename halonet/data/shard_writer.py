"""Any data set of single images as WebDataset shards, its files byte for byte."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from halonet.data.images import IMAGE_SUFFIXES
from halonet.data.source import Encoded, ImageSource, Item, SplitItems
from halonet.data.web import FORMAT, INDEX, is_ours
from halonet.files import replacing

MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n": "png", b"GIF8": "gif", b"BM": "bmp"}


@dataclass(frozen=True)
class Shard:
    """One file to write: images `places` of a part."""

    part: str
    file: str
    places: np.ndarray


def write_shards(
    source: ImageSource, out: Path, *, images_per_shard: int, seed: int, jobs: int, say: Callable[[str], None]
) -> None:
    """Write PART-000000.tar ... and index.json into the folder `out`, each part shuffled by `seed`.

    Every file is written beside its final name and renamed; index.json says that the set is complete when all are
    there. A run that was stopped goes on with the files that are missing. say: hears a line now and then.

    Raises:
        ValueError: `out` holds other things, or shards of other data or settings; or a file cannot be read.
    """
    parts = {name: part for name, part in source.splits.items() if not (name == "test" and source.test_is_val)}
    for name, part in parts.items():
        if not isinstance(part, SplitItems):
            raise ValueError(f"data.root: {name} of {source.name} is a stream of shards already")
    shards = _plan(parts, images_per_shard=images_per_shard, seed=seed)
    index = _index(source, shards, images_per_shard=images_per_shard, seed=seed)
    _begin(out, index)
    missing = [shard for shard in shards if not (out / shard.file).is_file()]
    if len(missing) < len(shards):
        say(f"{len(shards) - len(missing)} of {len(shards)} shards are there already")
    with _writers(parts, out, jobs) as write:
        for done, shard in enumerate(write(missing), 1):
            if done == len(missing) or done % 100 == 0:
                say(f"{done} of {len(missing)} shards written, last {shard}")
    _write_index(out, {**index, "complete": True})


def _plan(parts: dict[Any, Any], *, images_per_shard: int, seed: int) -> list[Shard]:
    shards = []
    for number, (name, part) in enumerate(parts.items()):
        order = np.random.default_rng([seed, number]).permutation(len(part))
        pieces = np.array_split(order, -(-len(order) // images_per_shard))
        shards += [Shard(name, f"{name}-{i:06d}.tar", piece) for i, piece in enumerate(pieces)]
    return shards


def _index(source: ImageSource, shards: list[Shard], *, images_per_shard: int, seed: int) -> dict[str, Any]:
    """What index.json says; `fingerprint`: of the classes of all images, in the order in which they are written."""
    digest = hashlib.sha256()
    parts: dict[str, list[list[Any]]] = {}
    for shard in shards:
        part = source.splits[shard.part]  # type: ignore[index]
        assert isinstance(part, SplitItems)
        digest.update(np.asarray(part.labels, np.int64)[shard.places].tobytes())
        parts.setdefault(shard.part, []).append([shard.file, len(shard.places)])
    return {
        "format": FORMAT,
        "complete": False,
        "name": source.name,
        "test_is_val": source.test_is_val,
        "seed": seed,
        "images_per_shard": images_per_shard,
        "fingerprint": digest.hexdigest(),
        "parts": parts,
        "class_names": source.class_names,
        "class_ids": source.class_ids,
    }


def _begin(out: Path, index: dict[str, Any]) -> None:
    """Write the plan down, or see that it is the one that was begun."""
    if is_ours(out):
        old = json.loads((out / INDEX).read_text(encoding="utf-8"))
        plain = json.loads(json.dumps(index))
        changed = [name for name in plain if name != "complete" and old.get(name) != plain[name]]
        if changed:
            raise ValueError(f"{out} holds shards of other data or settings: {', '.join(changed)} differ")
    elif out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise ValueError(f"{out} holds other files: expected an empty folder, or one where shards were begun")
    else:
        _write_index(out, index)


def _write_index(out: Path, index: dict[str, Any]) -> None:
    with replacing(out / INDEX) as beside:
        beside.write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class _Writer:
    """Writes single shards; one a process."""

    def __init__(self, parts: dict[Any, Any], out: Path) -> None:
        self.parts = parts
        self.out = out

    def __call__(self, shard: Shard) -> str:
        from webdataset import TarWriter

        part = self.parts[shard.part]
        with (
            replacing(self.out / shard.file) as beside,
            beside.open("wb") as file,
            # Nothing of the time or the user gets into the file: the same images make the same bytes.
            TarWriter(file, encoder=False, mtime=0, user="", group="") as tar,
        ):
            for place in shard.places.tolist():
                data, suffix = _file_of(part.items[place])
                tar.write({"__key__": f"{place:09d}", suffix: data, "cls": str(int(part.labels[place])).encode()})
        return shard.file


_writer: _Writer | None = None


def _start(parts: dict[Any, Any], out: Path) -> None:
    global _writer
    _writer = _Writer(parts, out)


def _write(shard: Shard) -> str:
    assert _writer is not None
    return _writer(shard)


@contextmanager
def _writers(parts: dict[Any, Any], out: Path, jobs: int) -> Iterator[Callable[[list[Shard]], Iterator[str]]]:
    if jobs == 1:
        writer = _Writer(parts, out)
        yield lambda shards: map(writer, shards)
        return
    # Not forked: torch and the libraries for data sets have threads by now.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(parts, out)) as pool:
        yield lambda shards: pool.map(_write, shards)


def _file_of(item: Item) -> tuple[bytes, str]:
    """The bytes of an image file, and the suffix that tells what they are.

    Raises:
        ValueError: they cannot be read.
    """
    assert not isinstance(item, Image.Image)
    try:
        data = item.read() if isinstance(item, Encoded) else item.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read image {item}: {error.strerror or error}") from error
    # By what they begin with: one of ImageNet's .JPEG files is a PNG.
    known = next((suffix for magic, suffix in MAGIC.items() if data.startswith(magic)), None)
    if known is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        known = "webp"
    suffix = str(item).rsplit(".", 1)[-1].lower()
    return data, known or (suffix if f".{suffix}" in IMAGE_SUFFIXES else "jpg")
