"""Compiles the Triton kernels for GPUs that are not here, and tells what they need: registers, spills, shared memory.

    python -m benchmarks.triton_compile --targets 80 90 100 --json out.json

The kernels are those that a call launches: the launching code itself runs, on tensors without memory, and each launch
becomes a compilation. Exits with 1 if a kernel spills registers or needs more shared memory than a GPU has.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from halonet.ops.local_attention import api
from halonet.ops.local_attention.call import Call

launch = importlib.import_module("halonet.ops.local_attention.triton_gpu.launch")

# Shared memory a program may have on the smallest GPU of a compute capability's family: 8.6 and 8.9 have less than 8.0.
SHARED_MEMORY = {80: 99 << 10, 90: 227 << 10, 100: 227 << 10}


@dataclass(frozen=True)
class Shape:
    """One call: sizes in pixels and channels a head."""

    model: str
    block_size: int
    halo_size: int
    key_dim: int
    value_dim: int
    stride: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    relative: bool = True
    bias: bool = False
    extra: int = 0


def _halonet(model: str, block: int, halo: int, *dims: tuple[int, int]) -> list[Shape]:
    return [Shape(model, block, halo, *pair) for pair in dims]


def _vil(block: int) -> list[Shape]:
    options = {"border": "mask"}
    return [
        Shape(f"vil w={block}", block, block, dim, dim, options=options, relative=False, bias=True, extra=1)
        for dim in (32, 64)
    ]


SHAPES: list[Shape] = [
    *_halonet("halonet_h0 to h2, halonet50", 8, 3, (16, 16), (32, 32), (64, 64)),
    *_halonet("halonet_h3", 10, 3, (16, 16), (32, 32), (64, 64)),
    *_halonet("halonet_h4", 12, 2, (16, 16), (32, 32), (64, 64)),
    *_halonet("halonet_h5", 14, 2, (16, 40), (32, 80), (64, 160)),
    *_halonet("halonet_h6", 8, 4, (16, 48), (32, 96), (64, 192)),
    *_halonet("halonet_h7", 10, 3, (16, 64), (32, 128), (64, 256)),
    *_vil(15),
    *(Shape(f"botnet {side} x {side}", side, 0, 128, 128) for side in (14, 32, 64)),
]
# The scalings and transfer forms beside the families, and the windows of other image sizes.
MORE_SHAPES: list[Shape] = [
    *_halonet("halonet50_rw125", 8, 3, (20, 20), (40, 40), (80, 80)),
    *_halonet("halonet50_rv3", 8, 3, (16, 48), (32, 96), (64, 192)),
    *_halonet("halonet50_rqk65", 8, 3, (104, 16)),
    *_halonet("halonet_h4_base128", 12, 2, (128, 128)),
    *_halonet("halonet_h4_base128_256", 8, 2, (32, 32), (64, 64), (128, 128)),
    *_halonet("halonet_h4_base128_512", 16, 1, (32, 32), (64, 64), (128, 128)),
    *(shape for block in (7, 13, 17, 25) for shape in _vil(block)),
]


@dataclass(frozen=True)
class Compiled:
    """What one kernel of one shape needs on one target."""

    target: int
    shape: str
    kernel: str
    registers: int
    spills: int
    shared_bytes: int

    @property
    def fits(self) -> bool:
        return self.spills == 0 and self.shared_bytes <= SHARED_MEMORY[self.target]


class _Driver:
    """Says what GPU there is, and starts nothing."""

    def __init__(self, target: int) -> None:
        self.target = GPUTarget("cuda", target, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return int(self.target.arch)  # kernels are kept by device: each target is one of its own

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    @staticmethod
    def is_active() -> bool:
        return True


@contextmanager
def compiling(target: int, label: str, found: list[Compiled]) -> Iterator[None]:
    """Launches become compilations for the target, noted in `found`; this process can then start no kernel any more."""
    replaced = {name: getattr(launch, name) for name in ("start", "capability", "processors")}

    def start(kernel: Any, grid: tuple[int, ...], tiles: Any, *arguments: Any) -> None:
        options = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages, "enable_fp_fusion": True}
        compiled = kernel.warmup(*arguments, grid=grid, **options)
        registers, spills = resource_usage(compiled.asm["cubin"])
        name = kernel.__name__.removesuffix("_kernel")
        found.append(Compiled(target, label, name, registers, spills, compiled.metadata.shared))

    launch.start = start
    launch.capability = lambda device: divmod(target, 10)
    launch.processors = lambda device: 132
    driver.set_active(_Driver(target))
    try:
        yield
    finally:
        for name, function in replaced.items():
            setattr(launch, name, function)


def resource_usage(cubin: bytes) -> tuple[int, int]:
    """Registers of the one kernel in a binary, and its instructions that spill: reads and writes of local memory."""
    program = Path(triton.__path__[0], "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def printed(option: str) -> str:
            command = [str(program), option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", printed("--dump-resource-usage")))
        # A stack alone is no spill: some kernels reserve a few bytes and never touch them.
        stack = int(usage["STACK"]) + int(usage["LOCAL"])
        return int(usage["REG"]), len(re.findall(r"\s(?:STL|LDL)\b", printed("--dump-sass"))) if stack else 0


def call_of(shape: Shape, dtype: torch.dtype) -> Call:
    """A checked call of the shape, on tensors without memory: one map of two by two blocks, eight heads."""
    heads, side = 8, 2 * shape.block_size if shape.halo_size else shape.block_size
    queries = -(-side // shape.stride)
    rows = 2 * (shape.block_size + shape.halo_size) - 1

    def empty(*sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    extra = shape.extra or None
    return api._checked(
        query=empty(1, queries, queries, heads, shape.key_dim),
        key=empty(1, side, side, heads, shape.key_dim),
        value=empty(1, side, side, heads, shape.value_dim),
        block_size=shape.block_size,
        halo_size=shape.halo_size,
        relative=(empty(rows, shape.key_dim), empty(rows, shape.key_dim)) if shape.relative else None,
        bias=empty(heads, rows, rows) if shape.bias else None,
        extra_key=extra and empty(1, extra, heads, shape.key_dim),
        extra_value=extra and empty(1, extra, heads, shape.value_dim),
        extra_bias=extra and empty(heads, extra),
        stride=shape.stride,
        scale=None,
        scale_relative=True,
        relative_stride=None,
        backend="auto",
        **{"border": "zeros", "window": None, "dilation": 1, "neighbors": None, **shape.options},
    )


def compile_shape(shape: Shape, target: int, dtype: torch.dtype) -> list[Compiled]:
    """Compiles all kernels of one shape, forward and backward."""
    found: list[Compiled] = []
    call = call_of(shape, dtype)
    size = f"b={shape.block_size} h={shape.halo_size} s={shape.stride} {shape.key_dim}/{shape.value_dim}"
    with compiling(target, f"{shape.model}: {size} {str(dtype).removeprefix('torch.')}", found):
        output, norm = launch.forward(call, True)
        launch.backward(torch.empty_like(output), output, norm, call)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--targets", type=int, nargs="+", default=[80, 90, 100], choices=list(SHARED_MEMORY))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--strides", type=int, nargs="+", default=[1])
    parser.add_argument("--all", action="store_true", help="scalings, transfer forms and other windows too")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("K", "N"), help="every Nth shape from K")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    found: list[Compiled] = []
    shapes = [*SHAPES, *MORE_SHAPES] if options.all else SHAPES
    for shape in shapes[options.part[0] :: options.part[1]]:
        for stride in options.strides:
            if shape.block_size % stride or (stride > 1 and not shape.halo_size):
                continue
            strided = Shape(**{**asdict(shape), "stride": stride})
            for target in options.targets:
                for dtype in options.dtypes:
                    for kernel in compile_shape(strided, target, getattr(torch, dtype)):
                        found.append(kernel)
                        verdict = "" if kernel.fits else "   DOES NOT FIT"
                        print(
                            f"sm_{target} {kernel.shape:50} {kernel.kernel:15} {kernel.registers:4} registers, "
                            f"{kernel.spills} spills, {kernel.shared_bytes >> 10:3} KiB shared{verdict}",
                            flush=True,
                        )
    if options.json:
        options.json.write_text(json.dumps([asdict(kernel) for kernel in found], indent=1) + "\n")
    failed = sum(not kernel.fits for kernel in found)
    print(f"{len(found)} kernels, {failed} do not fit")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
