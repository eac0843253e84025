"""Writes the tables of docs/backends.md: what each backend of local attention takes, asked of the backends themselves.

python docs/backend_table.py [PAGE]        (default: docs/backends.md)
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from halonet.ops.local_attention import explain_backend
from halonet.ops.local_attention.backends import BACKENDS

PAGE = Path(__file__).with_name("backends.md")
SIDE, BLOCK, HEADS = 16, 4, 2
# The plainest call of each kind: a backend is asked for an option on top of the first of them that it takes.
PLAIN: tuple[dict[str, Any], ...] = ({}, {"border": "mask"}, {"border": "mask", "window": 3})
# What a call is beside the plainest: arguments of the op by their names, and sizes and kinds of its tensors.
OPTIONS: dict[str, dict[str, Any]] = {
    "no `window`": {"window": None},
    "`halo_size` less than a block": {"halo_size": 2},
    "`halo_size=0`": {"halo_size": 0, "window": None},
    "`block_size=(4, 8)`": {"block_size": (4, 8), "halo_size": (4, 8)},
    "a map that blocks do not divide": {"side": 15},
    '`border="zeros"`': {"border": "zeros"},
    '`border="mask"`': {"border": "mask"},
    '`border="circular"`': {"border": "circular"},
    "`stride=2`": {"stride": 2},
    "`window=3`": {"window": 3},
    "`window=3`, `dilation=2`": {"window": 3, "dilation": 2},
    "`neighbors=5`": {"neighbors": 5, "window": None},
    "`relative`": {"relative": True},
    "`scale_relative`": {"relative": True, "scale_relative": True},
    "`relative_stride=1` where `stride=2`": {"relative": True, "stride": 2, "relative_stride": 1},
    "`bias`": {"bias": True},
    "`extra_key`, `extra_value`": {"extra": 2},
    "`extra_bias`": {"extra": 2, "extra_bias": True},
    "`scale`": {"scale": 1.0},
    "keys of 129 channels": {"key_dim": 129},
    "values of 257 channels": {"value_dim": 257},
}
CALLS: dict[str, dict[str, Any]] = {
    "float64": {"dtype": torch.float64},
    "float32": {"dtype": torch.float32},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "tensors on a CPU": {"device": "cpu"},
    "tensors on an NVIDIA GPU": {"device": "cuda"},
    "within `torch.export`": {"exporting": True},
}


def refusal(backend: str, changes: dict[str, Any]) -> str | None:
    """Why a backend refuses the plainest call that it takes with these changes; None if it takes it."""
    home = "cuda" if backend == "triton" else "cpu"
    for plain in PLAIN:
        if ask(backend, {"device": home, **plain}) is None:
            return ask(backend, {"device": home, **plain, **changes})
    raise AssertionError(f"{backend} takes none of the plain calls")


def ask(backend: str, given: dict[str, Any]) -> str | None:
    """What `explain_backend` says of a call without numbers, on a device that need not be there."""
    given = dict(given)
    side, stride = given.pop("side", SIDE), given.get("stride", 1)
    blocks, halos = (
        value if isinstance(value, tuple) else (value, value)
        for value in (given.pop("block_size", BLOCK), given.pop("halo_size", BLOCK))
    )
    reach = [block + halo - 1 for block, halo in zip(blocks, halos, strict=True)]
    key_dim, value_dim, extra = given.pop("key_dim", 8), given.pop("value_dim", 8), given.pop("extra", 0)
    kind = {"dtype": given.pop("dtype", torch.float32), "device": given.pop("device")}
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        has_gpu = "halonet.ops.local_attention.triton_gpu.operator._has_gpu"
        stack.enter_context(mock.patch(has_gpu, return_value=True))
        stack.enter_context(mock.patch("torch.compiler.is_exporting", return_value=given.pop("exporting", False)))

        def tensor(*shape: int) -> torch.Tensor:
            return torch.empty(shape, **kind)

        if given.pop("relative", False):
            given["relative"] = tuple(tensor(2 * axis + 1, key_dim) for axis in reach)
        if given.pop("bias", False):
            given["bias"] = tensor(HEADS, *(2 * axis + 1 for axis in reach))
        if extra:
            given |= {
                "extra_key": tensor(1, extra, HEADS, key_dim),
                "extra_value": tensor(1, extra, HEADS, value_dim),
            }
        if given.pop("extra_bias", False):
            given["extra_bias"] = tensor(HEADS, extra)
        queries = -(-side // stride)
        told = explain_backend(
            tensor(1, queries, queries, HEADS, key_dim),
            tensor(1, side, side, HEADS, key_dim),
            tensor(1, side, side, HEADS, value_dim),
            block_size=blocks,
            halo_size=halos,
            backend=backend,
            **given,
        )
    lines = dict(line.split(": ", 1) for line in told.splitlines())
    return None if lines[backend] == "chosen" else lines[backend].removeprefix("refused, ")


def table(head: str, rows: dict[str, dict[str, Any]], reasons: list[str]) -> list[str]:
    """A table of Markdown; reasons that are not there yet are appended, and named by their number."""
    lines = [f"| {head} | " + " | ".join(f"`{name}`" for name in BACKENDS) + " |", "|---" * (len(BACKENDS) + 1) + "|"]
    for label, changes in rows.items():
        cells = []
        for backend in BACKENDS:
            reason = refusal(backend, changes)
            if reason is not None and reason not in reasons:
                reasons.append(reason)
            cells.append("yes" if reason is None else f"no ({reasons.index(reason) + 1})")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def tables() -> str:
    reasons: list[str] = []
    lines = [*table("option", OPTIONS, reasons), "", *table("call", CALLS, reasons), "", "Their reasons:", ""]
    return "\n".join([*lines, *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))])


def filled(page: str) -> str:
    """The page with its tables made anew."""
    begin, end = "<!-- tables -->\n", "\n<!-- end of tables -->"
    before, rest = page.split(begin)
    return before + begin + "\n" + tables() + "\n" + end + rest.split(end)[1]


def main(page: Path) -> None:
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE)
