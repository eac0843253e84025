"""Long lists of images in little memory: 14 million paths as Python objects would be copied into every loading process
page by page."""

import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from halonet.data.source import Item


class Items(Sequence[Item]):
    """A sequence that makes its items when asked for one; equal to any sequence of equal items."""

    @abstractmethod
    def _item(self, index: int) -> Item:
        """Item `index`, which is from 0 to the length less 1."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> "Items": ...
    def __getitem__(self, index: int | slice) -> "Item | Items":
        if isinstance(index, slice):
            return Chosen(self, np.arange(len(self))[index])
        place = range(len(self))[index]  # negative and out of range as a list has it
        return self._item(place)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class Files(Items):
    """Paths, kept as the folders they lie in and their names end to end."""

    def __init__(self, paths: Iterable[Path]) -> None:
        folders: dict[str, int] = {}
        places: list[int] = []
        names: list[bytes] = []
        for path in paths:
            places.append(folders.setdefault(str(path.parent), len(folders)))
            names.append(os.fsencode(path.name))
        self._folders = list(folders)
        self._places = np.array(places, np.int32)
        self._names = np.frombuffer(b"".join(names), np.uint8)
        self._ends = np.cumsum([0, *map(len, names)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def _item(self, index: int) -> Path:
        name = self._names[self._ends[index] : self._ends[index + 1]].tobytes()
        return Path(self._folders[self._places[index]], os.fsdecode(name))


class Chosen(Items):
    """Items at `places` of others."""

    def __init__(self, items: Sequence[Item], places: Sequence[int] | np.ndarray) -> None:
        self._items = items
        self._places = np.asarray(places, np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def _item(self, index: int) -> Item:
        return self._items[int(self._places[index])]


def joined(parts: Sequence[Any]) -> np.ndarray:
    """Labels of several classes end to end, (n,) int64."""
    return np.concatenate([np.asarray(part, np.int64) for part in parts]) if parts else np.zeros(0, np.int64)
