"""The largest map that fits: memory of the op beside its peers, on square maps, until a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from halonet.analysis.speed.measuring import describe, device_of, print_setting
from halonet.analysis.speed.memory import MIB, Meter, memory_meter
from halonet.analysis.speed.op_table import call_of, check, chosen_peers
from halonet.analysis.speed.peers import PEERS
from halonet.analysis.speed.rows import MODES
from halonet.analysis.speed.shapes import OpShape, stages_of

CLOSE = 64  # the largest side is found to one part in this
GROWTH = 1.4  # of the side: memory that is quadratic in pixels meets the limit at four times it at most


def memory_table(
    *, peers: Sequence[str], batch: int, dtype: torch.dtype, device: str, limit_gib: float | None
) -> dict[str, Any]:
    """The largest side of a map at the channels of H0's first stage with which a call of each peer fits, printed.

    Counted are what the call is given (query, key, value, tables) and what it needs beside them at most: its output,
    gradients, and what it keeps between. One measured call a size.

    Args:
        limit_gib: memory to fit in; None for 4 GiB on a CPU, all of it on a GPU.

    Raises:
        ValueError: a peer or device that there is not, or a system that does not tell the memory.
        SystemExit: a peer computes something else.
    """
    chosen, on = chosen_peers(peers), device_of(device)
    if limit_gib is None:
        limit_gib = torch.cuda.get_device_properties(on).total_memory / 2**30 if on.type == "cuda" else 4.0
    name_of_dtype = str(dtype).removeprefix("torch.")
    setting = describe(device=on, dtype=name_of_dtype, batch=batch, limit=f"{limit_gib:.1f} GiB")
    print_setting(setting)
    first = stages_of("halonet_h0_256")[0]
    print(f"heads, channels, block and halo of {first}")
    report: dict[str, Any] = {"setting": setting, **{mode: {} for mode in MODES}}
    with memory_meter(on) as meter:
        for name, peer in chosen.items():
            for mode in MODES:
                reason = peer.refusal(first, on, mode)
                if reason is None:
                    if peer.same:
                        check(name, peer, first, mode, dtype=dtype, device=on)
                    needs = partial(_needed, name, first, mode, batch, dtype, on, meter)
                    row = largest(needs, limit_gib * 2**30, step=first.block_size[0])
                else:
                    row = {"refused": reason}
                report[mode][name] = row
                print(f"{mode:17} {name:12} {_told(row)}", flush=True)
    return report


def _needed(
    name: str,
    shape: OpShape,
    mode: str,
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
    meter: Meter,
    side: int,
) -> float | str:
    """Bytes, or why the peer does not take a map of that side."""
    shape = replace(shape, height=side, width=side)
    reason = PEERS[name].refusal(shape, device, mode)
    if reason is not None:
        return reason
    try:
        peak = meter(partial(call_of, name, shape, mode, batch, dtype, device))
    except torch.OutOfMemoryError:
        return "out of memory"
    if peak is None:
        raise ValueError(f"device must tell its memory, got {str(device)!r} on a system that does not")
    given = sum(math.prod(size) for size in shape.sizes(batch).values()) * dtype.itemsize
    return given + peak * MIB


def largest(needs: Callable[[int], float | str], limit: float, *, step: int) -> dict[str, Any]:
    """The largest side, a multiple of `step`, for which `needs` says at most `limit`, to one part in CLOSE.

    needs: bytes of a side, or why it is refused.
    """
    side, fits, fails, why = 8 * step, 0, 0, ""
    used = 0.0
    while not fails or fails - fits > max(step, fits // CLOSE):
        needed = needs(side)
        if isinstance(needed, str) or needed > limit:
            fails, why = side, needed if isinstance(needed, str) else ""
        else:
            fits, used = side, needed
        side = (fits + fails) // 2 if fails else int(side * GROWTH)
        side = max(side // step * step, fits + step)
        if fails and side >= fails:
            break
    row = {"side": fits, "bytes": used, "bytes_per_pixel": used / fits**2 if fits else None}
    return row | ({"stopped_by": why} if why else {})


def _told(row: dict[str, Any]) -> str:
    if "refused" in row:
        return f"not measured: {row['refused']}"
    if not row["side"]:
        return "no map fits"
    why = f" (larger: {row['stopped_by']})" if "stopped_by" in row else ""
    return f"{row['side']:6} x {row['side']:<6} {row['bytes_per_pixel']:9.0f} bytes a pixel{why}"
