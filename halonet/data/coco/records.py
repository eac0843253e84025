"""Images and annotations of one file, packed: as Python objects COCO's would be copied into every loading process."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Entry = dict[str, Any]


@dataclass(frozen=True)
class Records:
    """Images with their annotations, each in COCO's own form, in the order of `ids`.

    ids: (n,) int64, of the images. objects: (n,) int64, annotations of each that are no crowd regions. places: (n,)
    int64, where each lies in what `data`, (bytes,) uint8, and `ends` hold of all of them.
    """

    ids: np.ndarray
    objects: np.ndarray
    places: np.ndarray
    data: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Entry, list[Entry]]:
        """The image at `index` and its annotations, anew at every call."""
        place = self.places[index]
        return pickle.loads(self.data[self.ends[place] : self.ends[place + 1]].data)

    def chosen(self, indices: Sequence[int] | np.ndarray) -> Records:
        """Those at `indices`, of the same memory."""
        kept = np.asarray(indices, np.int64)
        return Records(self.ids[kept], self.objects[kept], self.places[kept], self.data, self.ends)


def pack(images: Iterable[tuple[Entry, list[Entry]]]) -> Records:
    """Records of images and their annotations, in the order given."""
    ids, objects, sizes = [], [], [0]
    data = bytearray()
    for image, own in images:
        ids.append(image["id"])
        objects.append(sum(not annotation["iscrowd"] for annotation in own))
        data += pickle.dumps((image, own), protocol=pickle.HIGHEST_PROTOCOL)
        sizes.append(len(data))
    return Records(
        ids=np.array(ids, np.int64),
        objects=np.array(objects, np.int64),
        places=np.arange(len(ids)),
        data=np.frombuffer(data, np.uint8),
        ends=np.array(sizes, np.int64),
    )
