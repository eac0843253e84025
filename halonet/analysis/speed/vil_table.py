"""Figures 5 to 7 of Vision Longformer, on this machine: one attention layer on growing maps, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from halonet.analysis.speed.measuring import compare, describe, device_of, interleaved_times, print_setting
from halonet.analysis.speed.memory import MIB, Meter, memory_meter
from halonet.layers import LongformerAttention
from halonet.layers.longformer_attention import MASKINGS
from halonet.layers.token_attention import attend_all

PEERS = ("halonet", "sliding_chunk", "unfold", "full")
DIM, HEADS = 96, 3  # of the first stage of ViL-Small
WINDOW = 17  # of figures 5 and 6
WINDOWS = (9, 13, 17, 25, 33)
MOST = 6 * 1024.0  # MiB that a call may need by the estimate; what needs more is not run
TOLERANCE = 1e-4


class MaskedFullAttention(LongformerAttention):
    """The same attention as full attention under a mask, quadratic in tokens: what the paper checked with."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
        """Every token's attention to every one, (B, T, N, D)."""
        return attend_all(query, key, value, self._mask(size, query))

    def _mask(self, size: tuple[int, int], like: Tensor) -> Tensor:
        """(1, T, T): 0 where a token sees another, else a large negative number; windows only."""
        row, column = (torch.arange(side, device=like.device) for side in size)
        near = [(place[:, None] - place).abs() <= self.window // 2 for place in (row, column)]
        seen = like.new_ones(1, self.num_global + size[0] * size[1], self.num_global + size[0] * size[1])
        local = (near[0][:, None, :, None] & near[1][None, :, None, :]).flatten(2).flatten(0, 1)
        seen[0, self.num_global :, self.num_global :] = local.to(like.dtype)
        return (1 - seen) * torch.finfo(like.dtype).min


def vil_table(
    sides: Sequence[int], *, peers: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int
) -> dict[str, Any]:
    """Times and peak memory, printed as they come: implementations (figure 5), maskings (6) and windows (7).

    Implementations and maskings have windows of 17, implementations the exact one; all compute the same, which is
    checked first on a small map. Ratios are to the first.

    Args:
        sides: of square maps, in tokens.
        peers: implementations, among PEERS.

    Raises:
        ValueError: a peer that there is not, or a device that is not there.
        SystemExit: an implementation computes something else; nothing is timed.
    """
    unknown = [name for name in peers if name not in PEERS]
    if unknown:
        raise ValueError(f"peers must be among {', '.join(PEERS)}, got {unknown[0]!r}")
    on = device_of(device)
    setting = describe(device=on, dtype=str(dtype).removeprefix("torch."), batch=batch, rounds=rounds)
    print_setting(setting)
    check_peers(peers)
    makers: dict[str, dict[str, Callable[[], LongformerAttention]]] = {
        "implementations": {name: partial(layer_of, name) for name in peers},
        "maskings": {name: partial(layer_of, "halonet", masking=name) for name in MASKINGS},
        "windows": {f"{size}": partial(layer_of, "halonet", masking="chunk", window=size) for size in WINDOWS},
    }
    tables: dict[str, list[dict[str, Any]]] = {}
    with memory_meter(on) as meter:
        for title, layers in makers.items():
            print(f"\n{title}")
            tables[title] = [_measure(side, layers, batch, dtype, on, rounds, meter) for side in sides]
    return {"setting": setting, "tables": tables}


def layer_of(name: str, *, masking: str = "window", window: int = WINDOW) -> LongformerAttention:
    """A layer of the figures, with the same weights every time."""
    torch.manual_seed(0)
    kind = MaskedFullAttention if name == "full" else LongformerAttention
    backend = name if name in ("sliding_chunk", "unfold") else "auto"
    return kind(DIM, num_heads=HEADS, window=window, masking=masking, bias=False, backend=backend)


def check_peers(peers: Sequence[str], size: tuple[int, int] = (19, 22)) -> None:
    """Holds every implementation to the op's reference, output and gradients, in float64 on a map with cut chunks.

    Raises:
        SystemExit: one computes something else.
    """
    tokens = torch.randn(1, 1 + size[0] * size[1], DIM, dtype=torch.float64)
    exact = layer_of("halonet").double()
    exact.backend = "reference"
    expected = _results(exact, tokens, size)
    for name in peers:
        for got, one in zip(_results(layer_of(name).double(), tokens, size), expected, strict=True):
            share = ((got - one).abs().max() / one.abs().max()).item()
            if not share <= TOLERANCE:
                raise SystemExit(f"{name} differs from the reference by {share:.1e}; nothing is timed")


def _results(layer: LongformerAttention, tokens: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Output, and the gradients of a fixed weighted sum of it."""
    tokens = tokens.clone().requires_grad_()
    output = layer(tokens, size)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=output.dtype)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), [tokens, *layer.parameters()])]


def step_of(
    make: Callable[[], LongformerAttention], side: int, batch: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    """A forward and backward pass on a map of side x side."""
    layer = make().to(device=device, dtype=dtype)
    tokens = torch.randn(batch, 1 + side * side, DIM, device=device, dtype=dtype, requires_grad=True)

    def step() -> object:
        return torch.autograd.grad(layer(tokens, (side, side)).sum(), [tokens, *layer.parameters()])

    return step


def _estimate(name: str, side: int, batch: int) -> float:
    """MiB that an implementation's copies take, roughly."""
    tokens = batch * side * side
    if name == "full":
        return 4 * 4 * HEADS * tokens * side * side / MIB
    return 4 * 4 * tokens * DIM * WINDOW**2 / MIB if name == "unfold" else 0.0


def _measure(
    side: int,
    layers: dict[str, Callable[[], LongformerAttention]],
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
    rounds: int,
    meter: Meter,
) -> dict[str, Any]:
    needs = {name: _estimate(name, side, batch) for name in layers}
    run = {name: make for name, make in layers.items() if needs[name] <= MOST}
    peaks = {name: meter(partial(step_of, make, side, batch, dtype, device)) for name, make in run.items()}
    calls = {name: step_of(make, side, batch, dtype, device) for name, make in run.items()}
    rows: dict[str, dict[str, Any]] = compare(interleaved_times(calls, rounds, device), next(iter(run)))
    for name, row in rows.items():
        row["peak_mib"] = peaks[name]
        memory = "" if peaks[name] is None else f"{peaks[name]:9.1f} MiB"
        spread = f"{row['fastest_ms']:.1f} to {row['slowest_ms']:.1f}"
        ratio = f"{row['times_as_fast']:6.2f} times as fast"
        print(
            f"  {side:4d} x {side:<4d} {name:14} {row['median_ms']:10.1f} ms {spread:>22} {ratio} {memory}", flush=True
        )
    for name in layers.keys() - run.keys():
        rows[name] = {"refused": f"would need about {needs[name] / 1024:.0f} GiB"}
        print(f"  {side:4d} x {side:<4d} {name:14} not run: {rows[name]['refused']}")
    return {"side": side, "rows": rows}
