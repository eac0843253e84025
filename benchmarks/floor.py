"""The least time an attention layer can take on this CPU: what it must multiply, exponentiate and move, at full speed.

    python -m benchmarks.floor [--threads 2]

Rates are measured: a large matrix product, exponentials in the first-level cache, a copy larger than the caches. The
floor of the op is the largest of the three times of its own; that of the layer adds its projections. A backward pass
makes the logits again and has four products beside (NOTES.md, "Backward"): 2.5 times the products of a forward pass,
and as many exponentials again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import torch

from benchmarks.local_attention import MODES, STAGES, Stage

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Rates:
    """A second's worth of the machine, all threads together."""

    flops: float
    exponentials: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """What one call of a layer cannot avoid. Keys outside the map are not counted: their sum needs none of them."""

    projection_flops: float
    flops: float
    exponentials: float
    bytes: float

    def seconds(self, rates: Rates) -> float:
        """At full speed."""
        own = max(self.flops / rates.flops, self.exponentials / rates.exponentials, self.bytes / rates.bytes)
        return own + self.projection_flops / rates.flops


def work_of(stage: Stage, batch: int, mode: str) -> Work:
    """The work of HaloAttention at a stage, float32."""
    blocks = stage.size // stage.block_size
    edges = [
        min(stage.size, (i + 1) * stage.block_size + stage.halo_size) - max(0, i * stage.block_size - stage.halo_size)
        for i in range(blocks)
    ]
    keys = sum(edges) ** 2 / blocks**2  # that a query meets, in the mean
    queries, channels = batch * stage.size**2, stage.dim
    side = stage.block_size + 2 * stage.halo_size
    products = 2 * queries * channels * 2 * keys
    position = 2 * queries * channels * 2 * side
    projections = 2 * queries * channels * 3 * channels
    exponentials = queries * stage.num_heads * keys
    moved = 4 * queries * channels * FLOAT  # q, k, v, output
    if mode == MODES[0]:
        return Work(projections, products + position, exponentials, moved)
    # dq, dk, dv and the gradient of the weights, and the logits again; q, k, v, output and its gradient, dq, dk, dv.
    return Work(3 * projections, 3.5 * products + 4 * position, 2 * exponentials, 3 * moved)


def measure_rates() -> Rates:
    """Of this machine with torch's number of threads."""
    size = 1536
    left, right, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    flops = 2 * size**3 / _fastest(lambda: torch.mm(left, right, out=out))
    source = torch.empty(1 << 26)
    target = torch.empty_like(source).copy_(source)
    moved = 2 * FLOAT * source.numel() / _fastest(lambda: target.copy_(source))
    return Rates(flops, _exponentials() * torch.get_num_threads(), moved)


def _exponentials() -> float:
    """A second, of one thread: the kernels' own, which are faster than torch's."""
    from halonet.ops.local_attention.numba_cpu.constants import CHUNK
    from halonet.ops.local_attention.numba_cpu.forward import exponentiate
    from halonet.ops.local_attention.numba_cpu.layout import Scratch

    count, rounds = 196, 2000
    empty, places = np.zeros(CHUNK, np.float32), np.zeros(2, np.int64)
    scores = np.full(count * CHUNK, -1, np.float32)
    buffers = dict.fromkeys(Scratch._fields, empty) | {"place": places, "pixel": places, "scores": scores}
    scratch = Scratch(**buffers)

    @numba.njit
    def repeat(rounds, count, scratch):  # type: ignore[no-untyped-def]
        for _ in range(rounds):
            exponentiate(count, scratch)

    return rounds * count * CHUNK / _fastest(lambda: repeat(rounds, count, scratch))


def _fastest(call: Callable[[], object], rounds: int = 7) -> float:
    """Seconds of the fastest of a few calls."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Prints rates and floors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--batch", type=int, default=4, help="images (default 4)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rates = measure_rates()
    flops, exponentials, moved = (rate / 1e9 for rate in (rates.flops, rates.exponentials, rates.bytes))
    print(f"{flops:.0f} GFLOP/s, {exponentials:.1f} G exponentials/s, {moved:.1f} GB/s")
    for stage in STAGES.values():
        for mode in MODES:
            work = work_of(stage, options.batch, mode)
            print(f"{stage!s:28} {mode:17} {work.seconds(rates) * 1e3:7.2f} ms at least")


if __name__ == "__main__":
    main()
