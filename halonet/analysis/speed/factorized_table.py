"""Figure 4 of Shen et al., measured on this machine: factorized beside non-local attention on growing maps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from halonet.analysis.complexity import Sizes, complexity
from halonet.analysis.complexity_plot import SMALL_GPU
from halonet.analysis.speed.measuring import compare, describe, device_of, interleaved_times, print_setting
from halonet.analysis.speed.memory import MIB, Meter, memory_meter
from halonet.analysis.speed.op_table import TOLERANCES
from halonet.analysis.speed.rows import MODES
from halonet.layers import FactorizedAttention, NonLocal
from halonet.layers.whole_map_attention import WholeMapAttention
from halonet.ops import nonlocal_attention
from halonet.ops.factorized_attention import KINDS

PEERS = ("factorized", "nonlocal", "nonlocal-fused")
CHANNELS, BASIS = 64, 32  # of figure 4, which has the form "dot" of figure 3
EXACT = 1e-9  # of the largest value: what float64 may differ by
MODULES = {"factorized": "FA-dot", "nonlocal": "CA-dot"}  # rows of Table 9; it has none for a fused kernel
# Floats a pixel that a call needs beside maps of all pixels to all, as measured forward and backward, rounded up.
FLOATS_A_PIXEL = {"factorized": 400, "nonlocal": 400, "nonlocal-fused": 2000}
MOST_SECONDS = 60.0  # that a pass may take, by the last smaller map; what takes longer is not run
_UNTOLD = 8e9  # bytes that a machine is taken to have free that does not tell
_MEMORY = Path("/proc/meminfo")

Rows = dict[str, dict[str, Any]]
Entry = dict[str, Any]


class WrittenMixture(FactorizedAttention):
    """Factorized attention by way of the map of all positions to all that it stands for (section 3.3)."""

    def attend(self, first: Tensor, second: Tensor, value: Tensor) -> Tensor:
        """Coefficients (B, S, N, D), basis (B, S, N, D) and values (B, S, N, Dv) -> (B, S, N, Dv)."""
        if self.kind == "gaussian":
            first, second = first.softmax(dim=3), second.softmax(dim=1) * second.shape[3]
        return nonlocal_attention(first, second, value, kind="dot")


@dataclass(frozen=True)
class _Run:
    """What all measurements share. limit: bytes that a call may need by the estimate."""

    batch: int
    dtype: torch.dtype
    device: torch.device
    rounds: int
    limit: float
    meter: Meter


def factorized_table(
    sides: Sequence[int],
    *,
    peers: Sequence[str],
    batch: int,
    dtype: torch.dtype,
    device: str,
    rounds: int,
    limit_gib: float | None = None,
) -> dict[str, Any]:
    """Times and peak memory of layers on square maps, forward and with backward, printed as they come.

    The layers are those of figure 4: 64 channels, a basis (or keys) of 32, no value bottleneck. "nonlocal" writes the
    whole map, as the paper counts; "nonlocal-fused" is our kernel, of the kind "gaussian" only. What each computes is
    checked first on a small map, and what would need more memory than the limit is not run. Ratios are to the first.

    Args:
        sides: of the maps, in pixels.
        peers: among PEERS.
        limit_gib: memory that a call may need by a rough estimate; half of what is free if None, 8e9 bytes at most.
            Passes of more than MOST_SECONDS, as smaller maps tell, are not run either.

    Returns:
        "setting"; "tables" by kind, an entry a side with the rows of each mode, where memory is in bytes and
        "closed_form_bytes" is Table 9's for a forward pass in single precision; "growth", see `growth_of`;
        "threshold" in bytes, and "first_over", see `first_over`.

    Raises:
        ValueError: a peer that there is not, or a device that is not there.
        SystemExit: a peer computes something else; nothing is timed.
    """
    unknown = [name for name in peers if name not in PEERS]
    if unknown:
        raise ValueError(f"peers must be among {', '.join(PEERS)}, got {unknown[0]!r}")
    on = device_of(device)
    limit = default_limit(on) if limit_gib is None else limit_gib * 2**30
    layer = f"{CHANNELS} channels, basis {BASIS}"
    setting = describe(
        device=on,
        dtype=str(dtype).removeprefix("torch."),
        batch=batch,
        rounds=rounds,
        layer=layer,
        limit=f"{limit / 1e9:.1f} GB",
    )
    print_setting(setting)
    check_peers(peers, dtype=dtype, device=on)
    tables: dict[str, list[Entry]] = {}
    with memory_meter(on) as meter:
        measuring = _Run(batch, dtype, on, rounds, limit, meter)
        for kind in KINDS:
            print(f"\n{kind}")
            tables[kind] = []
            for side in sorted(set(sides)):
                tables[kind].append(_entry(side, kind, peers, measuring, tables[kind]))
    growth = {kind: growth_of(entries) for kind, entries in tables.items()}
    over = {kind: first_over(entries, batch=batch) for kind, entries in tables.items()}
    _print_growth(growth)
    _print_first(over)
    return {"setting": setting, "tables": tables, "growth": growth, "threshold": SMALL_GPU, "first_over": over}


def default_limit(device: torch.device) -> float:
    """Bytes: half of what the device has free, for others run beside it, and at most 8e9."""
    if device.type == "cuda":
        free = float(torch.cuda.mem_get_info(device)[0])
    else:
        lines = _MEMORY.read_text().splitlines() if _MEMORY.exists() else []
        told = (int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable:"))
        free = next(told, _UNTOLD)
    return min(SMALL_GPU, free / 2)


def layer_of(name: str, kind: str) -> WholeMapAttention:
    """A layer of figure 4, with the same weights every time, none of them 0."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"form": "dot", "kind": kind, "channels": BASIS}
    layer: WholeMapAttention
    if name in ("factorized", "written"):
        layer = (FactorizedAttention if name == "factorized" else WrittenMixture)(CHANNELS, **options)
    else:
        layer = NonLocal(CHANNELS, backend="materialized" if name == "nonlocal" else "auto", **options)
    for projection in layer.projections.values():  # layers begin as the identity, which would hide what they do
        nn.init.normal_(projection.get_parameter("weight"), std=0.1)
    return layer


