"""The public face of local attention: the contract, and the way from arguments to a backend."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from halonet.ops.local_attention import backends, checks, triton_gpu
from halonet.ops.local_attention.call import Call


def local_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    block_size: int | tuple[int, int],
    halo_size: int | tuple[int, int],
    stride: int = 1,
    border: str = "zeros",
    window: int | None = None,
    dilation: int = 1,
    neighbors: int | None = None,
    relative: tuple[Tensor, Tensor] | None = None,
    bias: Tensor | None = None,
    extra_key: Tensor | None = None,
    extra_value: Tensor | None = None,
    extra_bias: Tensor | None = None,
    scale: float | None = None,
    scale_relative: bool = False,
    relative_stride: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Blocked local self-attention with haloing (HaloNet, section 2.2; arXiv 2103.12731).

    The key map is cut into blocks; the queries of a block see the block and a halo around it:

        . . . . . . . .      q  query pixels of one block (block_size = 2)
        . h h h h . . .      h  its halo (halo_size = 1); the block itself is seen too
        . h q q h . . .
        . h q q h . . .      A map that blocks do not divide is extended inside; every pixel outside the
        . h h h h . . .      map that a block or halo reaches follows `border`.

    With reach = block + halo - 1, the offset of a key from a query lies in -reach..reach on each axis. It is
    counted in pixels, `key - relative_stride * query index`, both from the first of their block.

    Args:
        query: (B, Hq, Wq, N, Dk), N heads. Query (i, j) stands at key pixel (stride * i, stride * j);
            Hq = ceil(H / stride), Wq = ceil(W / stride).
        key: (B, H, W, N, Dk).
        value: (B, H, W, N, Dv), of any Dv.
        block_size: pixels of the key map, one int or (height, width); a multiple of `stride`.
        halo_size: pixels around the block, one int or (height, width), 0 for separate windows.
        stride: query stride, the attention downsampling of section 2.2.
        border: what pixels outside the map are. "zeros": keys and values of 0 that do take part (HaloNet).
            "mask": they do not take part. "circular": the extended, block-multiple map wraps around, its
            extension itself does not take part (Vision Longformer).
        window: odd k: a query sees only the k x k pixels centred on its own, inside its neighbourhood (SASA).
        dilation: d: of its neighbourhood or window a query sees only the pixels that are whole multiples of d away
            along both axes; a window of k has k x k of them. For the "reference" and "unfold" backends.
        neighbors: 1 to 8: only the own block and this one neighbour block, row-major around the own one.
        relative: (height_table, width_table) of shapes (2 * reach + 1, Dk): row reach + offset holds the vector
            r whose product q.r is added to the logit.
        bias: (N, 2 * reach_height + 1, 2 * reach_width + 1): added to the logit of a key at that offset.
        extra_key: (B, G, N, Dk): keys every query sees beside its neighbourhood (global tokens).
        extra_value: (B, G, N, Dv).
        extra_bias: (N, G): added to the logits of the extra keys. Tables and biases may be of another floating
            point dtype than the maps, as parameters are under mixed precision; they are taken in the maps'.
        scale: factor of q.k, Dk ** -0.5 if None. The position term q.r enters unscaled, unless
        scale_relative: scales it too.
        relative_stride: pixels between queries as the offsets count them; `stride` if None. 1 counts query
            steps, as timm's strided HaloAttn does.
        backend: "auto" takes the fastest that can; a name ("reference", "sdpa", "triton") never falls back to another.
            `explain_backend` tells.

    Returns:
        (B, Hq, Wq, N, Dv), in the dtype of the query (under autocast: in autocast's).

    Raises:
        ValueError: an argument does not fit; the message names it, what was expected and what came.
    """
    call = _checked(**locals())
    return backends.choose(backend, call).run(call)


