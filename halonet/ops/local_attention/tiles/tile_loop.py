"""One pass over the tiles of a map on a CPU: the buffers, and how a tile fills them.

A tile's queries, keys and values are copied to buffers that fit the cache and are used again by the next tile. Keys
carry their row and column one-hot, queries their position logits, so that one product makes the whole logit. Shape
letters as in `geometry` and `folded_position`; K counts keys, C folded channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from halonet.ops.local_attention.custom_operator import working_dtype
from halonet.ops.local_attention.geometry import Geometry
from halonet.ops.local_attention.tiles.clipped import Run, Tile, Tiling
from halonet.ops.local_attention.tiles.folded_position import FoldedPosition, VirtualKey

KEY_MULTIPLE = 16  # keys are filled up to a multiple, where that needs no key of its own: whole vector registers


@dataclass
class Buffers:
    """What a tile is copied to. Keys hold their constant channels, which belong to the blocks `marked`."""

    key: Tensor  # (u, K, C)
    value: Tensor  # (u, K, Dv)
    query: Tensor  # (p * u * C,)
    scores: Tensor  # (u * p * K,)
    parts: Tensor  # (u, h + w, 4), see VirtualKey
    marked: tuple[tuple[int, ...], tuple[int, ...]] | None = field(default=None)


class TileLoop:
    """One pass over the tiles of one pair of runs."""

    def __init__(
        self,
        maps: tuple[Tensor, Tensor, Tensor],
        geometry: Geometry,
        runs: tuple[Run, Run],
        position: FoldedPosition | None,
        *,
        scale: float,
        shifted: bool,
        buffers: dict[tuple[int, ...], Buffers],
    ) -> None:
        """Takes queries in blocks (B, I, J, i, j, N, D), key and value maps, and the position, None where none is.

        `shifted`: logits are to be lowered by a number a query. `buffers` are kept from one pass of a call to the next.
        """
        self.query, self.key, self.value = maps
        self.geometry, self.runs, self.scale = geometry, runs, scale
        self.heads, self.channels = self.query.shape[-2:]
        self.dtype = working_dtype(self.query.dtype)
        self.height, self.width = runs[0].length, runs[1].length
        self.real_keys = self.height * self.width
        self.sides = geometry.rows.neighborhood, geometry.columns.neighborhood
        self.virtual_keys = 0
        if geometry.rows.border == "zeros" and self.real_keys < math.prod(self.sides):
            self.virtual_keys = KEY_MULTIPLE - self.real_keys % KEY_MULTIPLE
        self.keys = self.real_keys + self.virtual_keys
        self.position = position
        sides = self.sides if position is not None else (0, 0)
        self.parts = [self.channels, sum(sides), int(self.virtual_keys > 0), int(shifted)]
        per_row = geometry.columns.queries_per_block * self.dtype.itemsize
        self.tiling = Tiling(
            geometry,
            runs,
            images=self.key.shape[0],
            row_bytes=per_row * self.heads * self.keys,
            weight_bytes=per_row * self.channels * sum(sides),
        )
        self.buffers = self._take_buffers(buffers)

    def _take_buffers(self, buffers: dict[tuple[int, ...], Buffers]) -> Buffers:
        units, channels = self.tiling.blocks * self.heads, sum(self.parts)
        queries = self.tiling.step * self.geometry.columns.queries_per_block
        kind = (self.height, self.width, units, queries)
        if kind not in buffers:
            like = torch.empty(0, dtype=self.dtype)
            value = like.new_empty(units, self.keys, self.value.shape[-1])
            value[:, self.real_keys :] = 0
            buffers[kind] = Buffers(
                key=like.new_empty(units, self.keys, channels),
                value=value,
                query=like.new_empty(queries * units * channels),
                scores=like.new_empty(units * queries * self.keys),
                parts=torch.zeros(units, self.parts[1], 4, dtype=torch.float64),
            )
        return buffers[kind]

    def _mark(self, tile: Tile) -> None:
        """Writes what depends on where the neighbourhoods of a tile's blocks are clipped."""
        offsets = self.runs[0].offsets(tile.rows), self.runs[1].offsets(tile.columns)
        if self.buffers.marked == offsets:
            return
        self.buffers.marked = offsets
        alike = len(offsets[0]) == len(offsets[1]) == 1
        counts = (self.buffers.key.shape[0], 1, 1, 1) if alike else (*tile.counts, self.heads)
        key, parts = _constants(offsets, (self.height, self.width), self.sides, self.virtual_keys, *self.parts[1:])
        units = math.prod(counts)
        self.buffers.key[:units, :, self.channels :].unflatten(0, counts).copy_(key[:, :, None])
        if self.virtual_keys:
            self.buffers.key[:units, self.real_keys :, : self.channels] = 0
            self.buffers.parts[:units].unflatten(0, counts).copy_(parts[:, :, None])

    def windows(self, map_: Tensor, tile: Tile) -> Tensor:
        """The clipped neighbourhoods of a map, a view: (B, I, J, N, y, x, D)."""
        rows, columns = self.runs
        image, row, column, head, channel = map_.stride()
        start = image * tile.images.start
        start += row * (rows.start + rows.step * (tile.rows.start - rows.first))
        start += column * (columns.start + columns.step * (tile.columns.start - columns.first))
        shape = (*tile.counts, self.heads, self.height, self.width, map_.shape[-1])
        strides = (image, row * rows.step, column * columns.step, head, row, column, channel)
        return map_.as_strided(shape, strides, map_.storage_offset() + start)

    def as_windows(self, keys: Tensor, tile: Tile) -> Tensor:
        """(u, K, D) of a tile's real keys, seen as `windows` of D channels."""
        real = keys[:, : self.real_keys].unflatten(1, (self.height, self.width))
        return real.unflatten(0, (*tile.counts, self.heads))

    def load_keys(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Copies a tile's keys and values to the buffers: (u, K, C) and (u, K, Dv)."""
        self._mark(tile)
        units = math.prod(tile.counts) * self.heads
        key, value = self.buffers.key[:units], self.buffers.value[:units]
        self.as_windows(key, tile)[..., : self.channels].copy_(self.windows(self.key, tile))
        self.as_windows(value, tile).copy_(self.windows(self.value, tile))
        return key, value

    def take_queries(self, blocks: Tensor, tile: Tile, rows: slice) -> Tensor:
        """The queries of a tile in (B, I, J, i, j, N, D), a view with the heads before: (B, I, J, N, i, j, D)."""
        return blocks[tile.images, tile.rows, tile.columns, rows].permute(0, 1, 2, 5, 3, 4, 6)

    def take_positions(self, blocks: Tensor, tile: Tile, rows: slice) -> Tensor:
        """The same with the queries of a block before: (i, j, B, I, J, N, D)."""
        return blocks[tile.images, tile.rows, tile.columns, rows].permute(3, 4, 0, 1, 2, 5, 6)

    def load_queries(self, tile: Tile, rows: slice, shift: Tensor | None = None) -> FoldedQueries:
        """Copies and folds a tile's queries; `shift` (B, I, J, i, j, N, 1) is taken from every logit of its query."""
        return FoldedQueries(self, tile, rows, shift)

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The logits (u, p, K) of folded queries (u, p, C), in the score buffer."""
        shape = (queries.shape[0], queries.shape[1], self.keys)
        scores = self.buffers.scores[: math.prod(shape)].view(shape)
        return torch.bmm(queries, keys.transpose(1, 2), out=scores)

    def exponentials(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """exp(logit - largest of the query), (u, p, K) in the score buffer, and that largest logit, (u, p, 1)."""
        scores = self.scores(queries, keys)
        largest = scores.amax(dim=-1, keepdim=True)
        return scores.sub_(largest).exp_(), largest

    def steps(self) -> Iterator[tuple[Tile, list[slice]]]:
        """Every tile, with the rows of queries that are taken together."""
        return ((tile, self.tiling.steps()) for tile in self.tiling.tiles())


class FoldedQueries:
    """The queries of a tile with their position logits, virtual logit and shift."""

    def __init__(self, loop: TileLoop, tile: Tile, rows: slice, shift: Tensor | None) -> None:
        source = loop.take_positions(loop.query, tile, rows)
        self.shape = source.shape[:-1]  # (i, j, B, I, J, N)
        queries, units = self.shape[:2].numel(), self.shape[2:].numel()
        folded = loop.buffers.query[: queries * units * sum(loop.parts)].view(queries, units, -1)
        self.loop, self.rows = loop, rows
        self.content, self.logits, virtual, last = folded.split(loop.parts, dim=-1)
        content = self.content.view(source.shape)
        if source.dtype == loop.dtype:
            torch.mul(source, loop.scale, out=content)
        else:
            content.copy_(source).mul_(loop.scale)
        if loop.position is not None:
            loop.position.select(rows)
            loop.position.fold(self.content, self.logits)
        if loop.virtual_keys:
            # Several virtual keys fill the last vector register up; each has its share.
            self.virtual = VirtualKey(loop.buffers.parts[:units], loop.sides)
            torch.sub(self.virtual.logit(self.logits), math.log(loop.virtual_keys), out=virtual[..., 0])
        if shift is not None:
            torch.neg(loop.take_positions(shift, tile, rows), out=last.view(*self.shape, 1))
        self.folded = folded.transpose(0, 1)  # (u, p, C)

    def gradient(self, folded: Tensor) -> Tensor:
        """Gradient of the queries (i, j, B, I, J, N, D), before scaling, from that of the folded ones (u, p, C)."""
        content, logits, virtual, _ = folded.transpose(0, 1).split(self.loop.parts, dim=-1)
        if self.loop.virtual_keys:
            self.virtual.add_gradient(virtual[..., 0], logits)
        if self.loop.position is None:
            return (content * self.loop.scale).unflatten(1, self.shape[2:]).unflatten(0, self.shape[:2])
        content = self.loop.position.unfold(self.content, content, logits, self.loop.scale)
        return content.view(*self.shape, -1)


@lru_cache(maxsize=64)
def _constants(
    offsets: tuple[tuple[int, ...], tuple[int, ...]],
    lengths: tuple[int, int],
    sides: tuple[int, int],
    virtual_keys: int,
    position: int,
    virtual: int,
    shift: int,
) -> tuple[Tensor, Tensor]:
    """The channels of keys besides their content, (I, J, K, C - D), and the masks of VirtualKey, (I, J, h + w, 4).

    offsets, lengths: of the parts of the neighbourhoods inside the map. position, virtual, shift: channels.
    """
    counts = len(offsets[0]), len(offsets[1])
    real = math.prod(lengths)
    key = torch.zeros(*counts, real + virtual_keys, position + virtual + shift)
    key[..., position + virtual :] = 1
    parts = torch.zeros(*counts, position, 4)
    if not position:
        return key, parts
    row, column = (
        torch.stack([torch.eye(side)[offset : offset + length] for offset in axis])  # (I, y, h), (J, x, w)
        for side, axis, length in zip(sides, offsets, lengths, strict=True)
    )
    one_hot = key[:, :, :real].unflatten(2, lengths)
    one_hot[..., : sides[0]] = row[:, None, :, None]
    one_hot[..., sides[0] : position] = column[:, None]
    if virtual_keys:
        key[:, :, real:, position] = 1
        row, column = row.sum(dim=1)[:, None], column.sum(dim=1)  # 1 for the pixels inside: (I, 1, h), (J, w)
        parts[..., : sides[0], 0], parts[..., : sides[0], 1] = 1 - row, row
        parts[..., sides[0] :, 2], parts[..., sides[0] :, 3] = 1 - column, column
    return key, parts
