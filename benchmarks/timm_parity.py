"""How far our op is from timm's HaloAttn with the same weights, output and every gradient, in float64.

    python -m benchmarks.timm_parity

Prints the largest absolute difference of each over random images and weights, block 8, halo 3, map 16 x 24.
"""

from __future__ import annotations

from itertools import product

import timm
import torch
from timm.layers.halo_attn import HaloAttn

import halonet
from halonet.layers.timm_attention import TimmHaloAttention


def differences(*, stride: int, scale_pos_embed: bool, backend: str) -> dict[str, float]:
    """Largest absolute difference of the output, and of the gradients of the image and of each parameter."""
    torch.manual_seed(0)
    layer = HaloAttn(32, 32, stride=stride, num_heads=4, scale_pos_embed=scale_pos_embed).double()
    image = torch.randn(2, 32, 16, 24, dtype=torch.float64, requires_grad=True)
    names = ["output", "image", *dict(layer.named_parameters())]
    results = []
    for output in (layer(image), TimmHaloAttention(layer, backend=backend)(image)):
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
        results.append([output, *torch.autograd.grad(output, [image, *layer.parameters()], weights)])
    return {
        name: float((theirs - ours).detach().abs().max()) for name, theirs, ours in zip(names, *results, strict=True)
    }


def main() -> None:
    """Prints the table."""
    print(f"halonet {halonet.__version__}, torch {torch.__version__}, timm {timm.__version__}, float64")
    cases = product((1, 2), (False, True), ("reference", "sdpa", "numba"))
    for index, (stride, scaled, backend) in enumerate(cases):
        row = differences(stride=stride, scale_pos_embed=scaled, backend=backend)
        if index == 0:
            print("stride  position  backend    " + "".join(f"{name.removeprefix('pos_embed.'):>12}" for name in row))
        figures = "".join(f"{value:12.1e}" for value in row.values())
        print(f"{stride:6}  {'scaled' if scaled else 'unscaled':8}  {backend:9}  {figures}")


if __name__ == "__main__":
    main()