def explain_backend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    block_size: int | tuple[int, int],
    halo_size: int | tuple[int, int],
    stride: int = 1,
    border: str = "zeros",
    window: int | None = None,
    dilation: int = 1,
    neighbors: int | None = None,
    relative: tuple[Tensor, Tensor] | None = None,
    bias: Tensor | None = None,
    extra_key: Tensor | None = None,
    extra_value: Tensor | None = None,
    extra_bias: Tensor | None = None,
    scale: float | None = None,
    scale_relative: bool = False,
    relative_stride: int | None = None,
    backend: str = "auto",
) -> str:
    """Which backend `local_attention` would take with the same arguments, and why not the others.

    Returns:
        One line a backend: its name and "chosen" or "refused, " with the reason.

    Raises:
        ValueError: as `local_attention`, for arguments that no backend takes.
    """
    call = _checked(**locals())
    return backends.explain(backend, call)


def tune_local_attention(
    query: Tensor, key: Tensor, value: Tensor, *, rounds: int = 5, **options: Any
) -> dict[str, tuple[int, ...]]:
    """Tries the tiles of the Triton kernels on this GPU; calls of the same kind take the fastest from then on.

    Never happens by itself: without it the kernels take their tiles from a table. It compiles some thirty forms of
    each kernel, which takes minutes, and holds for this process. Calls are of one kind if block, halo, stride, window,
    dtype, device and channels a head are the same, and both have, or have not, position, bias and extra keys.

    Args:
        query, key, value, options: as for `local_attention`.
        rounds: calls of each form, of which the fastest counts.

    Returns:
        The chosen numbers of each kernel: queries and keys a tile, warps, position logits a query, stages.

    Raises:
        ValueError: an argument does not fit, or the Triton backend cannot take the call.
    """
    if not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds must be a positive int, got {rounds!r}")
    call = call_of(query, key, value, **{**options, "backend": "triton"})
    backends.choose("triton", call)
    return {kernel: tuple(tiles) for kernel, tiles in triton_gpu.operator.tune(call, rounds=rounds).items()}


def call_of(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Call:
    """The call that `local_attention` makes of the same arguments. Raises what it raises."""
    bound = inspect.signature(local_attention).bind(query, key, value, **options)
    bound.apply_defaults()
    return _checked(**bound.arguments)


def _checked(
    *,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_size: int | tuple[int, int],
    halo_size: int | tuple[int, int],
    stride: int,
    border: str,
    window: int | None,
    dilation: int,
    neighbors: int | None,
    relative: tuple[Tensor, Tensor] | None,
    bias: Tensor | None,
    extra_key: Tensor | None,
    extra_value: Tensor | None,
    extra_bias: Tensor | None,
    scale: float | None,
    scale_relative: bool,
    relative_stride: int | None,
    backend: str,
) -> Call:
    """Validates everything once and resolves defaults."""
    query, key, value, extra_key, extra_value = _autocast(query, key, value, extra_key, extra_value)
    checks.check_maps(query, key, value)
    geometry = checks.check_geometry(
        query, key, block_size, halo_size, stride, relative_stride, border, window, dilation, neighbors
    )
    checks.check_tables(query, geometry, relative, bias)
    checks.check_extra(query, value, extra_key, extra_value, extra_bias)
    checks.check_scale(scale, scale_relative, backend)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    # Parameters stay float32 under mixed precision; the maths runs in the maps' dtype.
    dtype = query.dtype
    return Call(
        query=query,
        key=key,
        value=value,
        geometry=geometry,
        relative=None if relative is None else (relative[0].to(dtype), relative[1].to(dtype)),
        bias=None if bias is None else bias.to(dtype),
        extra_key=extra_key,
        extra_value=extra_value,
        extra_bias=None if extra_bias is None else extra_bias.to(dtype),
        scale=scale,
        relative_scale=scale if scale_relative else 1.0,
    )


def _autocast(*tensors: Tensor | None) -> tuple:
    """Maps in autocast's dtype where it is on, as torch's own attention has them; float64 is left alone."""
    query = tensors[0]
    device = query.device.type if isinstance(query, Tensor) else "meta"
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)

    def cast(tensor: Tensor | None) -> Tensor | None:
        if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point or tensor.dtype == torch.float64:
            return tensor
        return tensor.to(dtype)

    return tuple(cast(tensor) for tensor in tensors)
