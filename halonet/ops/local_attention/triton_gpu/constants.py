"""What the kernels take, and what they keep. Needs no triton."""

from __future__ import annotations

import torch

MOST_CHANNELS = {"key": 128, "value": 256}  # of a head
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LOG2E = 1.4426950408889634  # softmax's exponentials are powers of two


def kept(dtype: torch.dtype) -> int:
    """Numbers a query that the forward pass keeps for the backward pass."""
    return 1 if dtype in (torch.bfloat16, torch.float16) else 2
