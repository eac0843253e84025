"""Position as channels of the query: one product a tile, and one virtual key for the border.

The query of row i and column j of a block has a logit for each row and each column of its neighbourhood. Both are one
product of its channels with a matrix that depends on (i, j) only, so that a batched product over the queries of a
block folds a whole tile, and its transpose takes the gradients back. Why: NOTES.md. Shape letters as in `geometry`;
p counts the queries of a block, u the (image, block, head) units of a tile, D a head's channels, h and w the sides of
a neighbourhood.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from halonet.ops.local_attention.custom_operator import HIDDEN
from halonet.ops.local_attention.geometry import Axis, Geometry

SPREAD = 300.0  # logits this far apart have exponentials whose products are still numbers of float64


class FoldedPosition:
    """The position logits of a call's queries, for some rows of a block's queries at a time.

    With `gradients` it gathers the gradient of the tables, too: `row_gradient` and `column_gradient`.
    """

    def __init__(self, geometry: Geometry, tables: list[Tensor], *, gradients: bool) -> None:
        """Takes the position tables (R, D) of rows and columns, scaled, in the dtype of the tiles."""
        self.geometry, self.gradients = geometry, gradients
        self.sides = geometry.rows.neighborhood, geometry.columns.neighborhood
        self.indices = [_table_rows(axis) for axis in (geometry.rows, geometry.columns)]
        row, column = tables
        self.row_weights = row[self.indices[0]].transpose(1, 2)  # (i, D, h)
        self.column_weights = column[self.indices[1]].transpose(1, 2)  # (j, D, w)
        self.row_gradient, self.column_gradient = torch.zeros_like(row), torch.zeros_like(column)
        self.rows = slice(0, 0)
        self.weights = self.hidden = self.gradient = row.new_empty(0)

    def select(self, rows: slice) -> None:
        """Turns to these rows of a block's queries."""
        if rows == self.rows:
            return
        self.collect()
        self.rows = rows
        height, width = rows.stop - rows.start, self.geometry.columns.queries_per_block
        row, column = self.row_weights[rows][:, None], self.column_weights[None]
        parts = row.expand(-1, width, -1, -1), column.expand(height, -1, -1, -1)
        self.weights = torch.cat(parts, dim=-1).flatten(0, 1)  # (p, D, h + w)
        if self.gradients:
            self.gradient = torch.zeros_like(self.weights)
        if self.geometry.rows.window is not None:
            hidden = _hidden(self.geometry.rows, row.dtype)[rows][:, None], _hidden(self.geometry.columns, row.dtype)
            parts = hidden[0].expand(-1, width, -1), hidden[1].expand(height, -1, -1)
            self.hidden = torch.cat(parts, dim=-1).flatten(0, 1)[:, None]  # (p, 1, h + w)

    def fold(self, content: Tensor, logits: Tensor) -> None:
        """Writes the logits (p, u, h + w) of queries (p, u, D)."""
        torch.bmm(content, self.weights, out=logits)
        if self.geometry.rows.window is not None:
            logits += self.hidden

    def unfold(self, content: Tensor, grad_content: Tensor, grad_logits: Tensor, scale: float) -> Tensor:
        """`scale` times the gradient of queries (p, u, D) with these gradients of their parts."""
        if self.gradients:
            self.gradient.baddbmm_(content.transpose(1, 2), grad_logits)
        return torch.baddbmm(grad_content, grad_logits, self.weights.transpose(1, 2), beta=scale, alpha=scale)

    def collect(self) -> None:
        """Brings the gradient of the weights in use to the tables."""
        if not self.gradients or self.rows.stop == 0:
            return
        width = self.geometry.columns.queries_per_block
        row, column = self.gradient.unflatten(0, (-1, width)).split(self.sides, dim=-1)
        row, column = row.sum(dim=1).transpose(1, 2), column.sum(dim=0).transpose(1, 2)
        self.row_gradient.index_add_(0, self.indices[0][self.rows].flatten(), row.flatten(0, 1))
        self.column_gradient.index_add_(0, self.indices[1].flatten(), column.flatten(0, 1))
        self.gradient.zero_()


class VirtualKey:
    """One key of value 0 in the place of all border keys of a clipped neighbourhood, which are 0 but take part.

    Its logit is the log-sum-exp of theirs. They are the rows outside the map with every column, and the rows inside
    with the columns outside; sums over them separate into sums over rows and over columns. In float64, where
    exponentials do not vanish although they are taken of differences to the largest logit of many queries.
    """

    def __init__(self, parts: Tensor, sides: tuple[int, int]) -> None:
        """Takes the masks (u, h + w, 4) of rows outside, rows inside, columns outside and columns inside the map."""
        self.parts, self.sides = parts, sides

    def logit(self, logits: Tensor) -> Tensor:
        """(p, u) of the position logits (p, u, h + w)."""
        self.exponentials = logits.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        low, largest = self.exponentials.aminmax()
        if largest - low < SPREAD:
            self.exponentials -= largest
            largest = 2 * largest
        else:
            parts = self.exponentials.split(self.sides, dim=-1)
            each = [part.amax(dim=-1, keepdim=True) for part in parts]
            for part, most in zip(parts, each, strict=True):
                part -= most
            largest = (each[0] + each[1])[..., 0]
        self.exponentials.exp_()
        sums = torch.bmm(self.exponentials.transpose(0, 1), self.parts)
        row_out, row_in, column_out, column_in = sums.unbind(dim=-1)
        column_all = column_out + column_in
        self.total = torch.addcmul(row_in * column_out, row_out, column_all).clamp_min_(1e-300)
        self.partners = torch.stack([column_all, column_out, row_out + row_in, row_out], dim=-1)
        return self.total.log().t() + largest

    def add_gradient(self, grad: Tensor, grad_logits: Tensor) -> None:
        """Adds to (p, u, h + w) what the gradient (p, u) of the virtual logit owes each: their share of the sum."""
        shares = torch.bmm(self.partners * (grad.t() / self.total)[..., None], self.parts.transpose(1, 2))
        grad_logits += shares.transpose(0, 1) * self.exponentials


@lru_cache(maxsize=256)
def _table_rows(axis: Axis) -> Tensor:
    return axis.table_rows(torch.device("cpu"))


def _hidden(axis: Axis, dtype: torch.dtype) -> Tensor:
    """The logit that hides the pixels outside a query's window: (i, y)."""
    return torch.zeros((), dtype=dtype).where(axis.in_window(torch.device("cpu")), HIDDEN)
