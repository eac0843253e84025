"""The tuned numbers: how large tiles are, and how many warps share one. Needs no triton.

Chosen so that no kernel spills registers and shared memory suffices, of the shapes that the models of the papers have
(`python -m benchmarks.triton_compile` tells both without a GPU).
"""

from __future__ import annotations

import torch

from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.triton_gpu.plan import Tiles, power_of_two

# Of each kernel: up to how many channels of a key and of a value, filled up to powers of two, and rows and columns of
# a neighbourhood together, which tiles.
Rows = tuple[tuple[int, int, int, Tiles], ...]
ANY = 1 << 30

# Compute capability 9.0: tiles of 64 queries, or for key gradients keys, are what its matrix units take.
HOPPER: dict[str, Rows] = {
    "forward": (
        (32, 32, ANY, Tiles(64, 64, 4)),
        (32, 128, ANY, Tiles(64, 64, 8)),
        (64, 64, ANY, Tiles(64, 64, 4, 64)),
        (128, 128, ANY, Tiles(64, 64, 8)),
        (256, 256, 32, Tiles(64, 64, 8)),
        (256, 256, ANY, Tiles(32, 32, 4)),
    ),
    "query": (
        (32, 32, ANY, Tiles(64, 64, 4, 64)),
        (64, 128, ANY, Tiles(64, 64, 8)),
        (128, 128, 36, Tiles(64, 32, 8, 64)),
        (128, 128, ANY, Tiles(64, 32, 8)),
        (256, 256, 32, Tiles(64, 32, 4)),
        (256, 256, ANY, Tiles(32, 32, 4, 64)),
    ),
    "key": (
        (16, 16, ANY, Tiles(64, 64, 4)),
        (64, 128, ANY, Tiles(64, 64, 8)),
        (128, 16, ANY, Tiles(64, 64, 8)),
        (128, 128, ANY, Tiles(16, 64, 8)),
        (256, 256, ANY, Tiles(16, 64, 8)),
    ),
    "bias": ((256, 256, ANY, Tiles(64, 64, 8)),),
    # With a static bias, whose addresses take registers.
    "forward+bias": ((64, 64, ANY, Tiles(64, 64, 8)),),
    "query+bias": ((32, 32, ANY, Tiles(64, 64, 4)), (64, 64, ANY, Tiles(64, 64, 8))),
    "key+bias": ((32, 32, ANY, Tiles(64, 64, 4)), (64, 64, ANY, Tiles(64, 64, 8))),
}
# Compute capability 10.0 and newer.
BLACKWELL: dict[str, Rows] = {
    **HOPPER,
    "query": ((32, 32, ANY, Tiles(64, 64, 4, 64)), (64, 64, 32, Tiles(64, 64, 4)), *HOPPER["query"]),
    "key": (
        (16, 16, ANY, Tiles(64, 64, 8)),
        (32, 32, 31, Tiles(64, 64, 4)),
        (32, 32, 32, Tiles(64, 64, 8)),
        (32, 32, ANY, Tiles(64, 64, 4)),
        *HOPPER["key"],
    ),
    "key+bias": ((64, 64, ANY, Tiles(64, 64, 4)),),
}
# Compute capability 8.x, whose operands pass through registers.
AMPERE: dict[str, Rows] = {
    "forward": (
        (64, 64, ANY, Tiles(64, 64, 4)),
        (32, 128, ANY, Tiles(64, 64, 4, 64)),
        (128, 128, ANY, Tiles(64, 64, 8)),
        (256, 256, ANY, Tiles(64, 64, 8, 64)),
    ),
    "query": (
        (16, 16, ANY, Tiles(64, 64, 4)),
        (32, 32, ANY, Tiles(64, 32, 4)),
        (16, 64, ANY, Tiles(64, 32, 4)),
        (64, 64, 32, Tiles(64, 32, 4)),
        (64, 128, ANY, Tiles(64, 32, 8)),
        (128, 128, ANY, Tiles(16, 32, 4)),
        (256, 256, 32, Tiles(64, 32, 8)),
        (256, 256, ANY, Tiles(32, 32, 4, 64)),
    ),
    "key": (
        (16, 16, ANY, Tiles(64, 64, 4)),
        (32, 32, ANY, Tiles(32, 32, 4)),
        (16, 64, ANY, Tiles(32, 64, 4)),
        (32, 128, ANY, Tiles(32, 16, 4)),
        (64, 64, ANY, Tiles(64, 32, 4)),
        (128, 16, ANY, Tiles(64, 32, 8)),
        (128, 128, ANY, Tiles(32, 32, 8)),
        (64, 256, 32, Tiles(32, 32, 8)),
        (256, 256, ANY, Tiles(64, 32, 8)),
    ),
    "bias": ((32, 32, ANY, Tiles(64, 64, 8)), (256, 256, ANY, Tiles(64, 32, 4))),
    "forward+bias": ((64, 64, ANY, Tiles(64, 64, 8)),),
    "query+bias": ((32, 32, ANY, Tiles(64, 64, 4)), (64, 64, ANY, Tiles(32, 64, 8))),
    "key+bias": ((64, 64, ANY, Tiles(32, 32, 4)),),
}
# Numbers of 32 bits, on any device.
FLOAT32: dict[str, Rows] = {
    "forward": ((64, 64, ANY, Tiles(32, 32, 4)), (256, 256, ANY, Tiles(16, 32, 4))),
    "query": ((64, 64, ANY, Tiles(32, 32, 4)), (256, 256, ANY, Tiles(16, 16, 4))),
    "key": ((64, 64, ANY, Tiles(32, 32, 4)), (256, 256, ANY, Tiles(16, 16, 4))),
    "bias": ((256, 256, ANY, Tiles(16, 16, 4)),),
}


def tiles_for(call: Call, kernel: str, capability: tuple[int, int]) -> Tiles:
    """The row of the kernel "forward", "query", "key" or "bias" for a call on a device of that compute capability."""
    table = BLACKWELL if capability >= (10, 0) else HOPPER if capability >= (9, 0) else AMPERE
    if call.query.dtype not in (torch.bfloat16, torch.float16):
        table = FLOAT32
    key_dim, value_dim = (power_of_two(map_.shape[4]) for map_ in (call.query, call.value))
    positions = call.geometry.rows.neighborhood + call.geometry.columns.neighborhood
    rows = table[kernel]
    if call.bias is not None:
        rows = (*table.get(f"{kernel}+bias", ()), *rows)
    return next(
        tiles
        for most_key, most_value, most_positions, tiles in rows
        if key_dim <= most_key and value_dim <= most_value and positions <= most_positions
    )
