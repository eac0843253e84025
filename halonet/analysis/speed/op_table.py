"""The op beside its peers, at stages of models or along growing maps: gate, times, memory, distance to the floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from halonet.analysis.speed.floor import Rates, measure_rates, work_of
from halonet.analysis.speed.measuring import compare, describe, device_of, interleaved_times, print_setting
from halonet.analysis.speed.memory import Meter, memory_meter
from halonet.analysis.speed.peers import PEERS, Peer, ours
from halonet.analysis.speed.rows import MODES, geometric_means, print_means, print_rows
from halonet.analysis.speed.shapes import OpShape, stages_of

# Of the largest value: what two ways of adding up the same numbers may differ by.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
Report = dict[str, Any]


@dataclass(frozen=True)
class Measuring:
    """What all measurements of a table share."""

    batch: int
    dtype: torch.dtype
    device: torch.device
    rounds: int
    rates: Rates
    meter: Meter


def op_table(
    shapes: Iterable[OpShape], *, peers: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int
) -> Report:
    """Times of the peers at each shape, printed as they come; ratios are to the first peer.

    A peer that computes the same is compared with the reference in float64 first, output and gradients, on one image.

    Raises:
        ValueError: a peer that there is not, or a device that is not there.
        SystemExit: a peer computes something else; nothing of it is timed.
    """
    chosen, on = chosen_peers(peers), device_of(device)
    setting = describe(device=on, dtype=_name(dtype), batch=batch, rounds=rounds)
    print_setting(setting)
    rates = measure_rates(on, dtype)
    print(f"rates: {rates}", *(f"{name}: {peer.what}" for name, peer in chosen.items()), sep="\n")
    entries = []
    with memory_meter(on) as meter:
        measuring = Measuring(batch, dtype, on, rounds, rates, meter)
        for shape in shapes:
            print(f"\n{shape}")
            entry: Report = {"shape": asdict(shape)}
            for mode in MODES:
                entry[mode] = _measure(shape, mode, chosen, measuring)
                print_rows(mode, entry[mode])
            entries.append(entry)
    means = geometric_means(entries, peers)
    print_means(means, peers[0])
    return {"setting": setting, "rates": asdict(rates), "entries": entries, "geometric_mean": means}


def scaling_table(
    sides: Sequence[int], *, peers: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int
) -> Report:
    """As `op_table`, on square maps of growing side at the channels of H0's first stage: the cost a pixel."""
    first = replace(stages_of("halonet_h0_256")[0])
    shapes = [replace(first, label=f"side {side}", height=side, width=side) for side in sides]
    report = op_table(shapes, peers=peers, batch=batch, dtype=dtype, device=device, rounds=rounds)
    print(f"\nnanoseconds a pixel, {MODES[0]} / {MODES[1]}")
    for entry in report["entries"]:
        side = entry["shape"]["height"]
        for name in peers:
            rows = [entry[mode].get(name, {}) for mode in MODES]
            for row in rows:
                if "median_ms" in row:
                    row["ns_per_pixel"] = row["median_ms"] * 1e6 / (batch * side**2)
            told = " / ".join(f"{row['ns_per_pixel']:.1f}" if "median_ms" in row else "-" for row in rows)
            print(f"  {side:5} {name:10} {told}")
    return report


def _measure(shape: OpShape, mode: str, peers: Mapping[str, Peer], measuring: Measuring) -> Report:
    """Rows of the peers that take part, and the reasons of those that do not."""
    batch, dtype, device = measuring.batch, measuring.dtype, measuring.device
    rows: Report = {}
    calls: dict[str, Callable[[], object]] = {}
    tensors = shape.tensors(batch, dtype, device)
    for name, peer in peers.items():
        reason = peer.refusal(shape, device, mode)
        if reason is not None:
            rows[name] = {"refused": reason}
            continue
        try:
            if peer.same:
                check(name, peer, shape, mode, dtype=dtype, device=device)
            peak = measuring.meter(partial(call_of, name, shape, mode, batch, dtype, device))
        except torch.OutOfMemoryError:
            rows[name] = {"refused": "out of memory"}
            continue
        calls[name] = _call(peer, shape, tensors, mode)
        rows[name] = {"peak_mib": peak}
    if not calls:
        return rows
    floor = work_of(shape, batch, mode, tensors["query"].element_size()).seconds(measuring.rates) * 1e3
    first = next(iter(calls))
    for name, row in compare(interleaved_times(calls, measuring.rounds, device), first).items():
        rows[name] |= row | {"of_floor": row["median_ms"] / floor}
    return rows


def call_of(
    name: str, shape: OpShape, mode: str, batch: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    """A call of a peer on tensors of its own."""
    return _call(PEERS[name], shape, shape.tensors(batch, dtype, device), mode)


def _call(peer: Peer, shape: OpShape, tensors: Mapping[str, Tensor], mode: str) -> Callable[[], object]:
    if mode == "forward":
        plain = {name: tensor.detach() for name, tensor in tensors.items()}

        def forward() -> Tensor:
            with torch.no_grad():
                return peer.run(shape, plain)

        return forward
    inputs = list(tensors.values())

    def step() -> object:
        output = peer.run(shape, tensors)
        return torch.autograd.grad(output, inputs, torch.ones_like(output), allow_unused=True)

    return step


def check(name: str, peer: Peer, shape: OpShape, mode: str, *, dtype: torch.dtype, device: torch.device) -> float:
    """Largest difference of a peer from the reference in float64, on one image, as a share of the largest value.

    Raises:
        SystemExit: it is larger than the dtype's tolerance, or not a number.
    """
    small = replace(shape, height=min(shape.height, 4 * shape.block_size[0]), width=min(shape.width, 64))
    tensors = small.tensors(1, dtype, device)
    exact = {key: tensor.detach().double().cpu().requires_grad_() for key, tensor in tensors.items()}
    expected = _results(Peer("", lambda *given: ours(*given, backend="reference")), small, exact, mode)
    worst = 0.0
    for got, want in zip(_results(peer, small, tensors, mode), expected, strict=True):
        share = ((got.double().cpu() - want).abs().max() / want.abs().max()).item()
        worst = share if math.isnan(share) else max(worst, share)
        if not worst <= TOLERANCES[dtype]:
            raise SystemExit(f"{shape}: {name} differs from the reference by {worst:.1e}; nothing is timed")
    return worst


def _results(peer: Peer, shape: OpShape, tensors: Mapping[str, Tensor], mode: str) -> list[Tensor]:
    if mode == "forward":
        with torch.no_grad():
            return [peer.run(shape, {name: tensor.detach() for name, tensor in tensors.items()})]
    output = peer.run(shape, tensors)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    return [output.detach(), *torch.autograd.grad(output, list(tensors.values()), weights)]


def chosen_peers(names: Sequence[str]) -> dict[str, Peer]:
    """The peers of those names.

    Raises:
        ValueError: a name that there is not.
    """
    for name in names:
        if name not in PEERS:
            raise ValueError(f"peers must be among {', '.join(PEERS)}, got {name!r}")
    return {name: PEERS[name] for name in names}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
