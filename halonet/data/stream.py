"""Images from shards, one after the other: who reads which, in what order, and how to go on in the middle of an epoch.

An epoch of a training part is one order of all its images: shards in an order drawn from (seed, epoch), one behind the
other. Of it each process takes a stretch of equal length, of that each of its workers a stretch, and hands out its
images through a buffer of its own, drawn from (seed, epoch) and where the stretch begins. So order and augmentation
depend on the seed, the epoch and the number of processes and workers, on nothing that happened before.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count as count_from
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from halonet.data.images import UnreadableImageError, decode_image
from halonet.data.source import Sample, StreamItems
from halonet.data.transforms import ImageTransform, seeded
from halonet.data.unreadable import UnreadableLog

MOST_WORKERS = 1024
Entry = tuple[int, Sample]  # number of an image, which its augmentation is drawn from, and the image


class StreamDataset(IterableDataset[Any]):
    """Whole batches, [(B, C, S, S) float32, (B,) int64], for a loader with `batch_size=None`.

    shuffle: a training part: every process gives as many batches as the others, all of `batch_size`, and what is left
        over at the end of the epoch's order is left out. Otherwise every image is given once, in the order of the
        shards, in as many batches on each process.
    buffer: images that are mixed in a process; shared out between its workers.
    batches: of an epoch on this process, where the shards do not say how many images they hold; they are then dealt
        out whole, and begun again when a worker has come to the end of its own.
    """

    def __init__(
        self,
        part: StreamItems,
        *,
        in_chans: int,
        transform: ImageTransform,
        seed: int,
        batch_size: int,
        shuffle: bool,
        buffer: int = 1,
        rank: int = 0,
        world: int = 1,
        batches: int | None = None,
        unreadable: UnreadableLog | None = None,
    ) -> None:
        super().__init__()
        self.part = part
        self.in_chans = in_chans
        self.transform = transform
        self.seed = seed
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.buffer = buffer
        self.rank = rank
        self.world = world
        self.unreadable = unreadable
        self.total = part.count
        if self.total is not None:
            self.start, self.sizes = share_of(self.total, rank=rank, world=world, batch_size=batch_size, even=shuffle)
        else:
            if batches is None:
                raise ValueError(
                    "trainer.limit_train_batches: expected a whole number of batches an epoch, since the shards do not "
                    "say how many images they hold (an index.json beside them would)"
                )
            if len(part.shards) < world:
                raise ValueError(f"data.root: expected a shard a process, got {len(part.shards)} for {world} processes")
            self.start, self.sizes = 0, [batch_size] * batches
        # Loading processes have copies of everything but this: epoch; batches to skip; how often a skip was asked for.
        self._asked = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._heeded = torch.zeros(MOST_WORKERS, dtype=torch.int64).share_memory_()

    @property
    def most_workers(self) -> int:
        """Loading processes that have something to read."""
        return MOST_WORKERS if self.total is not None else len(self.part.shards) // self.world

    def __len__(self) -> int:
        """Batches of an epoch on this process."""
        return len(self.sizes)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration is of."""
        self._asked[0] = epoch

    def skip(self, batches: int) -> None:
        """Let the next iteration, and only that, begin after so many batches of this process; none of their images
        is decoded. Needs as many workers as before."""
        self._asked[1] = batches
        self._asked[2] += 1

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        epoch, skip, asked = self._asked.tolist()
        if self._heeded[worker] == asked:
            skip = 0
        self._heeded[worker] = asked
        # The loader asks worker 0 first: it then stands for the worker whose turn it would have been.
        worker = (skip + worker) % workers
        mine = range(worker, len(self.sizes), workers)
        done = len(range(worker, min(skip, len(self.sizes)), workers))
        sizes = [self.sizes[number] for number in mine]
        entries = self._entries(epoch, worker, workers, first=sum(sizes[:done]), total=sum(sizes))
        return self._batches(entries, epoch, sizes[done:])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Image `index` of a part to judge by, in the order in which a single worker gives it."""
        assert self.part.shards.counts is not None
        ends = np.cumsum(self.part.shards.counts)
        shard = int(np.searchsorted(ends, index, side="right"))
        first = int(ends[shard - 1]) if shard else 0
        (_, sample), *_ = self.part.shards.read(shard, [index - first])
        return self._load((index, sample), 0)

    def _batches(self, entries: Iterator[Entry], epoch: int, sizes: Sequence[int]) -> Iterator[list[torch.Tensor]]:
        images = self._images(entries, epoch)
        for size in sizes:
            yield default_collate(list(islice(images, size)))

    def _images(self, entries: Iterator[Entry], epoch: int) -> Iterator[tuple[torch.Tensor, int]]:
        """Decoded; in place of an image that cannot be, the next one that can."""
        ahead: deque[Entry] = deque()
        last: Entry | None = None
        while True:
            entry = ahead.popleft() if ahead else next(entries, None)
            if entry is None:
                return
            image = self._load_or_note(entry, epoch)
            number, tried = entry[0], 0
            while image is None:
                if tried == len(ahead):
                    further = next(entries, None)
                    if further is None:
                        break
                    ahead.append(further)
                image = self._load_or_note((number, ahead[tried][1]), epoch)
                tried += 1
            if image is None and last is not None:
                image = self._load_or_note((number, last[1]), epoch)
            if image is None:
                raise UnreadableImageError(f"no image after {entry[1].name} can be read")
            last = entry if not tried else last
            yield image

    def _load_or_note(self, entry: Entry, epoch: int) -> tuple[torch.Tensor, int] | None:
        try:
            return self._load(entry, epoch)
        except UnreadableImageError as error:
            if self.unreadable is None:
                raise
            self.unreadable.note(error)
            return None

    def _load(self, entry: Entry, epoch: int) -> tuple[torch.Tensor, int]:
        number, sample = entry
        image = decode_image(sample.data, name=sample.name, in_chans=self.in_chans)
        with seeded(self.seed * 1_000_003 + epoch * (self.total or 1) + number):
            return self.transform(image), self.part.label_of(sample)

    def _entries(self, epoch: int, worker: int, workers: int, *, first: int, total: int) -> Iterator[Entry]:
        """Images `first` to `total` of those a worker gives in an epoch."""
        buffer = max(1, self.buffer // workers) if self.shuffle else 1
        if self.total is None:
            rng = np.random.default_rng([self.seed, epoch, self.rank * workers + worker])
            return islice(_held(_mixed(None, buffer, rng), self._endless(epoch, worker, workers)), first, total)
        start = self.start + sum(sum(self.sizes[before::workers]) for before in range(worker))
        order = np.arange(total)
        if self.shuffle:
            order = np.fromiter(
                _mixed(total, buffer, np.random.default_rng([self.seed, epoch, start])), np.int64, total
            )
        order = order[first:]
        wanted = np.zeros(total, bool)
        wanted[order] = True
        return _held(iter(order.tolist()), self._stretch(epoch, start, wanted))

    def _stretch(self, epoch: int, start: int, wanted: np.ndarray) -> Iterator[tuple[int, Entry]]:
        """(place, image) of the `wanted` places of the stretch of the epoch's order that begins at `start`."""
        counts = np.asarray(self.part.shards.counts)
        shards = np.arange(len(counts))
        if self.shuffle:
            shards = np.random.default_rng([self.seed, epoch]).permutation(shards)
        before = np.cumsum([0, *counts])  # numbers of images, in the order of the shards' names
        ends = np.cumsum(counts[shards])
        for shard, end in zip(shards.tolist(), ends.tolist(), strict=True):
            begin = end - int(counts[shard])
            low, high = max(begin, start), min(end, start + len(wanted))
            places = np.flatnonzero(wanted[low - start : high - start]) + low - begin if low < high else ()
            if not len(places):
                continue
            for place, sample in self.part.shards.read(shard, list(map(int, places))):
                yield begin + place - start, (int(before[shard]) + place, sample)

    def _endless(self, epoch: int, worker: int, workers: int) -> Iterator[tuple[int, Entry]]:
        """(place, image) of a worker's own shards, over and over, each time in another order."""
        mine, readers = self.rank * workers + worker, self.world * workers
        shards = np.random.default_rng([self.seed, epoch]).permutation(len(self.part.shards))[mine::readers]
        places = count_from()
        for again in count_from():
            if again:
                shards = np.random.default_rng([self.seed, epoch, mine, again]).permutation(shards)
            for shard in shards.tolist():
                for place, sample in self.part.shards.read(shard, None):
                    yield next(places), (((epoch * 1009 + again) * 100_003 + shard) * 1_000_003 + place, sample)


