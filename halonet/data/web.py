"""Shards of the library webdataset: tar files in which `KEY.jpg` and `KEY.cls` follow each other."""

import json
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from halonet.data.archives import Row, TarImages, index_of, members
from halonet.data.class_map import read_class_map
from halonet.data.config import DataConfig
from halonet.data.images import IMAGE_SUFFIXES
from halonet.data.source import ImageSource, Part, Sample, Split, SplitItems, StreamItems

INDEX = "index.json"
FORMAT = "halonet shards"
PART = re.compile(r"(?:^|[^a-z])(train|training|val|valid|validation|test)(?![a-z])")
SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    "test": "test",
}


@dataclass(frozen=True)
class WebShards:
    """Shards by path or address; `pipe:COMMAND` reads what a command prints."""

    urls: tuple[str, ...]
    counts: Sequence[int] | None

    def __len__(self) -> int:
        return len(self.urls)

    def read(self, shard: int, wanted: Sequence[int] | None) -> Iterator[tuple[int, Sample]]:
        """See `Shards`."""
        url = self.urls[shard]
        left = None if wanted is None else iter(wanted)
        following = None if left is None else next(left, -1)
        # A file here is read past what is not wanted, and without the library's copies of what is.
        with closing(_in_file(Path(url)) if _local(url) else _in_stream(url)) as samples:
            for place, load in enumerate(samples):
                if following is not None and place != following:
                    continue
                yield place, load()
                if left is not None:
                    following = next(left, None)
                    if following is None:
                        return
        if following is not None:
            raise ValueError(f"data.root: {url} holds fewer images than {INDEX} says")


def _in_file(path: Path) -> Generator[Callable[[], Sample], None, None]:
    """What gives each sample of a shard on this machine."""

    def load(name: str, offset: int, size: int, label: int) -> Sample:
        file.seek(offset)
        return Sample(f"{path}: {name}", file.read(size), label)

    try:
        with path.open("rb") as file:
            for found in samples_in(path):
                yield partial(load, *found)
    except OSError as error:
        raise ValueError(f"data.root: cannot read the shard {path}: {error.strerror}") from error


