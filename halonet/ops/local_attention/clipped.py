"""Local attention on a CPU: cache-sized tiles over clipped neighbourhoods, forward and backward.

Three ideas (derived in NOTES.md):

* On small maps, and where border keys do not take part, a neighbourhood is clipped to the map and border keys are
  never gathered. With border "zeros" they do take part, but only through their position: the sum over all of them
  separates into rows times columns, and one virtual key with that logit and value 0 stands for them all.
* The position term is folded into the channels: queries carry a logit per key row and column, keys a one-hot row
  and column, and one matrix product makes the whole logit.
* Blocks are taken a few at a time into reused buffers that fit the cache, and the backward pass recomputes the
  weights instead of keeping them. The memory beyond inputs, outputs and gradients is one tile.

Shape letters as in `geometry`; u counts (block, head) pairs of a tile, Q its queries, K its keys, C folded channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halonet.ops.local_attention.geometry import Axis, Geometry

# Bytes of the logits of a tile: fewer, and the steps between products cost more than they; more, and caches overflow.
TILE_BYTES = 1 << 22
HIDDEN = -1e30  # exp() of it is 0, and a few of them add up without overflow


@dataclass(frozen=True)
class Run:
    """Consecutive blocks of an axis that see the same part of their neighbourhood.

    first, count: the blocks; start: map pixel the first one's part begins at; offset, length: the part.
    """

    first: int
    count: int
    start: int
    offset: int
    length: int


def clips(axis: Axis) -> bool:
    """Whether neighbourhoods are clipped along an axis, rather than the map padded with zeros.

    Keys that do not take part must be clipped. Border zeros may be either: with one or two blocks, all at the border,
    clipping saves more products than its shorter runs cost.
    """
    return axis.border != "zeros" or axis.num_blocks <= 2


def axis_padding(axis: Axis) -> tuple[int, int]:
    """Pixels of zeros before and after the map along an axis."""
    return (0, 0) if clips(axis) else (axis.halo, axis.halo + axis.extended - axis.size)


def axis_runs(axis: Axis) -> list[Run]:
    """The runs of an axis: one for all or the inner blocks, further ones where the border clips."""
    if not clips(axis):
        return [Run(0, axis.num_blocks, 0, 0, axis.neighborhood)]
    runs: list[Run] = []
    for block in range(axis.num_blocks):
        begin = block * axis.block - axis.halo
        start, end = max(0, begin), min(axis.size, begin + axis.neighborhood)
        if runs and (runs[-1].offset, runs[-1].length) == (start - begin, end - start):
            last = runs[-1]
            runs[-1] = Run(last.first, last.count + 1, last.start, last.offset, last.length)
        else:
            runs.append(Run(block, 1, start, start - begin, end - start))
    return runs


@dataclass(frozen=True)
class Tile:
    """Some blocks of one pair of runs, of some images."""

    images: slice
    rows: slice  # blocks
    columns: slice
    key_rows: tuple[int, int]  # first map pixel and number of pixels the blocks reach together
    key_columns: tuple[int, int]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Images, rows and columns of blocks."""
        images, rows, columns = (part.stop - part.start for part in (self.images, self.rows, self.columns))
        return images, rows, columns


@dataclass(frozen=True)
class Buffers:
    """What a tile is copied to, with the constant parts of keys and values filled in."""

    key: Tensor  # (u, K, C)
    value: Tensor  # (u, K, Dv)
    query: Tensor  # (u, Q, C)
    scores: Tensor  # (u * Q * K,)


def _allocate(
    units: int, queries: int, window: tuple[int, int], parts: list[int], channels: int, dtype: torch.dtype
) -> Buffers:
    """Buffers for that many units of queries that see a clipped window, folded from `parts`."""
    (height, width), real, virtual = window, math.prod(window), len(parts) == 5
    key = torch.empty(units, real + virtual, sum(parts), dtype=dtype)
    key[..., parts[0] : -1] = 0
    one_hot = key[:, :real, parts[0] :].unflatten(1, window)
    one_hot[..., :height] = torch.eye(height, dtype=dtype)[:, None]
    one_hot[..., height : height + width] = torch.eye(width, dtype=dtype)
    key[..., -1] = 1
    value = torch.empty(units, real + virtual, channels, dtype=dtype)
    if virtual:
        key[:, -1, : parts[0]] = 0
        key[:, -1, -2] = 1
        value[:, -1] = 0
    query = torch.empty(units, queries, sum(parts), dtype=dtype)
    return Buffers(key, value, query, torch.empty(units * queries * (real + virtual), dtype=dtype))


