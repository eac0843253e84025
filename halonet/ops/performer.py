"""Performer's attention: softmax attention by random features, linear in the number of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from halonet.ops.precision import without_autocast

EPSILON = 1e-4  # keeps features, and so denominators, above 0


def orthogonal_features(
    count: int,
    channels: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Gaussian vectors, orthogonal to each other in runs of `channels` (Performer, section 3; arXiv 2009.14794).

    Lengths are those of independent Gaussian vectors, so that each vector alone has their distribution.

    Args:
        count: vectors K.
        channels: numbers D of each.
        generator: of random numbers, on the CPU; torch's own if None.
        device: of the result.

    Returns:
        (K, D), float32.

    Raises:
        ValueError: numbers that are not positive.
    """
    if min(count, channels) < 1:
        raise ValueError(f"count and channels must be positive, got {count} and {channels}")
    runs = -(-count // channels)
    gaussian = torch.randn(runs, channels, channels, generator=generator)
    directions, upper = torch.linalg.qr(gaussian)
    # Of a QR decomposition only one with a positive diagonal is evenly distributed.
    directions = directions * torch.diagonal(upper, dim1=1, dim2=2).sgn().unsqueeze(1)
    lengths = torch.randn(count, channels, generator=generator).norm(dim=1)
    return (directions.transpose(1, 2).reshape(-1, channels)[:count] * lengths[:, None]).to(device)


def performer_attention(query: Tensor, key: Tensor, value: Tensor, features: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, approximately, by positive random features (FAVOR+; arXiv 2009.14794).

    Args:
        query: (B, T, N, D).
        key: (B, S, N, D).
        value: (B, S, N, Dv).
        features: (K, D), see `orthogonal_features`. The more, the closer.

    Returns:
        (B, T, N, Dv), in the dtype of the value; half precision is widened inside.
    """
    with without_autocast(query.device.type):
        of_query, of_key = _features_of(query, key, features)
        context = torch.einsum("bsnk,bsnd->bnkd", of_key, value.to(of_key.dtype))
        total = torch.einsum("btnk,bnk->btn", of_query, of_key.sum(dim=1))
        output = torch.einsum("btnk,bnkd->btnd", of_query, context) / total[..., None]
    return output.to(value.dtype)


def performer_attention_weights(query: Tensor, key: Tensor, features: Tensor) -> Tensor:
    """The weights with which queries of `performer_attention` sum up values: positive, and 1 together.

    Args:
        query: (B, T, N, D), of the asked queries alone.
        key: (B, S, N, D), all of them.
        features: (K, D).

    Returns:
        (B, T, N, S), in the dtype of the query; half precision is widened inside.
    """
    with without_autocast(query.device.type):
        of_query, of_key = _features_of(query, key, features)
        products = torch.einsum("btnk,bsnk->btns", of_query, of_key)
        return (products / products.sum(dim=3, keepdim=True)).to(query.dtype)


def _features_of(query: Tensor, key: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Positive features of queries (B, T, N, K) and keys (B, S, N, K), in float32 at least."""
    wide = torch.promote_types(query.dtype, torch.float32)
    return (
        _positive_features(query.to(wide), features.to(wide), dims=(3,)),
        _positive_features(key.to(wide), features.to(wide), dims=(1, 3)),
    )


def _positive_features(tokens: Tensor, features: Tensor, *, dims: tuple[int, ...]) -> Tensor:
    """exp(w.x - |x|^2 / 2) of x = token / D^(1/4): (B, T, N, K), up to a factor that division takes out again.

    dims: over which the largest w.x is taken off: a query's own, or of all keys of a head, which must share it.
    """
    scaled = tokens * tokens.shape[-1] ** -0.25
    products = torch.einsum("btnd,kd->btnk", scaled, features)
    largest = products.amax(dim=dims, keepdim=True).detach()
    return torch.exp(products - scaled.square().sum(dim=-1, keepdim=True) / 2 - largest) + EPSILON
