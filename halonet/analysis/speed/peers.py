"""What a user would run in place of `local_attention`: the same maths by other means, and other maths, said so.

Every peer takes query, key, value (B, H, W, N, D) and both tables, borders of zeros, position unscaled, and gives
(B, Hq, Wq, N, Dv). `refusal` says in which cases a peer cannot take part.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from halonet.analysis.speed.shapes import OpShape
from halonet.ops import local_attention
from halonet.ops.local_attention.geometry import Axis, Geometry

Run = Callable[[OpShape, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Peer:
    """same: computes what `local_attention` computes, and is held to it before it is timed."""

    what: str
    run: Run
    same: bool = True
    refusal: Callable[[OpShape, torch.device, str], str | None] = lambda shape, device, mode: None


def ours(shape: OpShape, tensors: Mapping[str, Tensor], *, backend: str) -> Tensor:
    """`local_attention` of a shape's tensors."""
    return local_attention(
        tensors["query"],
        tensors["key"],
        tensors["value"],
        block_size=shape.block_size,
        halo_size=shape.halo_size,
        stride=shape.stride,
        relative=(tensors["height_table"], tensors["width_table"]),
        backend=backend,
    )


def _geometry(shape: OpShape) -> Geometry:
    rows, columns = (
        Axis(size, block, halo, shape.stride, shape.stride, "zeros", None)
        for size, block, halo in zip((shape.height, shape.width), shape.block_size, shape.halo_size, strict=True)
    )
    return Geometry(rows, columns, None)


def _gathered(map_: Tensor, geometry: Geometry) -> Tensor:
    """(B, H, W, N, D) -> (B * blocks, N, y * x, D), each block's neighbourhood, zeros outside the map."""
    rows, columns = geometry.rows, geometry.columns
    below, right = rows.extended - rows.size + rows.halo, columns.extended - columns.size + columns.halo
    padded = F.pad(map_, (0, 0, 0, 0, columns.halo, right, rows.halo, below))
    windows = padded.unfold(1, rows.neighborhood, rows.block).unfold(2, columns.neighborhood, columns.block)
    return windows.permute(0, 1, 2, 3, 5, 6, 4).flatten(4, 5).flatten(0, 2)


def _split(shape: OpShape, tensors: Mapping[str, Tensor]) -> tuple[Geometry, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Geometry; queries, keys and values by block; position logits of each query by key row and by key column."""
    geometry = _geometry(shape)
    query = geometry.split_queries(tensors["query"]).permute(0, 1, 2, 5, 3, 4, 6).flatten(0, 2)
    height = tensors["height_table"][geometry.rows.table_rows(query.device)]
    width = tensors["width_table"][geometry.columns.table_rows(query.device)]
    by_row = torch.einsum("bnijd,iyd->bnijy", query, height).flatten(2, 3)
    by_column = torch.einsum("bnijd,jxd->bnijx", query, width).flatten(2, 3)
    keys, values = _gathered(tensors["key"], geometry), _gathered(tensors["value"], geometry)
    return geometry, query.flatten(2, 3), keys, values, by_row, by_column


def _merge(output: Tensor, shape: OpShape, geometry: Geometry) -> Tensor:
    """(B * blocks, N, i * j, D) -> (B, Hq, Wq, N, D)."""
    rows, columns = geometry.rows, geometry.columns
    blocks = output.unflatten(2, (rows.queries_per_block, columns.queries_per_block))
    blocks = blocks.unflatten(0, (-1, rows.num_blocks, columns.num_blocks)).permute(0, 1, 2, 4, 5, 3, 6)
    return geometry.merge_queries(blocks)


def sdpa_with_bias(shape: OpShape, tensors: Mapping[str, Tensor]) -> Tensor:
    """torch's fused attention over gathered neighbourhoods, the position logits as its additive mask."""
    geometry, query, keys, values, by_row, by_column = _split(shape, tensors)
    bias = (by_row[..., :, None] + by_column[..., None, :]).flatten(3)
    return _merge(F.scaled_dot_product_attention(query, keys, values, attn_mask=bias), shape, geometry)


def flex(shape: OpShape, tensors: Mapping[str, Tensor]) -> Tensor:
    """FlexAttention over gathered neighbourhoods, the position logits added by its score function."""
    geometry, query, keys, values, by_row, by_column = _split(shape, tensors)
    width = geometry.columns.neighborhood

    def add_position(score: Tensor, block: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + by_row[block, head, q, k // width] + by_column[block, head, q, k % width]

    output = _compiled_flex()(query, keys.contiguous(), values.contiguous(), score_mod=add_position)
    return _merge(output, shape, geometry)


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def dense(shape: OpShape, tensors: Mapping[str, Tensor]) -> Tensor:
    """Every query and every key of the map, without position, by torch's fused attention."""
    query, key, value = (tensors[name].flatten(1, 2).transpose(1, 2) for name in ("query", "key", "value"))
    output = F.scaled_dot_product_attention(query, key, value)
    return output.transpose(1, 2).unflatten(1, tensors["query"].shape[1:3])


def natten(shape: OpShape, tensors: Mapping[str, Tensor]) -> Tensor:
    """NATTEN's neighbourhood attention, a window round every pixel, without position: it cannot train one."""
    from natten.functional import na2d

    window = shape.block_size[0] + 2 * shape.halo_size[0] - 1  # odd for an even block: about as many keys as we see
    return na2d(tensors["query"], tensors["key"], tensors["value"], kernel_size=window | 1)


def _refuse_flex(shape: OpShape, device: torch.device, mode: str) -> str | None:
    if device.type == "cpu" and mode != "forward":
        return "FlexAttention has no backward pass on a CPU"
    widths = (shape.key_dim, shape.value_dim)
    return None if min(widths) >= 16 else f"FlexAttention wants 16 channels a head or more, got {widths}"


def _refuse_dense(shape: OpShape, device: torch.device, mode: str) -> str | None:
    if shape.height * shape.width > 1 << 16:
        return f"{shape.height * shape.width} keys a query take too long"
    return None


def _refuse_natten(shape: OpShape, device: torch.device, mode: str) -> str | None:
    if importlib.util.find_spec("natten") is None:
        return "NATTEN is not installed"
    window = (shape.block_size[0] + 2 * shape.halo_size[0] - 1) | 1
    if shape.stride > 1 or shape.key_dim != shape.value_dim or window > min(shape.height, shape.width):
        return "NATTEN wants stride 1, values as wide as keys, and a window within the map"
    return None


PEERS: dict[str, Peer] = {
    "halonet": Peer("local_attention, the backend that auto takes", partial(ours, backend="auto")),
    "reference": Peer("local_attention, backend reference", partial(ours, backend="reference")),
    "sdpa": Peer("local_attention, backend sdpa", partial(ours, backend="sdpa")),
    "sdpa-bias": Peer("F.scaled_dot_product_attention, gathered keys, position as its mask", sdpa_with_bias),
    "flex": Peer("FlexAttention compiled, gathered keys, position in its score function", flex, refusal=_refuse_flex),
    "dense": Peer("dense attention, no position: other maths", dense, same=False, refusal=_refuse_dense),
    "natten": Peer("NATTEN, no position: other maths", natten, same=False, refusal=_refuse_natten),
}
