"""What both ways of comparison share: extra keys beside the local ones, under one softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from halonet.ops.local_attention.call import Call


def softmax_with_extra(call: Call, query: Tensor, logits: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weights of local keys, and what queries take from the extra keys.

    Args:
        call: the call.
        query: (B, N, Q, D), Q queries in any order.
        logits: (B, N, Q, K), of the local keys.

    Returns:
        (B, N, Q, K), and (B, N, Q, Dv) or None where there are no extra keys.
    """
    if call.extra_key is None or call.extra_value is None:
        return logits.softmax(dim=3), None
    extra = call.scale * torch.einsum("bnqd,bgnd->bnqg", query, call.extra_key)
    if call.extra_bias is not None:
        extra = extra + call.extra_bias[:, None]
    weights = torch.cat([logits, extra], dim=3).softmax(dim=3)
    local, others = weights.split([logits.shape[3], extra.shape[3]], dim=3)
    return local, torch.einsum("bnqg,bgnd->bnqd", others, call.extra_value)