def check_peers(
    peers: Sequence[str], *, dtype: torch.dtype, device: torch.device, size: tuple[int, int] = (9, 11)
) -> None:
    """Holds the layers to those that write the whole map, output and gradients, on a small map.

    Factorized attention of the kind "dot" is held to non-local attention, of the kind "gaussian" to the map that it
    stands for; the fused kernel to the written map. In float64, then as they are timed, the other side in float64.

    Raises:
        SystemExit: one computes something else.
    """
    pairs = [("factorized", "nonlocal", "dot"), ("factorized", "written", "gaussian")]
    pairs.append(("nonlocal-fused", "nonlocal", "gaussian"))
    for numbers, on in ((torch.float64, torch.device("cpu")), (dtype, device)):
        x = torch.randn(2, CHANNELS, *size, generator=torch.Generator().manual_seed(1)).to(numbers)
        for name, other, kind in pairs:
            if name not in peers:
                continue
            layer, exact = (layer_of(one, kind).to(numbers) for one in (name, other))
            expected = _results(exact.double(), x.double())
            for got, want in zip(_results(layer.to(on), x.to(on)), expected, strict=True):
                share = ((got.double().cpu() - want).abs().max() / want.abs().max()).item()
                if not share <= TOLERANCES.get(numbers, EXACT):
                    what = f"{name} of the kind {kind} in {str(numbers).removeprefix('torch.')}"
                    raise SystemExit(f"{what} differs from the whole map by {share:.1e}; nothing is timed")


def _results(layer: WholeMapAttention, x: Tensor) -> list[Tensor]:
    """Output, and the gradients of a fixed weighted sum of it."""
    x = x.clone().requires_grad_()
    output = layer(x)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    return [output.detach(), *torch.autograd.grad(output, [x, *layer.parameters()], weights)]


