"""The most memory that a call needs at once: what a GPU's allocator tells, or what a process of its own grows by."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from halonet.analysis.speed.measuring import wait_for

MIB = 2**20
Call = Callable[[], object]
# Takes what makes a call, for calls do not travel to another process; gives MiB, None where the system tells nothing.
Meter = Callable[[Callable[[], Call]], float | None]

_TELLS_PEAK = Path("/proc/self/clear_refs")
_SINGLE = 1 << 16  # bytes from which memory is taken from the system for itself, and given back when freed
_MMAP_THRESHOLD = -3  # of mallopt(3)


@contextmanager
def memory_meter(device: torch.device) -> Iterator[Meter]:
    """Measures what a call needs at most, beside what was there before; a first call of each is not counted.

    On a CPU a second process does it, in which freed memory is given back at once, so that what it grows by is what
    is in use; only Linux tells the most there was.
    """
    if device.type == "cuda":
        yield lambda make: _peak_on_gpu(make(), device)
    elif not _TELLS_PEAK.exists():
        yield lambda make: None
    else:
        with multiprocessing.get_context("spawn").Pool(1, _start, (torch.get_num_threads(),)) as pool:
            yield lambda make: pool.apply(_peak_of_process, (make,))


def _peak_on_gpu(call: Call, device: torch.device) -> float:
    call()
    wait_for(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    wait_for(device)
    return (torch.cuda.max_memory_allocated(device) - before) / MIB


def _start(threads: int) -> None:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # a pool of its own would outlive this process
    torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = 1024
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc
        library.mallopt(_MMAP_THRESHOLD, _SINGLE)


def _peak_of_process(make: Callable[[], Call]) -> float:
    call = make()
    call()
    gc.collect()
    _TELLS_PEAK.write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    call()
    return (_resident("VmHWM") - before) / MIB


def _resident(field: str) -> int:
    """Bytes of a memory field of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
