"""Factorized attention, linear in positions, and the conventional attention that it stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from halonet.ops.checks import check_choice
from halonet.ops.local_attention import local_attention
from halonet.ops.precision import without_autocast

KINDS = ("gaussian", "dot")
MOST_OBLONG = 64  # times as wide as high, of a map that positions are laid out as


def factorized_attention(coefficients: Tensor, basis: Tensor, value: Tensor, *, kind: str = "gaussian") -> Tensor:
    """Attention as a mixture of basis masks (Shen et al., section 3.2): C (B^T V), without any S x S map.

        "dot" (equation 3):       C (B^T V) / b
        "gaussian" (equation 4):  softmax over channels(C) (softmax over positions(B)^T V)

    b is the number of channels of a basis, as equations 6 to 8 have it (equation 3 prints h). Memory grows with S,
    forward and backward. Rows of the map that "gaussian" stands for, softmax(C) softmax(B)^T, sum to 1.

    Args:
        coefficients: (B, S, N, D), of S positions (pixels, voxels or tokens in any order) and N heads.
        basis: (B, T, N, D); T is S in self-attention.
        value: (B, T, N, Dv).
        kind: "gaussian" or "dot".

    Returns:
        (B, S, N, Dv), in the dtype of the value; half precision is widened inside.

    Raises:
        ValueError: shapes that do not belong together, or an unknown kind.
    """
    _check("coefficients", coefficients, "basis", basis, value, kind)
    wide = torch.promote_types(value.dtype, torch.float32)
    with without_autocast(value.device.type):
        return _mixed(coefficients.to(wide), basis.to(wide), value.to(wide), kind).to(value.dtype)


def _mixed(coefficients: Tensor, basis: Tensor, value: Tensor, kind: str) -> Tensor:
    """The op itself, in the order that numbers have in memory: of channels-first maps positions lie side by side."""
    first = all(tensor.stride(1) == 1 for tensor in (coefficients, basis, value))
    order, channels, positions = ((0, 2, 3, 1), 2, 3) if first else ((0, 2, 1, 3), 3, 2)
    mixture, masks, values = (tensor.permute(order) for tensor in (coefficients, basis, value))
    if kind == "gaussian":
        mixture, masks = mixture.softmax(dim=channels), masks.softmax(dim=positions)
    context = masks @ values.mT if first else masks.mT @ values
    if kind == "dot":  # the smallest of all that could be divided
        context = context / basis.shape[3]
    output = context.mT @ mixture if first else mixture @ context
    return output.permute((0, 3, 1, 2) if first else (0, 2, 1, 3))


def nonlocal_attention(
    query: Tensor, key: Tensor, value: Tensor, *, kind: str = "gaussian", backend: str = "auto"
) -> Tensor:
    """Conventional attention of every position to every other (Shen et al., section 3.3), quadratic in positions.

        "dot" (equation 6):       (Q K^T / b) V, the same as `factorized_attention` of C = Q and B = K
        "gaussian" (equation 9):  softmax over positions(Q K^T) V, without scale

    Args:
        query: (B, S, N, D).
        key: (B, T, N, D).
        value: (B, T, N, Dv).
        kind: "gaussian" or "dot".
        backend: "materialized" writes the whole map, (B, N, S, T), as the paper's modules do; "dot" always does.
            "auto" or the name of a backend of `local_attention` computes "gaussian" with one block as large as the
            map, so that memory is linear where that backend is a kernel; its work stays quadratic. It wants S = T.

    Returns:
        (B, S, N, Dv), in the dtype of the value.

    Raises:
        ValueError: shapes that do not belong together, an unknown kind, or a backend that cannot.
    """
    _check("query", query, "key", key, value, kind)
    if kind == "dot" and backend not in ("auto", "materialized"):
        raise ValueError(f"backend must be auto or materialized for the kind dot, got {backend!r}")
    if backend != "materialized" and kind == "gaussian" and (backend != "auto" or query.shape[1] == key.shape[1]):
        return _as_one_block(query, key, value, backend)
    wide = torch.promote_types(value.dtype, torch.float32)
    with without_autocast(value.device.type):
        scaled = query.to(wide) if kind == "gaussian" else query.to(wide) / key.shape[3]  # one map is enough
        scores = torch.einsum("bsnd,btnd->bnst", scaled, key.to(wide))
        weights = scores.softmax(dim=3) if kind == "gaussian" else scores
        output = torch.einsum("bnst,btnd->bsnd", weights, value.to(wide))
    return output.to(value.dtype)


def factorized_attention_weights(
    coefficients: Tensor, basis: Tensor, *, queries: Sequence[int], kind: str = "gaussian"
) -> Tensor:
    """Rows of the map that `factorized_attention` stands for: of each query, the weights with which it sums up values.

    A row is the position's mixture of the basis masks, softmax(C) softmax(B)^T or C B^T / b, computed for the asked
    positions alone. Rows of "gaussian" are positive and sum to 1, those of "dot" have signs.

    Args:
        coefficients: (B, S, N, D), as in `factorized_attention`.
        basis: (B, T, N, D).
        queries: Q positions, 0 to S - 1.
        kind: "gaussian" or "dot".

    Returns:
        (B, Q, N, T), in the dtype of the coefficients; half precision is widened inside.

    Raises:
        ValueError: shapes that do not belong together, an unknown kind, or a query that there is not.
    """
    _check("coefficients", coefficients, "basis", basis, basis, kind)
    mixture, masks = _asked(coefficients, queries), _wide(basis)
    with without_autocast(basis.device.type):
        if kind == "gaussian":
            mixture, masks = mixture.softmax(dim=3), masks.softmax(dim=1)
        else:
            masks = masks / basis.shape[3]
        return torch.einsum("bqnd,btnd->bqnt", mixture, masks).to(coefficients.dtype)


def nonlocal_attention_weights(query: Tensor, key: Tensor, *, queries: Sequence[int], kind: str = "gaussian") -> Tensor:
    """Rows of the map of `nonlocal_attention`: of each query, the weights with which it sums up values.

    Args:
        query: (B, S, N, D), as in `nonlocal_attention`.
        key: (B, T, N, D).
        queries: Q positions, 0 to S - 1.
        kind: "gaussian" or "dot"; of the latter weights have signs.

    Returns:
        (B, Q, N, T), in the dtype of the query; half precision is widened inside.

    Raises:
        ValueError: shapes that do not belong together, an unknown kind, or a query that there is not.
    """
    _check("query", query, "key", key, key, kind)
    asked = _asked(query, queries)
    with without_autocast(query.device.type):
        scores = torch.einsum("bqnd,btnd->bqnt", asked, _wide(key))
        weights = scores.softmax(dim=3) if kind == "gaussian" else scores / key.shape[3]
    return weights.to(query.dtype)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _asked(tensor: Tensor, queries: Sequence[int]) -> Tensor:
    """Of (B, S, N, D) the asked positions, widened."""
    count = tensor.shape[1]
    if not len(queries) or not all(0 <= index < count for index in queries):
        raise ValueError(f"queries must be positions from 0 to {count - 1}, at least one, got {list(queries)}")
    return _wide(tensor[:, list(queries)])


def _as_one_block(query: Tensor, key: Tensor, value: Tensor, backend: str) -> Tensor:
    """Softmax attention by `local_attention`, positions laid out as a map whose only block is the whole of it.

    The op keeps tables of one side by itself, so that the map is about square. Where no two sides of about one length
    make the positions, some are added whose keys no query sees: one more channel, 1 of every query, is so low there
    that their weights are 0.
    """
    positions = query.shape[1]
    height = next(side for side in range(math.isqrt(positions), 0, -1) if positions % side == 0)
    width = positions // height
    if width**2 > MOST_OBLONG * positions:
        height = math.isqrt(positions)
        width = -(-positions // height)
        added = (0, 0, 0, 0, 0, height * width - positions)
        query = F.pad(F.pad(query, (0, 1), value=1.0), added)
        key = F.pad(F.pad(key, (0, 1)), added)
        key[:, positions:, :, -1] = torch.finfo(key.dtype).min / 2
        value = F.pad(value, added)
    maps = [tensor.unflatten(1, (height, width)) for tensor in (query, key, value)]
    output = local_attention(*maps, block_size=(height, width), halo_size=0, scale=1.0, backend=backend)
    return output.flatten(1, 2)[:, :positions]


def _check(first_name: str, first: Tensor, second_name: str, second: Tensor, value: Tensor, kind: str) -> None:
    check_choice("kind", kind, KINDS)
    for name, tensor in ((first_name, first), (second_name, second), ("value", value)):
        if tensor.ndim != 4 or not tensor.numel():
            raise ValueError(f"{name} must be (batch, positions, heads, channels), none 0, got {tuple(tensor.shape)}")
    if second.shape[:3] != value.shape[:3]:
        raise ValueError(f"{second_name} and value must agree but for channels, got {_shapes(second, value)}")
    if (first.shape[0], *first.shape[2:]) != (second.shape[0], *second.shape[2:]):
        raise ValueError(f"{first_name} and {second_name} must agree but for positions, got {_shapes(first, second)}")


def _shapes(one: Tensor, other: Tensor) -> str:
    return f"{tuple(one.shape)} and {tuple(other.shape)}"
