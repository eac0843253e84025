"""Local attention on NVIDIA GPUs by kernels that Triton compiles, on the first call. Shape letters as in `geometry`.

The kernels are in `forward`, `query_gradients`, `key_gradients` and `shared_gradients`, and are started in `launch`;
here they are made torch operators. With TRITON_INTERPRET=1 they run on a CPU, very slowly, for tests.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halonet.ops.local_attention import custom_operator
from halonet.ops.local_attention.call import NO_DILATION, Call
from halonet.ops.local_attention.triton_gpu.constants import DTYPES, MOST_CHANNELS, kept


def refusal(call: Call) -> str | None:
    """Why this backend cannot take the call."""
    device = call.query.device
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if call.geometry.rows.dilation != 1:
        return NO_DILATION
    for name, map_ in (("key", call.key), ("value", call.value)):
        if map_.shape[4] > MOST_CHANNELS[name]:
            return f"its kernels take {name}s of at most {MOST_CHANNELS[name]} channels, got {map_.shape[4]}"
    if interpreted():
        return None if device.type == "cpu" else f"TRITON_INTERPRET=1 runs kernels on a CPU, got tensors on {device}"
    if device.type != "cuda":
        return f"its kernels run on NVIDIA GPUs, got tensors on {device}"
    if not _has_gpu(device.index):
        return "its kernels are made for NVIDIA GPUs of compute capability 8.0 and newer, and none is there"
    if call.query.dtype not in DTYPES:
        return f"its kernels take bfloat16, float16 and float32, got {call.query.dtype}"
    return None


@torch.compiler.assume_constant_result
def _has_gpu(index: int | None) -> bool:
    """Whether the device of this number is one that the kernels are made for."""
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(index) >= (8, 0)


def interpreted() -> bool:
    """Whether Triton was asked to interpret its kernels, on a CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def run(call: Call) -> Tensor:
    """Local attention: (B, Hq, Wq, N, Dv)."""
    return _operator(call)


def tune(call: Call, *, rounds: int) -> dict[str, Any]:
    """Tries tiles on the device: see `tuning`."""
    from halonet.ops.local_attention.triton_gpu import tuning

    return tuning.tune(call, rounds=rounds)


def _forward(call: Call, for_backward: bool) -> tuple[Tensor, Tensor]:
    from halonet.ops.local_attention.triton_gpu.launch import forward

    return forward(call, for_backward)


def _backward(grad: Tensor, output: Tensor, norm: Tensor, call: Call) -> tuple[Tensor | None, ...]:
    from halonet.ops.local_attention.triton_gpu.launch import backward

    return backward(grad, output, norm, call)


_operator: Callable[[Call], Tensor] = custom_operator.define(
    "local_attention_triton", _forward, _backward, kept=kept, device_types=("cuda", "cpu")
)