def _in_stream(url: str) -> Generator[Callable[[], Sample], None, None]:
    """What gives each sample of a shard that comes from elsewhere."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with _opened(url) as stream:
        for files in group_by_keys(tar_file_expander([{"url": url, "stream": stream}])):
            yield partial(_sample, files, url)


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    """The bytes of a shard; whatever the library or the network makes of it fails in one line."""
    import tarfile

    from webdataset.gopen import gopen

    stream = None
    try:
        stream = gopen(url)
        yield stream
    except (tarfile.TarError, OSError) as error:
        raise ValueError(
            f"data.root: cannot read the shard {url}: {error.args[0] if error.args else error!s}"
        ) from None
    finally:
        if stream is not None:
            if hasattr(stream, "ignore_errors"):
                stream.ignore_errors = True  # a command whose output is not read to its end complains
            stream.close()


def _sample(files: dict[str, Any], url: str) -> Sample:
    """A sample as the library groups it."""
    key = files["__key__"]
    image = next((suffix for suffix in files if f".{suffix}" in IMAGE_SUFFIXES), None)
    if image is None:
        raise ValueError(f"data.root: {url}: {key} has no image")
    return Sample(f"{url}: {key}.{image}", files[image], _label(files, f"{url}: {key}"))


def _label(files: dict[str, Any], where: str) -> int:
    try:
        if "cls" in files:
            return int(files["cls"].decode())
        if "json" in files:
            return int(json.loads(files["json"])["label"])
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"data.root: {where} has no class: expected .cls with a number, or .json with label")


def labelled_images(path: Path) -> Iterator[Row]:
    """Images of a shard on this machine, each with its label as text."""
    for _, offset, size, label in samples_in(path):
        yield offset, size, str(label)


def samples_in(path: Path) -> Iterator[tuple[str, int, int, int]]:
    """(name, offset, size, label) of the images of a shard on this machine: its headers and labels are read, no image.

    Raises:
        ValueError: it is no tar file, or a sample lacks its image or class.
    """
    key = ""
    image: tuple[str, int, int] | None = None
    files: dict[str, bytes] = {}
    with path.open("rb") as file:
        for offset, size, name in members(path):
            folder, slash, base = name.rpartition("/")
            start, _, suffix = base.partition(".")
            if folder + slash + start != key:
                yield from _whole(path, key, image, files)
                key, image, files = folder + slash + start, None, {}
            if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                image = name, offset, size
            elif suffix.lower() in ("cls", "json"):
                file.seek(offset)
                files[suffix.lower()] = file.read(size)
        yield from _whole(path, key, image, files)


def _whole(
    path: Path, key: str, image: tuple[str, int, int] | None, files: dict[str, bytes]
) -> Iterator[tuple[str, int, int, int]]:
    if image is not None:
        yield *image, _label(files, f"{path}: {key}")
    elif files:
        raise ValueError(f"data.root: {path}: {key} has no image")


def looks_like_shards(root: str) -> bool:
    """Whether `root` names shards: an address, a pattern, a tar file, or a folder of them."""
    path = Path(root).expanduser()
    if path.is_dir():
        return is_ours(path) or any(path.glob("*.tar"))
    return "://" in root or root.startswith("pipe:") or root.endswith(".tar")


def is_ours(folder: Path) -> bool:
    """Whether `halonet data shard` wrote the folder."""
    path = folder / INDEX
    return path.is_file() and FORMAT in path.read_text(encoding="utf-8", errors="replace")[:200]


def open_webdataset(config: DataConfig) -> ImageSource:
    """Shards: train is a stream, and so is what lies elsewhere; the rest, on this machine, is read image by image.

    Raises:
        ValueError: no shards, a damaged one, or a set without a number of classes.
    """
    root = config.root or ""
    index = _read_index(root)
    if index is not None:
        return _ours(root, index, config)
    urls = _expanded(root)
    parts = _by_name(urls, config)
    splits: dict[Split, Part] = {}
    highest = -1
    for name, chosen in parts.items():
        splits[name], most = _foreign(name, chosen)
        highest = max(highest, most)
    classes = highest + 1
    if config.class_map is not None:
        classes = max(classes, len(read_class_map(config.class_map)))
    if classes < 2:
        raise ValueError("data.class_map: expected a list of the classes, since the shards do not say how many")
    test_is_val = "test" not in splits and "val" in splits
    if test_is_val:
        splits["test"] = splits["val"]
    names = tuple(map(str, range(classes)))
    return _source(_name(root), config, names, None, splits, test_is_val=test_is_val)


def _source(
    name: str,
    config: DataConfig,
    class_names: tuple[str, ...],
    class_ids: tuple[str, ...] | None,
    splits: dict[Split, Part],
    *,
    test_is_val: bool,
) -> ImageSource:
    return ImageSource(
        name=name,
        class_names=class_names,
        class_ids=class_ids,
        in_chans=config.in_chans or 3,
        splits=splits,
        augment="photo",
        test_is_val=test_is_val,
        form="webdataset",
    )


def _ours(root: str, index: dict[str, Any], config: DataConfig) -> ImageSource:
    if not index.get("complete"):
        raise ValueError(f"data.root: the shards in {root} are not finished: run halonet data shard again")
    base = root.removesuffix(INDEX).rstrip("/")
    splits: dict[Split, Part] = {}
    for part, rows in index["parts"].items():
        urls = [f"{base}/{file}" for file, _ in rows]
        counts = [count for _, count in rows]
        if part == "train" or not _local(urls[0]):
            splits[SPLITS[part]] = StreamItems(WebShards(tuple(urls), counts))
        else:
            splits[SPLITS[part]] = _in_place(urls)[0]
    if index["test_is_val"]:
        splits["test"] = splits["val"]
    ids = index.get("class_ids")
    names = tuple(index["class_names"])
    return _source(index["name"], config, names, ids and tuple(ids), splits, test_is_val=index["test_is_val"])


def _read_index(root: str) -> dict[str, Any] | None:
    """What `halonet data shard` wrote down about the folder or address; None for shards of others."""
    path = Path(root).expanduser()
    if path.is_dir():
        if not is_ours(path):
            return None
        text = (path / INDEX).read_text(encoding="utf-8")
    elif _local(root) or ".tar" in root:
        return None
    else:
        with _opened(root if root.endswith(INDEX) else f"{root.rstrip('/')}/{INDEX}") as stream:
            text = stream.read().decode("utf-8", "replace")
    try:
        index = json.loads(text)
        if index["format"] != FORMAT:
            raise KeyError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"data.root: {INDEX} at {root} is none that halonet data shard wrote") from None
    return index


def _expanded(root: str) -> list[str]:
    path = Path(root).expanduser()
    if path.is_dir():
        urls = sorted(str(file) for file in path.glob("*.tar") if not file.name.startswith("."))
    else:
        from webdataset.shardlists import expand_urls

        urls = [_plain(url) for url in expand_urls(root)]
    missing = [url for url in urls if _local(url) and not Path(url).is_file()]
    if missing or not urls:
        raise ValueError(
            f"data.root: no shard {missing[0]}" if missing else f"data.root: no tar files in {root}: expected shards"
        )
    return urls


def _plain(url: str) -> str:
    """An address of a file on this machine as its path."""
    if url.startswith("file:"):
        url = re.sub("^file:(//)?", "", url)
    return str(Path(url).expanduser()) if _local(url) else url


def _local(url: str) -> bool:
    return "://" not in url and not url.startswith("pipe:")


def _name(root: str) -> str:
    """Of the set: the folder's, or what comes before the numbers of the shards."""
    path = Path(root).expanduser()
    if path.is_dir():
        return path.resolve().name
    base = root.split("{")[0].rstrip("/").rsplit("/", 1)[-1].removesuffix(".tar")
    return re.sub(r"[^\w.]+$", "", base) or "shards"


