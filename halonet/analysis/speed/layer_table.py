"""Whole attention layers, projections included, beside timm's with the same weights, eager and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.halo_attn import HaloAttn
from torch import Tensor, nn

from halonet.analysis.speed.floor import layer_seconds, measure_rates
from halonet.analysis.speed.measuring import compare, describe, device_of, interleaved_times, print_setting
from halonet.analysis.speed.memory import memory_meter
from halonet.analysis.speed.op_table import TOLERANCES, Measuring
from halonet.analysis.speed.rows import MODES, geometric_means, print_means, print_rows
from halonet.analysis.speed.shapes import OpShape
from halonet.layers.timm_attention import TimmBottleneckAttention, TimmHaloAttention
from halonet.ops.local_attention.backends import BACKENDS

LAYERS = ("timm", "timm-compiled", "halonet", "halonet-compiled")


def layer_table(
    shapes: Iterable[OpShape], *, peers: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int
) -> dict[str, Any]:
    """Times of the layers at each shape, printed as they come; ratios are to the first.

    Maps are extended to whole blocks, which timm's layer needs. Outputs and gradients, of the image and every
    parameter, are compared with timm's in float64 first, on one image.

    Args:
        peers: among LAYERS; halonet:BACKEND too.

    Raises:
        ValueError: a layer that there is not, or a device that is not there.
        SystemExit: a layer computes something else; nothing of it is timed.
    """
    for name in peers:
        plain, _, backend = name.partition(":")
        if plain not in LAYERS or (backend and (plain != "halonet" or backend not in BACKENDS)):
            expected = f"{', '.join(LAYERS)}, or halonet:BACKEND with one of {', '.join(BACKENDS)}"
            raise ValueError(f"peers must be among {expected}, got {name!r}")
    on = device_of(device)
    setting = describe(device=on, dtype=str(dtype).removeprefix("torch."), batch=batch, rounds=rounds)
    print_setting(setting)
    rates = measure_rates(on, dtype)
    print(f"rates: {rates}")
    entries = []
    with memory_meter(on) as meter:
        measuring = Measuring(batch, dtype, on, rounds, rates, meter)
        for shape in map(_whole_blocks, shapes):
            print(f"\n{shape}")
            entries.append({"shape": asdict(shape), **_measure(shape, peers, measuring)})
    means = geometric_means(entries, peers)
    print_means(means, peers[0])
    return {"setting": setting, "rates": asdict(rates), "entries": entries, "geometric_mean": means}


def _whole_blocks(shape: OpShape) -> OpShape:
    height, width = (
        -(-size // block) * block for size, block in zip((shape.height, shape.width), shape.block_size, strict=True)
    )
    return replace(shape, height=height, width=width)


def _measure(shape: OpShape, peers: Sequence[str], measuring: Measuring) -> dict[str, Any]:
    """Rows by mode and peer."""
    batch, dtype, device = measuring.batch, measuring.dtype, measuring.device
    layers = {name: layer_of(name, shape, dtype, device) for name in peers}
    image = _image(shape, batch, dtype, device)
    for name, layer in layers.items():
        check(name, layer, shape, image[:1])
    entry: dict[str, Any] = {}
    for mode in MODES:
        peaks = {name: measuring.meter(partial(call_of, name, shape, mode, batch, dtype, device)) for name in peers}
        calls = {name: _call(layer, image, mode) for name, layer in layers.items()}
        rows = compare(interleaved_times(calls, measuring.rounds, device), peers[0])
        floor = layer_seconds(shape, batch, mode, image.element_size(), measuring.rates) * 1e3
        entry[mode] = {
            name: row | {"peak_mib": peaks[name], "of_floor": row["median_ms"] / floor} for name, row in rows.items()
        }
        print_rows(mode, entry[mode])
    return entry


def _image(shape: OpShape, batch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(1)
    size = (batch, shape.num_heads * shape.key_dim, shape.height, shape.width)
    return torch.randn(size, generator=generator, device=device, dtype=dtype)


def layer_of(name: str, shape: OpShape, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """timm's layer of the shape, or ours that takes its weights over; the same weights every time."""
    torch.manual_seed(0)
    dim, dim_out = shape.num_heads * shape.key_dim, shape.num_heads * shape.value_dim
    options: dict[str, Any] = {"num_heads": shape.num_heads, "qk_ratio": shape.key_dim / shape.value_dim}
    theirs: nn.Module
    if shape.is_global:
        theirs = BottleneckAttn(dim, dim_out, feat_size=shape.block_size, scale_pos_embed=True, **options)
    else:
        options |= {"block_size": shape.block_size[0], "halo_size": shape.halo_size[0], "stride": shape.stride}
        theirs = HaloAttn(dim, dim_out, scale_pos_embed=True, **options)
    ours = TimmBottleneckAttention if shape.is_global else TimmHaloAttention
    layer = theirs if name.startswith("timm") else ours(theirs, backend=name.partition(":")[2] or "auto")
    layer = layer.to(device=device, dtype=dtype)
    if name.endswith("-compiled"):
        layer.compile(dynamic=False)  # each shape its own code, as a model of one image size has it
    return layer


def check(name: str, layer: nn.Module, shape: OpShape, image: Tensor) -> float:
    """Largest difference of a layer from timm's own in float64, as a share of the largest value.

    Raises:
        SystemExit: output or a gradient differ by more than the dtype's tolerance.
    """
    exact = layer_of("timm", shape, torch.float32, torch.device("cpu")).double()
    exact.load_state_dict({key: tensor.double().cpu() for key, tensor in layer.state_dict().items()})
    expected = _results(exact, image.detach().double().cpu())
    worst = 0.0
    for what, got in _results(layer, image.detach()).items():
        share = ((got.double().cpu() - expected[what]).abs().max() / expected[what].abs().max()).item()
        if math.isnan(share) or share > TOLERANCES[image.dtype]:
            raise SystemExit(f"{shape}: {name} differs from timm in {what} by {share:.1e}; nothing is timed")
        worst = max(worst, share)
    return worst


def _results(layer: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Output, and gradients of a fixed weighted sum of it."""
    inputs = {"image": image.clone().requires_grad_(), **dict(layer.named_parameters())}
    output = layer(inputs["image"])
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    gradients = torch.autograd.grad(output, list(inputs.values()), weights)
    return {"output": output.detach()} | {f"the gradient of {key}": g for key, g in zip(inputs, gradients, strict=True)}


def call_of(
    name: str, shape: OpShape, mode: str, batch: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    """A call of a layer of its own."""
    return _call(layer_of(name, shape, dtype, device), _image(shape, batch, dtype, device), mode)


def _call(layer: nn.Module, image: Tensor, mode: str) -> Callable[[], object]:
    def forward() -> object:
        with torch.no_grad():
            return layer(image)

    def step() -> object:
        inputs = [image.requires_grad_(), *layer.parameters()]
        output = layer(image)
        return torch.autograd.grad(output, inputs, torch.ones_like(output))

    return forward if mode == MODES[0] else step
