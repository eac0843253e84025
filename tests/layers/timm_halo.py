"""timm's HaloAttn and ours with the same weights.

Two layouts differ. timm's key-value convolution goes head by head, [k_0, v_0, k_1, v_1, ...]; ours holds
all keys, then all values. timm's tables have 2 * (block + 2 * halo) - 1 rows, of which no offset reaches the first
2 * halo; ours leave them out.
"""

from __future__ import annotations

import torch
from timm.layers.halo_attn import HaloAttn
from torch import Tensor

from halonet.layers import HaloAttention


def halo_attention_like(theirs: HaloAttn, *, backend: str = "auto") -> HaloAttention:
    """Our layer with the weights of a timm layer of stride 1 with `scale_pos_embed=True` and without bias."""
    dim = theirs.q.in_channels
    ours = HaloAttention(
        dim,
        num_heads=theirs.num_heads,
        block_size=theirs.block_size,
        halo_size=theirs.halo_size,
        value_multiplier=theirs.dim_out_v / dim,
        query_key_multiplier=theirs.dim_out_qk / dim,
        relative="full",
        backend=backend,
        dtype=theirs.q.weight.dtype,
    )
    ours.load_state_dict(in_our_layout(theirs, dict(theirs.named_parameters())))
    return ours


def in_our_layout(theirs: HaloAttn, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of timm's parameters (the parameters, or their gradients) as tensors of our layer."""
    unused = 2 * theirs.halo_size
    heads = tensors["kv.weight"].unflatten(0, (theirs.num_heads, -1))
    key, value = heads.split([theirs.dim_head_qk, theirs.dim_head_v], dim=1)
    return {
        "query.weight": tensors["q.weight"],
        "key_value.weight": torch.cat([key.flatten(0, 1), value.flatten(0, 1)]),
        "height_table": tensors["pos_embed.height_rel"][unused:],
        "width_table": tensors["pos_embed.width_rel"][unused:],
    }
