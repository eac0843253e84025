"""The least time an attention layer can take on this CPU: what it must multiply, exponentiate and move, at full speed.

    python -m benchmarks.floor [--threads 2]

Rates are measured: a large matrix product, exponentials in the first-level cache, a copy larger than the caches. The
floor of the op is the largest of the three times of its own; that of the layer adds its projections. A backward pass
makes the logits again and has four products beside (NOTES.md, "Backward"): 2.5 times the products of a forward pass,
and as many exponentials again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

from benchmarks.local_attention import MODES, STAGES, Stage
from halonet.analysis.speed.floor import Rates, Work, measure_rates, work_of
from halonet.analysis.speed.shapes import OpShape

FLOAT = 4  # bytes


@dataclass(frozen=True)
class LayerWork:
    """What one call of a layer cannot avoid: its projections and its op."""

    projection_flops: float
    op: Work

    def seconds(self, rates: Rates) -> float:
        """At full speed."""
        return self.op.seconds(rates) + self.projection_flops / rates.flops


def layer_work(stage: Stage, batch: int, mode: str) -> LayerWork:
    """The work of HaloAttention at a stage, float32."""
    channels, block, halo = stage.dim, (stage.block_size,) * 2, (stage.halo_size,) * 2
    width = channels // stage.num_heads
    shape = OpShape("", stage.size, stage.size, stage.num_heads, width, width, block, halo)
    projections = 2 * batch * stage.size**2 * channels * 3 * channels
    return LayerWork(projections * (1 if mode == MODES[0] else 3), work_of(shape, batch, mode, FLOAT))


def main() -> None:
    """Prints rates and floors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--batch", type=int, default=4, help="images (default 4)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rates = measure_rates(torch.device("cpu"), torch.float32)
    print(rates)
    for stage in STAGES.values():
        for mode in MODES:
            work = layer_work(stage, options.batch, mode)
            print(f"{stage!s:28} {mode:17} {work.seconds(rates) * 1e3:7.2f} ms at least")


if __name__ == "__main__":
    main()
