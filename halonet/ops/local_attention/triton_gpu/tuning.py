"""Tiles chosen by trying them on the device at hand, for one kind of call, when a user asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from triton.runtime.errors import OutOfResources

from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.custom_operator import working_dtype
from halonet.ops.local_attention.triton_gpu import launch
from halonet.ops.local_attention.triton_gpu.constants import kept
from halonet.ops.local_attention.triton_gpu.plan import Tiles

CANDIDATES = tuple(
    Tiles(queries, keys, warps, positions)
    for queries, keys in ((128, 64), (64, 128), (64, 64), (64, 32), (32, 64), (32, 32), (16, 64))
    for warps in (4, 8)
    for positions in (32, 64)
)


def tune(call: Call, *, rounds: int) -> dict[str, Tiles]:
    """Times every candidate for every kernel of a call; calls of its kind take the fastest from then on.

    Gives the tiles by kernel. A candidate that does not fit on the device is passed over.
    """
    query, value = call.query, call.value
    output = query.new_empty((*query.shape[:4], value.shape[4]))
    norm = query.new_zeros((*query.shape[:4], kept(query.dtype)), dtype=working_dtype(query.dtype))
    delta = norm.new_zeros(norm.shape[:-1])
    runs: dict[str, Callable[[], object]] = {
        "forward": lambda: launch.forward(call, True),
        "query": lambda: launch.query_gradients(output, output, norm, delta, call),
        "key": lambda: launch.key_gradients(output, norm, delta, call),
    }
    if call.bias is not None:
        runs["bias"] = lambda: launch.bias_gradient(output, norm, delta, call)
    output.zero_()
    return {kernel: _tune_kernel(call, kernel, run, rounds) for kernel, run in runs.items()}


def _tune_kernel(call: Call, kernel: str, run: Callable[[], object], rounds: int) -> Tiles:
    kind = launch.kind_of(call, kernel)
    before = launch.TUNED.get(kind)
    times = {}
    for tiles in CANDIDATES:
        launch.TUNED[kind] = tiles
        try:
            times[tiles] = _seconds(run, call.query.device, rounds)
        except OutOfResources:
            continue
        finally:
            launch.TUNED.pop(kind)
    best = min(times, key=lambda tiles: times[tiles]) if times else before
    if best is not None:
        launch.TUNED[kind] = best
    return launch.tiles_of(call, kernel)


def _seconds(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Of the fastest of several calls; the first one compiles, and does not count."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    wait()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)
