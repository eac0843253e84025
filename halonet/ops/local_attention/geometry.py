"""Which keys a query may see: the index arithmetic of blocked local attention, one axis at a time.

Everything separates over height and width except the choice of one neighbour block, so an axis is described once
and used twice. Letters of shapes, here and in the backends:

    B batch      H, W key map      I, J blocks down and across      i, j queries inside a block
    N heads      D channels        y, x pixels of a neighbourhood   G extra keys
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

# Direction of neighbour block 1..8: row-major around the own block, which itself is left out.
NEIGHBOR_DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True)
class Axis:
    """One axis of a key map that is cut into blocks, each of which sees itself and a halo on both sides.

    size, block, halo are in pixels of the key map; query t stands at pixel `stride * t`. `block` is a multiple of
    `stride`, so every block holds the same number of queries.
    """

    size: int
    block: int
    halo: int
    stride: int
    relative_stride: int
    border: str
    window: int | None
    dilation: int = 1

    @property
    def num_blocks(self) -> int:
        return -(-self.size // self.block)

    @property
    def extended(self) -> int:
        """Pixels of the map after its extension to whole blocks."""
        return self.num_blocks * self.block

    @property
    def queries(self) -> int:
        """Queries of the whole axis."""
        return -(-self.size // self.stride)

    @property
    def queries_per_block(self) -> int:
        return self.block // self.stride

    @property
    def neighborhood(self) -> int:
        """Pixels one block sees."""
        return self.block + 2 * self.halo

    @property
    def reach(self) -> int:
        """Largest offset between a query and a key it sees; tables hold offsets -reach..reach."""
        return self.block + self.halo - 1

    @property
    def has_hidden_keys(self) -> bool:
        """Whether some neighbourhood holds pixels that must not take part."""
        if self.border == "zeros":
            return False
        return self.size != self.extended or (self.border == "mask" and self.halo > 0)

    def _blocks(self, device: torch.device) -> Tensor:
        """Numbers of the blocks: (I,)."""
        return torch.arange(self.num_blocks, device=device)

    def _queries(self, device: torch.device) -> Tensor:
        """Numbers of a block's queries: (i,)."""
        return torch.arange(self.queries_per_block, device=device)

    def _positions(self, device: torch.device) -> Tensor:
        """Unwrapped map coordinate of each neighbourhood pixel: (I, y)."""
        first = self._blocks(device)[:, None] * self.block - self.halo
        return first + torch.arange(self.neighborhood, device=device)

    def key_pixels(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Map coordinate of each neighbourhood pixel, and whether the map really has it: both (I, y)."""
        positions = self._positions(device)
        if self.border == "circular":
            positions = positions % self.extended
        exists = (positions >= 0) & (positions < self.size)
        return positions.clamp(0, self.size - 1), exists

    def table_rows(self, device: torch.device) -> Tensor:
        """Row of the position table for query i of a block and neighbourhood pixel y: (i, y)."""
        query = self._queries(device)[:, None] * self.relative_stride
        key = torch.arange(self.neighborhood, device=device)[None] - self.halo
        return self.reach + key - query

    def in_window(self, device: torch.device) -> Tensor:
        """Whether neighbourhood pixel y lies in the window centred on query i, whole dilations away: (i, y)."""
        query = self._queries(device)[:, None] * self.stride
        key = torch.arange(self.neighborhood, device=device)[None] - self.halo
        distance = (key - query).abs()
        largest = self.reach if self.window is None else self.window // 2 * self.dilation
        return (distance <= largest) & (distance % self.dilation == 0)

    def block_offset(self, y: int) -> int:
        """How many blocks away from the own one neighbourhood pixel y lies."""
        return (y - self.halo) // self.block


@dataclass(frozen=True)
class OneQuery(Axis):
    """An axis as its query of the number `query` sees it: one block (I = 1) with one query (i = 1)."""

    query: int = 0

    @classmethod
    def of(cls, axis: Axis, query: int) -> OneQuery:
        """The axis as its query of that number sees it."""
        return cls(**{field.name: getattr(axis, field.name) for field in fields(Axis)}, query=query)

    def _blocks(self, device: torch.device) -> Tensor:
        return torch.tensor([self.query // self.queries_per_block], device=device)

    def _queries(self, device: torch.device) -> Tensor:
        return torch.tensor([self.query % self.queries_per_block], device=device)


@dataclass(frozen=True)
class Geometry:
    """The two axes of a map, and the single neighbour block that is seen beside the own one, if only one is."""

    rows: Axis
    columns: Axis
    neighbors: int | None

    def at(self, row: int, column: int) -> Geometry:
        """What the query (row, column) of the map sees, as a map of one block with one query."""
        return Geometry(OneQuery.of(self.rows, row), OneQuery.of(self.columns, column), self.neighbors)

    def in_neighbor(self, device: torch.device) -> Tensor | None:
        """Which neighbourhood pixels belong to the own or the chosen neighbour block: (y, x), None for all."""
        if self.neighbors is None:
            return None
        down, across = NEIGHBOR_DIRECTIONS[self.neighbors - 1]
        y = torch.tensor([self.rows.block_offset(y) for y in range(self.rows.neighborhood)], device=device)
        x = torch.tensor([self.columns.block_offset(x) for x in range(self.columns.neighborhood)], device=device)
        y, x = y[:, None], x[None]
        return ((y == 0) & (x == 0)) | ((y == down) & (x == across))

    def split_queries(self, query: Tensor) -> Tensor:
        """(B, Hq, Wq, N, D) -> (B, I, J, i, j, N, D); queries of the extension are zeros."""
        batch, height, width, heads, channels = query.shape
        rows, columns = self.rows, self.columns
        below = rows.num_blocks * rows.queries_per_block - height
        right = columns.num_blocks * columns.queries_per_block - width
        if below or right:
            query = F.pad(query, (0, 0, 0, 0, 0, right, 0, below))
        shape = (rows.num_blocks, rows.queries_per_block, columns.num_blocks, columns.queries_per_block)
        return query.reshape(batch, *shape, heads, channels).transpose(2, 3)

    def merge_queries(self, blocks: Tensor) -> Tensor:
        """(B, I, J, i, j, N, D) -> (B, Hq, Wq, N, D), dropping the queries of the extension."""
        batch, _, _, _, _, heads, channels = blocks.shape
        rows, columns = self.rows, self.columns
        height = rows.num_blocks * rows.queries_per_block
        width = columns.num_blocks * columns.queries_per_block
        merged = blocks.transpose(2, 3).reshape(batch, height, width, heads, channels)
        return merged[:, : rows.queries, : columns.queries]
