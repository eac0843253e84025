"""Images inside tar files, read in place: members of a tar are not compressed, so an offset and a size are a picture.

The headers are read once; what they say is kept beside the tar file (or, where that cannot be written to, in the user's
cache folder) and holds as long as size and time of the tar do.
"""

import hashlib
import os
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halonet.data.images import IMAGE_SUFFIXES
from halonet.data.items import Items
from halonet.data.source import Encoded
from halonet.files import replacing

OPEN_FILES = 64  # a process holds at most: ImageNet-21k is 21841 of them
VERSION = 1

Row = tuple[int, int, str]  # offset and size of an image in bytes, and a word about it: its class or its name
Scan = Callable[[Path], Iterator[Row]]


@dataclass(frozen=True)
class Index:
    """Of images in tar files: number of the file, offset and size in bytes, and `words[word]`, one each."""

    files: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    word: np.ndarray
    words: tuple[str, ...]


def index_of(paths: Sequence[Path], scan: Scan, *, kind: str, beside: Path) -> Index:
    """What `scan` says of each file, from `beside` if that is still true of all of them, else anew.

    kind: what the words are; an index of another kind is made again. beside: where the index is kept, a .npz file.

    Raises:
        ValueError: a file is missing, cut short or no tar file.
    """
    stamps = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise ValueError(f"data.root: cannot read {path}: {error.strerror}") from error
        stamps.append(f"{path.name}\t{status.st_size}\t{status.st_mtime_ns}")
    key = "\n".join([f"{kind} {VERSION}", *stamps])
    for place in (beside, _in_cache(beside)):
        known = _load(place, key)
        if known is not None:
            return known
    index = _scan_all(paths, scan)
    arrays = {"files": index.files, "offsets": index.offsets, "sizes": index.sizes, "word": index.word}
    for place in (beside, _in_cache(beside)):
        try:
            with replacing(place) as new:
                np.savez(new, key=np.array(key), words=np.array(index.words), **arrays)  # type: ignore[arg-type]
            break
        except OSError:
            continue  # a read-only disk: the next place, or read again next time
    return index


def _in_cache(beside: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "halonet" / f"{hashlib.sha256(str(beside.absolute()).encode()).hexdigest()[:32]}.npz"


def _load(path: Path, key: str) -> Index | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                return None
            words = tuple(kept["words"].tolist())
            return Index(kept["files"], kept["offsets"], kept["sizes"], kept["word"], words)
    except (OSError, ValueError, KeyError, EOFError):
        return None  # none there, or a damaged one


def _scan_all(paths: Sequence[Path], scan: Scan) -> Index:
    words: dict[str, int] = {}
    files, offsets, sizes, word = [], [], [], []
    for number, path in enumerate(paths):
        for offset, size, name in scan(path):
            files.append(number)
            offsets.append(offset)
            sizes.append(size)
            word.append(words.setdefault(name, len(words)))
    columns = np.array(files, np.int32), np.array(offsets, np.int64), np.array(sizes, np.int64)
    return Index(*columns, np.array(word, np.int32), tuple(words))


def members(path: Path, *, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, str]]:
    """(offset, size, name) of the files in a tar, headers only; of one that is itself a member, between two offsets.

    Raises:
        ValueError: it is no tar file, or one that is cut short.
    """
    length = path.stat().st_size
    try:
        with path.open("rb") as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None and (end is None or member.offset < end):
                    tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                    if member.offset_data + member.size > length:
                        raise tarfile.ReadError("unexpected end of data")
                    if member.isreg():
                        yield member.offset_data, member.size, member.name
    except tarfile.TarError as error:
        raise ValueError(f"data.root: cannot read {path} as a tar file: {error}") from error


def images_by_name(path: Path) -> Iterator[Row]:
    """Images of a flat tar, each with its name."""
    for offset, size, name in members(path):
        base = name.rsplit("/", 1)[-1]
        if base.lower().endswith(IMAGE_SUFFIXES) and not base.startswith("."):
            yield offset, size, base


def images_of_class(path: Path) -> Iterator[Row]:
    """Images of a tar that holds one class, each with the class: the tar's name."""
    for offset, size, _ in images_by_name(path):
        yield offset, size, path.stem


def images_of_nested(path: Path) -> Iterator[Row]:
    """Images of the tars within a tar, each with the inner tar's name."""
    for start, length, name in members(path):
        if not name.endswith(".tar"):
            continue
        inner = name.rsplit("/", 1)[-1].removesuffix(".tar")
        for offset, size, image in members(path, start=start, end=start + length):
            if image.lower().endswith(IMAGE_SUFFIXES):
                yield offset, size, inner


class OpenFiles:
    """Reads pieces of files; each process opens them for itself, when it first needs them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._handles: OrderedDict[int, int] = OrderedDict()
        self._process = 0

    def read(self, number: int, offset: int, size: int) -> bytes:
        """`size` bytes of file `number` from `offset` on, fewer at its end. Raises OSError."""
        if self._process != os.getpid():
            # A copy of another process: those handles are its own to close.
            self._handles, self._process = OrderedDict(), os.getpid()
        if number not in self._handles:
            if len(self._handles) >= OPEN_FILES:
                os.close(self._handles.popitem(last=False)[1])
            self._handles[number] = os.open(self.paths[number], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._handles.move_to_end(number)
        return os.pread(self._handles[number], size, offset)

    def __getstate__(self) -> dict[str, object]:
        return {"paths": self.paths, "_handles": OrderedDict(), "_process": 0}

    def __del__(self) -> None:
        if getattr(self, "_process", 0) == os.getpid():
            for handle in self._handles.values():
                os.close(handle)


@dataclass(frozen=True)
class TarImage(Encoded):
    """One image of a tar file."""

    archives: OpenFiles
    number: int
    offset: int
    size: int

    def read(self) -> bytes:
        data = self.archives.read(self.number, self.offset, self.size)
        if len(data) < self.size:
            raise OSError("the archive is cut short")
        return data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TarImage) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Path, int, int]:
        return self.archives.paths[self.number], self.offset, self.size

    def __str__(self) -> str:
        return f"{self.archives.paths[self.number]}: {self.member}"

    @property
    def member(self) -> str:
        """Its name in the archive, from the header before it."""
        try:
            header = self.archives.read(self.number, self.offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)
            return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
        except (OSError, tarfile.TarError):
            return f"at byte {self.offset}"


class TarImages(Items):
    """Images in tar files, by number of the file, offset and size."""

    def __init__(self, paths: Sequence[Path], files: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> None:
        self._archives = OpenFiles(paths)
        self._files, self._offsets, self._sizes = files, offsets, sizes

    def __len__(self) -> int:
        return len(self._files)

    def _item(self, index: int) -> TarImage:
        number, offset, size = int(self._files[index]), int(self._offsets[index]), int(self._sizes[index])
        return TarImage(self._archives, number, offset, size)