def step_of(
    name: str, kind: str, mode: str, side: int, batch: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    """A pass on a map of side x side, forward or forward and backward."""
    layer = layer_of(name, kind).to(device=device, dtype=dtype)
    x = torch.randn(batch, CHANNELS, side, side, device=device, dtype=dtype)
    if mode == "forward":
        return torch.no_grad()(partial(layer, x))
    inputs = [x.requires_grad_(), *layer.parameters()]

    def step() -> object:
        return torch.autograd.grad(layer(x).sum(), inputs)

    return step


def estimate(name: str, kind: str, mode: str, side: int, *, batch: int, dtype: torch.dtype) -> float:
    """Bytes that a call needs, roughly.

    Of maps of all pixels to all, in single precision at least: of "dot" the scores, of "gaussian" the weights too; for
    the backward pass a gradient more.
    """
    pixels = side**2
    maps = (1 + (kind == "gaussian") + (mode != "forward")) if name == "nonlocal" else 0
    width = torch.promote_types(dtype, torch.float32).itemsize
    return float(width * batch * (maps * pixels**2 + FLOATS_A_PIXEL[name] * pixels))


def closed_form(name: str, side: int, *, batch: int) -> int | None:
    """Bytes of a forward pass by Table 9, in single precision: (2b + 3c) s + bc or (2k + 3c) s + s^2 floats an image.

    It counts each result once, whether or not it is freed on the way. None for what the table has no row of.
    """
    sizes = Sizes(side**2, CHANNELS, BASIS, BASIS)
    return batch * complexity(MODULES[name], sizes, counting="paper").bytes if name in MODULES else None


def _entry(side: int, kind: str, peers: Sequence[str], measuring: _Run, before: Sequence[Entry]) -> Entry:
    """Rows of a map. before: the entries of smaller ones, by whose times a pass may be found too long."""
    entry: Entry = {"side": side}
    taking_part = [name for name in peers if name != "nonlocal-fused" or kind == "gaussian"]
    for mode in MODES:
        expected = {name: expected_seconds(side, mode, name, before) for name in taking_part}
        entry[mode] = _measure(side, kind, mode, expected, measuring)
        for name, row in entry[mode].items():
            print(f"  {side:4d} x {side:<4d} {mode:17} {name:15} {_told(row)}", flush=True)
    return entry


def expected_seconds(side: int, mode: str, name: str, before: Sequence[Entry]) -> float:
    """Of one pass, by the last map that was measured, if any: work grows with pixels, or with their pairs."""
    last, row = next(iter(reversed(list(_measured(before, mode, name)))), (side, {"median_ms": 0.0}))
    seconds: float = row["median_ms"] / 1e3 * (side / last) ** (2 if name == "factorized" else 4)
    return seconds


def _measure(side: int, kind: str, mode: str, peers: Mapping[str, float], measuring: _Run) -> Rows:
    """Rows of the peers that are run, and the reasons of those that are not. peers: with the seconds expected."""
    batch, dtype, device = measuring.batch, measuring.dtype, measuring.device
    rows: Rows = {}
    calls: dict[str, Callable[[], object]] = {}
    for name in peers:
        rows[name] = {"closed_form_bytes": closed_form(name, side, batch=batch)} if mode == "forward" else {}
        needed = estimate(name, kind, mode, side, batch=batch, dtype=dtype)
        if needed > measuring.limit:
            rows[name] |= {"refused": f"would need about {needed / 1e9:.1f} GB"}
            continue
        if peers[name] > MOST_SECONDS:
            rows[name] |= {"refused": f"would take about {peers[name]:.0f} s a pass"}
            continue
        make = partial(step_of, name, kind, mode, side, batch, dtype, device)
        try:
            peak = measuring.meter(make)
        except torch.OutOfMemoryError:
            rows[name] |= {"refused": "out of memory"}
            continue
        rows[name]["peak_bytes"] = None if peak is None else peak * MIB
        calls[name] = make()
    if calls:
        times = interleaved_times(calls, measuring.rounds, device)
        for name, row in compare(times, next(iter(calls))).items():
            rows[name] |= row
    return rows


def _told(row: Mapping[str, Any]) -> str:
    form = row.get("closed_form_bytes")
    counted = "" if form is None else f" (closed form {form / 1e6:.1f} MB)"
    if "refused" in row:
        return f"not run: {row['refused']}{counted}"
    spread = f"{row['fastest_ms']:.1f} to {row['slowest_ms']:.1f}"
    memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:9.1f} MB"
    ratio = f"{row['times_as_fast']:8.4f} times as fast"
    return f"{row['median_ms']:10.1f} ms {spread:>22} {ratio} {memory}{counted}"