def _by_name(urls: list[str], config: DataConfig) -> dict[Split, list[str]]:
    """Shards of each part, as their names say; where none is called so, whole shards are held out."""
    parts: dict[Split, list[str]] = {}
    for url in urls:
        found = PART.search(url.rsplit("/", 1)[-1].lower())
        parts.setdefault(SPLITS[found[1]] if found else "train", []).append(url)
    if "val" in parts or "train" not in parts:
        if "val" not in parts:
            parts["val"] = parts["test"]
        return parts
    wanted = {"val": config.val_fraction} | ({} if "test" in parts else {"test": config.test_fraction})
    held = held_out(len(parts["train"]), list(wanted.values()), seed=config.split_seed)
    train = parts["train"]
    taken = {number for numbers in held for number in numbers}
    for name, numbers in zip(wanted, held, strict=True):
        parts[SPLITS[name]] = [train[number] for number in numbers]
    parts["train"] = [url for number, url in enumerate(train) if number not in taken]
    return parts


def held_out(shards: int, fractions: Sequence[float], *, seed: int) -> list[list[int]]:
    """Numbers of the shards that are held out for each of `fractions`, one each at least.

    Raises:
        ValueError: none would be left.
    """
    counts = [max(1, round(shards * fraction)) for fraction in fractions]
    if sum(counts) >= shards:
        raise ValueError(
            f"data.root: {shards} shards and no validation part: expected shards called train and val, or at least "
            f"{len(counts) + 1} of which whole ones can be held out"
        )
    order = np.random.default_rng(seed).permutation(shards).tolist()
    return [sorted(order[sum(counts[:number]) :][:count]) for number, count in enumerate(counts)]


def _foreign(name: Split, urls: list[str]) -> tuple[Part, int]:
    """A part of a set without an index, and its highest label, -1 if that is not known."""
    if all(map(_local, urls)):
        part, counts = _in_place(urls)
        highest = int(np.max(part.labels, initial=-1))
        return (StreamItems(WebShards(tuple(urls), counts)) if name == "train" else part), highest
    shards = WebShards(tuple(urls), None)
    if name == "train":
        return StreamItems(shards), -1
    labels = [[sample.label for _, sample in shards.read(number, None)] for number in range(len(urls))]
    counted = WebShards(shards.urls, [len(of_shard) for of_shard in labels])
    return StreamItems(counted), max((label for of_shard in labels for label in of_shard), default=-1)


def stream_of(urls: Sequence[str]) -> StreamItems:
    """Shards on this machine as one stream, counted."""
    return StreamItems(WebShards(tuple(urls), _in_place(urls)[1]))


def _in_place(urls: Sequence[str]) -> tuple[SplitItems, list[int]]:
    """Images of shards on this machine, each found by its place in them; and how many each shard holds."""
    paths = [Path(url) for url in urls]
    index = index_of(paths, labelled_images, kind="labels", beside=paths[0].with_name(f"{paths[0].name}.index.npz"))
    labels = np.array([int(word) for word in index.words], np.int64)[index.word]
    images = TarImages(paths, index.files, index.offsets, index.sizes)
    return SplitItems(images, labels), np.bincount(index.files, minlength=len(paths)).tolist()
