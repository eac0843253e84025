"""The weights of Vision Longformer's authors, by the names that their models have here."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Names in the authors' checkpoints, and the same parts here. Their modules of a stage are numbered: 0 embeds, 2k + 1 is
# the attention and 2k + 2 the feed-forward block k.
_EMBEDDING = {
    "proj.weight": "embedding.proj.weight",
    "proj.bias": "embedding.proj.bias",
    "norm_embed.weight": "embedding.norm.weight",
    "norm_embed.bias": "embedding.norm.bias",
    "cls_token": "global_tokens",
    "cls_pos_embed": "position.global_table",
    "x_pos_embed": "position.height_table",
    "y_pos_embed": "position.width_table",
}
_ATTENTION = {
    "norm": "norm1",
    "attn.query": "attn.query",
    "attn.kv": "attn.key_value",
    "attn.proj": "attn.proj",
    "attn.proj_sr": "attn.reduce",
}
_TABLES = {
    "attn.local_relative_position_bias_table": "attn.bias_table",
    "attn.g2l_relative_position_bias": "attn.global_local_bias",
    "attn.g2g_relative_position_bias": "attn.global_bias",
    "attn.proj_k": "attn.mix_key",
    "attn.proj_v": "attn.mix_value",
    "attn.fast_attention.projection_matrix": "attn.features",
}
_FEED_FORWARD = {"norm": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_TOP = {"norm": "norm", "head": "head.fc"}
_NOT_LEARNT = ("relative_position_index", "calls_since_last_redraw")


def convert_vil(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the authors' public code (microsoft/vision-longformer) as one of ours.

    Their bias tables are indexed by query minus key, ours by key minus query; the fused projection of queries, keys
    and values is cut in two; second copies of what global and local tokens, or keys and values, share are dropped.

    Args:
        state: as `torch.load(path, weights_only=True)` gives it, of its entry "net" where it has one.

    Returns:
        What `load_state_dict` of the same model here takes.

    Raises:
        ValueError: a name that theirs have not, or global tokens with projections of their own.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if not tensor.numel() or name.endswith(_NOT_LEARNT) or _is_second_copy(name, tensor, state):
            continue
        for ours, part in _converted(name, tensor):
            converted[ours] = part
    return converted


def _is_second_copy(name: str, tensor: Tensor, state: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is shared, and stands there by its first name too."""
    first = re.sub(r"\.(query|kv|proj)_global\.", r".\1.", name)
    if name.endswith(".attn.proj_v"):
        first = name.removesuffix("v") + "k"
    if first == name:
        return False
    origin = next((state[key] for key in (first, f"module.{first}") if key in state), None)
    shared = origin is not None and origin.shape == tensor.shape and torch.equal(origin, tensor)
    if not shared and first.removesuffix("k") != name.removesuffix("v"):
        raise ValueError(f"global tokens must share their projections with the others, got {name} of its own")
    return shared


def _converted(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Our names and tensors of one of theirs."""
    module, _, leaf = name.rpartition(".")
    if module in _TOP:
        return [(f"{_TOP[module]}.{leaf}", tensor)]
    match = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", name)
    if match is None:
        raise ValueError(f"weights must be of the authors' ViL models, got a tensor named {name!r}")
    stage, number, rest = f"stages.{int(match[1]) - 1}", int(match[2]), match[3]
    if number == 0 and rest in _EMBEDDING:
        return [(f"{stage}.{_EMBEDDING[rest]}", tensor[0] if rest.endswith(("token", "embed")) else tensor)]
    block, part = f"{stage}.blocks.{(number - 1) // 2}", rest.rpartition(".")[0]
    if number % 2 and rest in _TABLES:
        ours = _TABLES[rest]
        return [(f"{block}.{ours}", _flipped(tensor) if ours.endswith("bias_table") else tensor)]
    if number % 2 and part == "attn.qkv":
        query, key_value = tensor.tensor_split([len(tensor) // 3])
        return [(f"{block}.attn.query.{leaf}", query), (f"{block}.attn.key_value.{leaf}", key_value)]
    names = _ATTENTION if number % 2 else _FEED_FORWARD
    if number and part in names:
        return [(f"{block}.{names[part]}.{leaf}", tensor)]
    raise ValueError(f"weights must be of the authors' ViL models, got a tensor named {name!r}")


def _flipped(table: Tensor) -> Tensor:
    """(offsets, N) of query minus key, a square of them flat, as (N, down, across) of key minus query."""
    side = round(len(table) ** 0.5)
    return table.t().unflatten(1, (side, side)).flip(1, 2).contiguous()