class TileLoop:
    """One pass over the tiles of one pair of runs: the buffers, and how a tile fills them."""

    def __init__(
        self,
        maps: tuple[Tensor, Tensor, Tensor],
        geometry: Geometry,
        runs: tuple[Run, Run],
        tables: Tensor | None,
        scale: float,
        buffers: dict[tuple[int, int, int], Buffers],
    ) -> None:
        """Takes queries in blocks (B, I, J, i, j, N, D), key and value maps, and joined position tables (R, D).

        `buffers` are kept from one pass of a call to the next: many
        clip their neighbourhoods to the same size.
        """
        self.query, self.key, self.value = maps
        self.geometry, self.runs, self.tables, self.scale = geometry, runs, tables, scale
        self.heads, self.channels = self.query.shape[-2:]
        self.height, self.width = runs[0].length, runs[1].length
        self.query_width = geometry.columns.queries_per_block
        self.real_keys = self.height * self.width
        neighborhood = geometry.rows.neighborhood * geometry.columns.neighborhood
        self.virtual = geometry.rows.border == "zeros" and self.real_keys < neighborhood
        self.keys = self.real_keys + self.virtual
        self.parts = [self.channels, self.height, self.width, *([1] if self.virtual else []), 1]
        self.dtype = working_dtype(self.query)
        self._plan()
        units, queries = math.prod(self.counts) * self.heads, self.step * self.query_width
        kind = (self.height, self.width, units * queries)
        if kind not in buffers:
            buffers[kind] = _allocate(
                units, queries, (self.height, self.width), self.parts, self.value.shape[-1], self.dtype
            )
        self.buffers = buffers[kind]

    def _plan(self) -> None:
        """Images, rows and columns of blocks a tile has, and query rows a step takes, for the tile to fit."""
        rows = self.geometry.rows.queries_per_block
        per_row = self.heads * self.query_width * self.keys * self.dtype.itemsize
        self.step = max(1, min(rows, TILE_BYTES // per_row))
        blocks = max(1, TILE_BYTES // (per_row * rows))
        across = _even_share(self.runs[1].count, blocks)
        down = _even_share(self.runs[0].count, blocks // across)
        self.counts = (_even_share(self.key.shape[0], blocks // (across * down)), down, across)

    def tiles(self) -> Iterator[Tile]:
        """The tiles, one after another."""
        rows, columns = self.runs
        for image in range(0, self.key.shape[0], self.counts[0]):
            for down in range(0, rows.count, self.counts[1]):
                for across in range(0, columns.count, self.counts[2]):
                    yield Tile(
                        images=slice(image, min(image + self.counts[0], self.key.shape[0])),
                        rows=_blocks(rows, down, self.counts[1]),
                        columns=_blocks(columns, across, self.counts[2]),
                        key_rows=_pixels(rows, down, self.counts[1], self.geometry.rows.block),
                        key_columns=_pixels(columns, across, self.counts[2], self.geometry.columns.block),
                    )

    def windows(self, map_: Tensor, tile: Tile) -> Tensor:
        """The clipped neighbourhoods of a map, a view: (B, I, J, N, y, x, D)."""
        part = map_[tile.images].narrow(1, *tile.key_rows).narrow(2, *tile.key_columns)
        part = part.unfold(1, self.height, self.geometry.rows.block)
        return part.unfold(2, self.width, self.geometry.columns.block).permute(0, 1, 2, 3, 5, 6, 4)

    def as_windows(self, keys: Tensor, tile: Tile) -> Tensor:
        """(u, K, D) of a tile's real keys, seen as `windows` of D channels."""
        real = keys[:, : self.real_keys].unflatten(1, (self.height, self.width))
        return real.unflatten(0, (*tile.counts, self.heads))

    def load_keys(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Copies a tile's keys, scaled, and values to the buffers: (u, K, C) and (u, K, Dv)."""
        units = math.prod(tile.counts) * self.heads
        key, value = self.buffers.key[:units], self.buffers.value[:units]
        content = self.as_windows(key, tile)[..., : self.channels]
        content.copy_(self.windows(self.key, tile))
        content.mul_(self.scale)
        self.as_windows(value, tile).copy_(self.windows(self.value, tile))
        return key, value

    def query_rows(self) -> Iterator[slice]:
        """Rows of a block's queries that are taken together."""
        rows = self.geometry.rows.queries_per_block
        return (slice(first, min(first + self.step, rows)) for first in range(0, rows, self.step))

    def take_queries(self, blocks: Tensor, tile: Tile, rows: slice) -> Tensor:
        """The queries of a tile in (B, I, J, i, j, N, D), a view with the heads before: (B, I, J, N, i, j, D)."""
        return blocks[tile.images, tile.rows, tile.columns, rows].permute(0, 1, 2, 5, 3, 4, 6)

    def load_queries(self, tile: Tile, rows: slice, shift: Tensor | None = None) -> tuple[Tensor, Position]:
        """Copies and folds a tile's queries: (u, Q, C), and the position terms that went into them.

        `shift` (B, I, J, i, j, N, 1) is taken from every logit of its query.
        """
        query = self.take_queries(self.query, tile, rows)
        folded = self.buffers.query[: math.prod(tile.counts) * self.heads, : query.shape[4:6].numel()]
        content, by_row, by_column, *virtual, last = folded.split(self.parts, dim=-1)
        self._as_queries(content, query).copy_(query)
        position = Position(self, content, rows)
        by_row.unflatten(1, query.shape[4:6]).copy_(position.rows_inside)
        by_column.unflatten(1, query.shape[4:6]).copy_(position.columns_inside)
        for part in virtual:
            part[..., 0] = position.virtual_logit()
        if shift is None:
            last.zero_()
        else:
            torch.neg(self.take_queries(shift, tile, rows), out=self._as_queries(last, query))
        return folded, position

    @staticmethod
    def _as_queries(folded: Tensor, like: Tensor) -> Tensor:
        """(u, Q, D) seen as (B, I, J, N, i, j, D)."""
        return folded.unflatten(1, like.shape[4:6]).unflatten(0, like.shape[:4])

    def scores(self, queries: Tensor) -> Tensor:
        """The score buffer for these queries: (u, Q, K)."""
        shape = (queries.shape[0], queries.shape[1], self.keys)
        return self.buffers.scores[: math.prod(shape)].view(shape)

    def exponentials(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """exp(logit - largest of the query), (u, Q, K) in the score buffer, and that largest logit, (u, Q, 1)."""
        scores = torch.bmm(queries, keys.transpose(1, 2), out=self.scores(queries))
        largest = scores.amax(dim=-1, keepdim=True)
        return scores.sub_(largest).exp_(), largest

    def weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The attention weights of queries shifted by their log-sum-exp: (u, Q, K), in the score buffer."""
        return torch.bmm(queries, keys.transpose(1, 2), out=self.scores(queries)).exp_()


class Position:
    """Position logits of a tile's queries, split by what lies inside and outside the map on each axis."""

    def __init__(self, loop: TileLoop, query: Tensor, rows: slice) -> None:
        """Takes queries (u, Q, D), which are the given rows of each block."""
        self.loop, self.query, self.query_rows = loop, query, rows
        geometry = loop.geometry
        self.lengths = 2 * geometry.rows.reach + 1, 2 * geometry.columns.reach + 1
        if loop.tables is None:
            logits = query.new_zeros((*query.shape[:2], sum(self.lengths)))
        else:
            logits = query @ loop.tables.t()
        self.rows, self.columns = self._by_pixel(logits)
        if geometry.rows.window is not None:
            self.rows = self.rows + _hidden(geometry.rows, loop.dtype)[rows, None]
            self.columns = self.columns + _hidden(geometry.columns, loop.dtype)
        self.inside = tuple(slice(run.offset, run.offset + run.length) for run in loop.runs)

    def _by_pixel(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Views of (u, Q, R), a logit a table row, by neighbourhood pixel: (u, i, j, y) and (u, i, j, x).

        A step to the next query moves its pixels one query step back in the table, so that this is a matter of strides.
        """
        rows, columns = self.loop.geometry.rows, self.loop.geometry.columns
        units, queries, length = logits.shape
        width, step = self.loop.query_width, rows.relative_stride
        shape, line = (units, queries // width, width), width * length
        first_row = rows.reach - rows.halo - step * self.query_rows.start
        first_column = self.lengths[0] + columns.reach - columns.halo
        by_row = logits.as_strided((*shape, rows.neighborhood), (queries * length, line - step, length, 1), first_row)
        by_column = logits.as_strided(
            (*shape, columns.neighborhood), (queries * length, line, length - step, 1), first_column
        )
        return by_row, by_column

    @property
    def rows_inside(self) -> Tensor:
        """(u, i, j, y) of the rows the map has."""
        return self.rows[..., self.inside[0]]

    @property
    def columns_inside(self) -> Tensor:
        """(u, i, j, x) of the columns the map has."""
        return self.columns[..., self.inside[1]]

    def virtual_logit(self) -> Tensor:
        """Log-sum-exp over all border keys: (u, Q).

        They are the rows outside with every column, and the rows inside with the columns outside.
        """
        # With pixels first, sums over them run along contiguous queries.
        self.by_row, self.by_column = (part.permute(3, 0, 1, 2).flatten(2) for part in (self.rows, self.columns))
        row, column = self.inside
        self.row_out, self.row_in = _logsumexp(_outside(self.by_row, row)), _logsumexp(self.by_row[row])
        self.column_out = _logsumexp(_outside(self.by_column, column))
        self.column_all = torch.logaddexp(_logsumexp(self.by_column[column]), self.column_out)
        self.virtual = torch.logaddexp(self.row_out + self.column_all, self.row_in + self.column_out)
        return self.virtual

    def gradient(self, folded: Tensor) -> Tensor:
        """Gradient of the logits by table row, (u, Q, R), from that of the folded queries, (u, Q, C)."""
        _, by_row, by_column, *virtual, _ = folded.split(self.loop.parts, dim=-1)
        total = folded.new_zeros((*folded.shape[:2], sum(self.lengths)))
        rows, columns = self._by_pixel(total)
        if virtual:
            grad, row_all = virtual[0][..., 0], torch.logaddexp(self.row_in, self.row_out)
            shares = (
                self._virtual_share(self.by_row, self.inside[0], grad, self.column_out, self.column_all),
                self._virtual_share(self.by_column, self.inside[1], grad, self.row_out, row_all),
            )
            for view, share in zip((rows, columns), shares, strict=True):
                view.copy_(share.unflatten(2, view.shape[1:3]).permute(1, 2, 3, 0))
        rows[..., self.inside[0]] += by_row.unflatten(1, rows.shape[1:3])
        columns[..., self.inside[1]] += by_column.unflatten(1, rows.shape[1:3])
        return total

    def _virtual_share(
        self, logits: Tensor, inside: slice, grad: Tensor, partner_out: Tensor, partner_all: Tensor
    ) -> Tensor:
        """What the virtual key owes an axis: a line inside the map meets the other's outside, one outside all of it."""
        share = logits + (partner_all - self.virtual)
        share[inside] = logits[inside] + (partner_out - self.virtual)
        return share.clamp_(max=0).exp_().mul_(grad)


def working_dtype(query: Tensor) -> torch.dtype:
    """Half precision is widened inside a tile: plain CPUs multiply it no faster, and the sums keep their digits."""
    return torch.float32 if query.dtype in (torch.bfloat16, torch.float16) else query.dtype


def _hidden(axis: Axis, dtype: torch.dtype) -> Tensor:
    """The logit that hides the pixels outside a query's window: (i, y)."""
    return torch.zeros((), dtype=dtype).where(axis.in_window(torch.device("cpu")), HIDDEN)


def _outside(logits: Tensor, inside: slice) -> Tensor:
    return torch.cat([logits[: inside.start], logits[inside.stop :]])


def _logsumexp(logits: Tensor) -> Tensor:
    """Over the pixels; of none it is HIDDEN rather than -inf, so that differences stay numbers."""
    if logits.shape[0] == 0:
        return logits.new_full(logits.shape[1:], HIDDEN)
    return torch.logsumexp(logits, dim=0)


def _even_share(count: int, most: int) -> int:
    """The size of equal shares of at most `most`."""
    shares = -(-count // max(1, most))
    return -(-count // shares)


def _blocks(run: Run, first: int, count: int) -> slice:
    return slice(run.first + first, run.first + min(first + count, run.count))


def _pixels(run: Run, first: int, count: int, block: int) -> tuple[int, int]:
    count = min(first + count, run.count) - first
    return run.start + first * block, (count - 1) * block + run.length
