"""The least time a call of the op can take: what it must multiply, exponentiate and move, at the machine's full speed.

The rates are measured where torch can (a large matrix product, a large copy) and counted where it cannot: 16
exponentials a clock and multiprocessor of an NVIDIA GPU; on a CPU those of its kernels in the first-level cache. A
backward pass makes the logits again and has four products beside: 2.5 times the products of a forward pass, and as many
exponentials again (NOTES.md of the op). A layer's projections come on top.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from halonet.analysis.speed.measuring import wait_for
from halonet.analysis.speed.shapes import OpShape


@dataclass(frozen=True)
class Rates:
    """A second's worth of the machine."""

    flops: float
    exponentials: float
    bytes: float

    def __str__(self) -> str:
        numbers = self.flops / 1e9, self.exponentials / 1e9, self.bytes / 1e9
        return "{:.0f} GFLOP/s, {:.1f} G exponentials/s, {:.0f} GB/s".format(*numbers)


@dataclass(frozen=True)
class Work:
    """What a call cannot avoid. Keys outside the map are not counted: their sum needs none of them."""

    flops: float
    exponentials: float
    bytes: float

    def seconds(self, rates: Rates) -> float:
        """The longest of the three, at full speed."""
        return max(self.flops / rates.flops, self.exponentials / rates.exponentials, self.bytes / rates.bytes)


def work_of(shape: OpShape, batch: int, mode: str, itemsize: int) -> Work:
    """The work of one call, forward or forward and backward, on numbers of `itemsize` bytes."""
    queries = batch * -(-shape.height // shape.stride) * -(-shape.width // shape.stride) * shape.num_heads
    met = [
        _mean_keys(size, block, halo)
        for size, block, halo in zip((shape.height, shape.width), shape.block_size, shape.halo_size, strict=True)
    ]
    keys = met[0] * met[1]
    sides = sum(block + 2 * halo for block, halo in zip(shape.block_size, shape.halo_size, strict=True))
    products = 2 * queries * keys * (shape.key_dim + shape.value_dim)
    position = 2 * queries * sides * shape.key_dim
    pixels = batch * shape.height * shape.width * shape.num_heads
    widths = shape.key_dim + shape.value_dim
    moved = (queries + pixels) * widths * itemsize  # q, k, v and the output
    if mode == "forward":
        return Work(products + position, queries * keys, moved)
    return Work(3.5 * products + 4 * position, 2 * queries * keys, 3 * moved)


def layer_seconds(shape: OpShape, batch: int, mode: str, itemsize: int, rates: Rates) -> float:
    """The least time of a whole layer: the op's, and that of its projections' products."""
    queries = -(-shape.height // shape.stride) * -(-shape.width // shape.stride) * shape.key_dim
    keys = shape.height * shape.width * (shape.key_dim + shape.value_dim)
    channels = shape.num_heads * shape.key_dim
    projections = 2 * batch * channels * shape.num_heads * (queries + keys)
    times = 1 if mode == "forward" else 3
    return work_of(shape, batch, mode, itemsize).seconds(rates) + times * projections / rates.flops


def _mean_keys(size: int, block: int, halo: int) -> float:
    """Keys of the map that a query meets on one axis, in the mean over the blocks."""
    starts = range(0, size, block)
    return sum(min(size, start + block + halo) - max(0, start - halo) for start in starts) / len(starts)


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Of this machine: a CPU with torch's number of threads, or a GPU."""
    gpu = device.type == "cuda"
    size = 8192 if gpu else 1536
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    flops = 2 * size**3 / _fastest(lambda: left @ right, device)
    source = torch.empty(1 << (30 if gpu else 26), device=device, dtype=torch.uint8)
    target = torch.empty_like(source).copy_(source)
    moved = 2 * source.numel() / _fastest(lambda: target.copy_(source), device)
    return Rates(flops, _exponentials(device), moved)


def _exponentials(device: torch.device) -> float:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        clock = getattr(properties, "clock_rate", 1_980_000) * 1e3  # kHz; an H200's where torch does not tell
        return 16 * properties.multi_processor_count * clock
    return torch.get_num_threads() * (_torch_exponentials() if find_spec("numba") is None else _kernel_exponentials())


def _torch_exponentials() -> float:
    """A second, of one thread."""
    numbers = torch.full((1 << 12,), -1.0)
    out = torch.empty_like(numbers)
    return numbers.numel() / _fastest(lambda: torch.exp(numbers, out=out), torch.device("cpu"))


def _kernel_exponentials() -> float:
    """A second, of one thread: the CPU kernels' own, which are faster than torch's."""
    import numba
    import numpy as np

    from halonet.ops.local_attention.numba_cpu.constants import LANES
    from halonet.ops.local_attention.numba_cpu.pointers import pointer_to
    from halonet.ops.local_attention.numba_cpu.vectors import exp, load, store

    rounds, numbers = 2000, np.full(6272, -1, np.float32)  # of 32 queries and 14 x 14 keys
    results = np.empty_like(numbers)

    @numba.njit
    def repeat(rounds, numbers, results):  # type: ignore[no-untyped-def]
        for _ in range(rounds):
            for index in range(0, numbers.size, LANES):
                values = load(pointer_to(numbers), index)  # type: ignore[call-arg, var-annotated]
                store(pointer_to(results), index, exp(values))

    return rounds * numbers.size / _fastest(lambda: repeat(rounds, numbers, results), torch.device("cpu"))


def _fastest(call: Callable[[], object], device: torch.device, rounds: int = 10) -> float:
    """Seconds of the fastest of a few calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        wait_for(device)
        times.append(time.perf_counter() - start)
    return min(times)