def share_of(total: int, *, rank: int, world: int, batch_size: int, even: bool) -> tuple[int, list[int]]:
    """Where a process's stretch of `total` images begins, and the sizes of its batches, as many on each process.

    even: all of `batch_size`, or one smaller one of a set that is too small for that, the rest left out; otherwise all
    images, in batches that differ by one where the processes' shares do. A set of fewer images than processes is given
    whole to each of them then, since a process without a batch would leave the others waiting.
    """
    if even:
        size = min(batch_size, max(1, total // world))
        batches = max(1, total // (world * size))
        start = rank * batches * size
        if start + batches * size > total:
            return 0, [total]  # fewer images than processes
        return start, [size] * batches
    if total < world:
        return 0, [total]
    start, end = rank * total // world, (rank + 1) * total // world
    return start, batch_sizes(end - start, most=-(-total // world), batch_size=batch_size)


def batch_sizes(share: int, *, most: int, batch_size: int) -> list[int]:
    """Sizes of the batches of a process with `share` images, as many as one with `most` has.

    All but the last are of `batch_size`, unless the share is too small for so many of them.
    """
    batches = -(-most // batch_size)
    sizes = [batch_size] * (batches - 1)
    rest = share - sum(sizes)
    if rest > 0:
        return [*sizes, rest]
    sizes[-1] -= 1 - rest
    return [*sizes, 1]


def _mixed(total: int | None, buffer: int, rng: np.random.Generator) -> Iterator[int]:
    """Places 0 to `total` (None: endlessly), each drawn at random from the `buffer` lowest that were not yet drawn
    when it came in."""
    held: list[int] = []
    draws: Iterator[float] = iter(())
    for place in range(total) if total is not None else count_from():
        held.append(place)
        if len(held) < buffer:
            continue
        draw = next(draws, None)
        if draw is None:
            draws = iter(rng.random(4096).tolist())
            draw = next(draws)
        number = int(draw * len(held))
        held[number], held[-1] = held[-1], held[number]
        yield held.pop()
    yield from rng.permutation(held).tolist()


def _held(order: Iterator[int], entries: Iterator[tuple[int, Entry]]) -> Iterator[Entry]:
    """Entries that come by rising place, in another order; those that came too early are held."""
    held: dict[int, Entry] = {}
    for place in order:
        while place not in held:
            number, entry = next(entries, (None, None))
            if number is None or entry is None:
                raise ValueError("data.root: shards hold fewer images than their index.json says")
            held[number] = entry
        yield held.pop(place)
