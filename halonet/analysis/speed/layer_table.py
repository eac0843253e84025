"""Whole attention layers, projections included, beside timm's with the same weights, eager and compiled."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from timm.layers.halo_attn import HaloAttn
from torch import Tensor, nn

from halonet.analysis.speed.measuring import compare, describe, device_of, interleaved_times, peak_memory, print_setting
from halonet.analysis.speed.op_table import MODES, TOLERANCES, geometric_means
from halonet.analysis.speed.shapes import OpShape
from halonet.layers.timm_attention import TimmHaloAttention

LAYERS = ("timm", "timm-compiled", "halonet", "halonet-compiled")


def layer_table(
    shapes: Iterable[OpShape], *, peers: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int
) -> dict[str, Any]:
    """Times of the layers at each shape, printed as they come; ratios are to the first.

    Maps are extended to whole blocks, which timm's layer needs. Outputs and gradients of the image are compared with
    timm's in float64 first, on one image.

    Raises:
        ValueError: a layer that there is not, or a device that is not there.
        SystemExit: a layer computes something else; nothing of it is timed.
    """
    for name in peers:
        if name not in LAYERS:
            raise ValueError(f"peers must be among {', '.join(LAYERS)}, got {name!r}")
    on = device_of(device)
    setting = describe(device=on, dtype=str(dtype).removeprefix("torch."), batch=batch, rounds=rounds)
    print_setting(setting)
    entries = []
    for shape in shapes:
        side = -(-shape.height // shape.block_size[0]) * shape.block_size[0]
        print(f"\n{shape}")
        entry: dict[str, Any] = {"shape": asdict(shape), "side": side}
        layers = {name: layer_of(name, shape, dtype, on) for name in peers}
        image = torch.randn(batch, shape.num_heads * shape.key_dim, side, side, device=on, dtype=dtype)
        for name, layer in layers.items():
            check(name, layer, shape, image[:1])
        for mode in MODES:
            calls = {name: _call(layer, image, mode) for name, layer in layers.items()}
            for call in calls.values():
                call()
            peaks = {name: peak_memory(call, on) for name, call in calls.items()}
            entry[mode] = compare(interleaved_times(calls, rounds, on), peers[0])
            for name, row in entry[mode].items():
                row["peak_mib"] = peaks[name]
                memory = "" if peaks[name] is None else f", {peaks[name]:.1f} MiB"
                print(
                    f"  {mode:17} {name:17} {row['median_ms']:9.3f} ms {row['fastest_ms']:9.3f} to "
                    f"{row['slowest_ms']:.3f} {row['times_as_fast']:7.2f} times as fast{memory}",
                    flush=True,
                )
        entries.append(entry)
    return {"setting": setting, "entries": entries, "geometric_mean": geometric_means(entries, peers)}


def layer_of(name: str, shape: OpShape, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """timm's layer of the shape, or ours that takes its weights over; the same weights every time."""
    torch.manual_seed(0)
    theirs = HaloAttn(
        shape.num_heads * shape.key_dim,
        shape.num_heads * shape.value_dim,
        stride=shape.stride,
        num_heads=shape.num_heads,
        block_size=shape.block_size[0],
        halo_size=shape.halo_size[0],
        qk_ratio=shape.key_dim / shape.value_dim,
        scale_pos_embed=True,
    )
    layer = theirs if name.startswith("timm") else TimmHaloAttention(theirs)
    layer = layer.to(device=device, dtype=dtype)
    if name.endswith("-compiled"):
        layer.compile(dynamic=False)  # each shape its own code, as a model of one image size has it
    return layer


def check(name: str, layer: nn.Module, shape: OpShape, image: Tensor) -> None:
    """Compares a layer with timm's own in float64.

    Raises:
        SystemExit: output or gradient of the image differ by more than the dtype's tolerance of the largest value.
    """
    exact = layer_of("timm", shape, torch.float32, torch.device("cpu")).double()
    own = {key: tensor.double().cpu() for key, tensor in layer.state_dict().items()}
    exact.load_state_dict(own)
    expected = _results(exact, image.detach().double().cpu())
    for what, got, want in zip(
        ("output", "the image's gradient"), _results(layer, image.detach()), expected, strict=True
    ):
        share = ((got.double().cpu() - want).abs().max() / want.abs().max()).item()
        if math.isnan(share) or share > TOLERANCES[image.dtype]:
            raise SystemExit(f"{shape}: {name} differs from timm in {what} by {share:.1e}; nothing is timed")


def _results(layer: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    image = copy.copy(image).requires_grad_()
    output = layer(image)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    return output.detach(), torch.autograd.grad(output, image, weights)[0]


def _call(layer: nn.Module, image: Tensor, mode: str) -> Callable[[], object]:
    def forward() -> object:
        with torch.no_grad():
            return layer(image)

    def step() -> object:
        inputs = [image.requires_grad_(), *layer.parameters()]
        output = layer(image)
        return torch.autograd.grad(output, inputs, torch.ones_like(output))

    return forward if mode == MODES[0] else step