def growth_of(entries: Sequence[Entry]) -> dict[str, Rows]:
    """By mode and peer, the powers of the pixels with which "time" and "memory" grew over the last two sides measured.

    "sides" are those two; what was not measured at two has no row, and no "memory" where that is not told.
    """
    growth: dict[str, Rows] = {}
    for mode in MODES:
        growth[mode] = {}
        for name in entries[0][mode] if entries else ():
            points = list(_measured(entries, mode, name))[-2:]
            if len(points) == 2:
                row: dict[str, Any] = {"sides": [side for side, _ in points]}
                for label, figure in (("time", "median_ms"), ("memory", "peak_bytes")):
                    row[label] = _slope([(side**2, at[figure]) for side, at in points])
                growth[mode][name] = row
    return growth


def _measured(entries: Sequence[Entry], mode: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Sides and rows of what was run."""
    for entry in entries:
        row = entry[mode].get(name, {"refused": ""})
        if "refused" not in row:
            yield entry["side"], row


def _slope(points: Sequence[tuple[int, float | None]]) -> float | None:
    """Of the line through two points on logarithmic scales; None where one is not known or 0."""
    (first, low), (second, high) = points
    return math.log(high / low) / math.log(second / first) if low and high else None


def first_over(entries: Sequence[Entry], *, batch: int, threshold: float = SMALL_GPU) -> dict[str, Any]:
    """The least side of a square map of which "nonlocal" needs more than the threshold, in bytes.

    Returns:
        "closed_form", the side by Table 9, of a forward pass; and of each mode None or "side", by "bytes_per_pair" of
        pixels, measured at "last_side", the largest measured that needs no more than the threshold, "last_bytes".
        What grows with pixels alone is there taken to grow with pairs: a percent or two at a side of 128.
    """
    over: dict[str, Any] = {
        "closed_form": _first(lambda side: closed_form("nonlocal", side, batch=batch) or 0, threshold)
    }
    for mode in MODES:
        under = [
            (side, row["peak_bytes"])
            for side, row in _measured(entries, mode, "nonlocal")
            if row["peak_bytes"] and row["peak_bytes"] <= threshold
        ]
        over[mode] = None
        if under:
            last, peak = under[-1]
            pair = peak / (batch * last**4)
            first = _first(partial(_of_pairs, batch * pair), threshold)
            over[mode] = {"side": first, "bytes_per_pair": pair, "last_side": last, "last_bytes": peak}
    return over


def _of_pairs(bytes_per_pair: float, side: int) -> float:
    return bytes_per_pair * side**4


def _first(needs: Callable[[int], float], threshold: float) -> int:
    """The least side that needs more."""
    return 1 + bisect_right(range(1, 2**20), threshold, key=needs)


def _print_growth(growth: Mapping[str, Mapping[str, Rows]]) -> None:
    print("\npowers of the pixels with which time and memory grow, over the two largest maps measured")
    for kind, modes in growth.items():
        for mode, rows in modes.items():
            for name, row in rows.items():
                time, memory = ("-" if row[key] is None else f"{row[key]:.2f}" for key in ("time", "memory"))
                from_to = " to ".join(map(str, row["sides"]))
                print(f"  {kind:8} {mode:17} {name:15} time {time}, memory {memory}, sides {from_to}")


def _print_first(over: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"\nthe first map of which nonlocal needs more than {SMALL_GPU / 1e9:g} GB")
    print(f"  by the closed form, forward     {next(iter(over.values()))['closed_form']:4} a side")
    for kind, row in over.items():
        for mode in MODES:
            at = row[mode]
            if at is None:
                print(f"  {kind:8} {mode:17}      not measured")
                continue
            last = f"{at['last_bytes'] / 1e9:.2f} GB at {at['last_side']}, the largest measured under it"
            print(
                f"  {kind:8} {mode:17}      {at['side']:4} a side, by {at['bytes_per_pair']:.2f} bytes a pair; {last}"
            )
