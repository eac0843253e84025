"""Clipped neighbourhoods in cache-sized tiles: which blocks a CPU takes together, and which pixels they see.

On small maps, and where border keys do not take part, a neighbourhood is clipped to the map and its border keys are
never gathered; on larger maps with border "zeros" the map is padded. Blocks that are clipped to one length, at even
distances, form a run, and the blocks of a pair of runs are cut into tiles. Index arithmetic only; `tile_loop` moves
the data. Why: NOTES.md. Shape letters as in `geometry`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from halonet.ops.local_attention.geometry import Axis, Geometry

# Bytes of the logits of a tile: fewer, and the steps between products cost more than they; more, and caches overflow.
TILE_BYTES = 1 << 22


@dataclass(frozen=True)
class Run:
    """Consecutive blocks of an axis whose parts of the map have one length and stand at even distances.

    first, count: the blocks. start, length: pixels of the first one's part. step: from a part's start to the next
    one's. offset: where in the first block's neighbourhood its part begins. drift: how that changes a block.
    """

    first: int
    count: int
    start: int
    step: int
    offset: int
    length: int
    drift: int = 0

    def offsets(self, blocks: slice) -> tuple[int, ...]:
        """Where the parts of these blocks begin in their neighbourhoods; one number if all are alike."""
        if not self.drift:
            return (self.offset,)
        return tuple(self.offset + (block - self.first) * self.drift for block in range(blocks.start, blocks.stop))


def clips(axis: Axis) -> bool:
    """Whether neighbourhoods are clipped along an axis, rather than the map padded with zeros.

    Keys that do not take part must be clipped. Border zeros may be either: with one or two blocks, all at the border,
    clipping saves more products than it costs.
    """
    return axis.border != "zeros" or axis.num_blocks <= 2


def axis_padding(axis: Axis) -> tuple[int, int]:
    """Pixels of zeros before and after the map along an axis."""
    return (0, 0) if clips(axis) else (axis.halo, axis.halo + axis.extended - axis.size)


@lru_cache(maxsize=256)
def axis_runs(axis: Axis) -> tuple[Run, ...]:
    """The runs of an axis: one for all or the inner blocks, further ones where the border clips."""
    if not clips(axis):
        return (Run(0, axis.num_blocks, 0, axis.block, 0, axis.neighborhood),)
    runs: list[Run] = []
    for block in range(axis.num_blocks):
        begin = block * axis.block - axis.halo
        start, end = max(0, begin), min(axis.size, begin + axis.neighborhood)
        part = Run(block, 1, start, axis.block, start - begin, end - start)
        joined = _joined(runs[-1], part, axis) if runs else None
        if joined is None:
            runs.append(part)
        else:
            runs[-1] = joined
    return tuple(runs)


def _joined(run: Run, block: Run, axis: Axis) -> Run | None:
    """The run with one more block, if that has the run's length and distance."""
    step = block.start - run.start if run.count == 1 else run.step
    if run.length != block.length or block.start != run.start + run.count * step:
        return None
    return Run(run.first, run.count + 1, run.start, step, run.offset, run.length, step - axis.block)


@dataclass(frozen=True)
class Tile:
    """Some blocks of one pair of runs, of some images."""

    images: slice
    rows: slice  # blocks
    columns: slice

    @property
    def counts(self) -> tuple[int, int, int]:
        """Images, rows and columns of blocks."""
        images, rows, columns = (part.stop - part.start for part in (self.images, self.rows, self.columns))
        return images, rows, columns


class Tiling:
    """How one pair of runs is cut.

    counts: images, rows and columns of blocks of a tile. step: rows of a block's queries taken together.
    """

    def __init__(
        self, geometry: Geometry, runs: tuple[Run, Run], *, images: int, row_bytes: int, weight_bytes: int
    ) -> None:
        """Takes the bytes of the logits of one row of a block's queries, and of its position weights."""
        self.runs, self.images = runs, images
        self.query_rows = geometry.rows.queries_per_block
        self.step = max(1, min(self.query_rows, TILE_BYTES // row_bytes, TILE_BYTES // max(1, weight_bytes)))
        blocks = max(1, TILE_BYTES // (row_bytes * self.query_rows))
        across = _even_share(runs[1].count, blocks)
        down = _even_share(runs[0].count, blocks // across)
        self.counts = (_even_share(images, blocks // (across * down)), down, across)

    @property
    def blocks(self) -> int:
        """Blocks of the largest tile."""
        return math.prod(self.counts)

    def tiles(self) -> Iterator[Tile]:
        """The tiles, one after another; those of the same blocks together."""
        rows, columns = self.runs
        shares = (
            _shares(rows.first, rows.count, self.counts[1]),
            _shares(columns.first, columns.count, self.counts[2]),
            _shares(0, self.images, self.counts[0]),
        )
        return (Tile(images, down, across) for down, across, images in product(*shares))

    def steps(self) -> list[slice]:
        """Rows of a block's queries that are taken together."""
        return _shares(0, self.query_rows, self.step)


def _even_share(count: int, most: int) -> int:
    """The size of equal shares of at most `most`."""
    shares = -(-count // max(1, most))
    return -(-count // shares)


def _shares(first: int, count: int, size: int) -> list[slice]:
    """first .. first + count in shares of `size`."""
    return [slice(start, min(start + size, first + count)) for start in range(first, first + count, size)]
