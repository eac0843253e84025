"""Local attention as its contract reads, one query pixel at a time. Slow on purpose: the op is held to this.

Nothing here is shared with the library: no blocks are cut, nothing is padded, gathered or unfolded. For every
query pixel the loop lists what that query sees, each a key pixel (or a zero key from beyond the map) with its
offset; the rest is a softmax. Built of differentiable torch calls, so its gradients are a yardstick too.

Shapes: B batch, (H, W) key map, (Hq, Wq) query map, N heads, Dk and Dv channels of a head, G extra keys.
"""

import math
from typing import NamedTuple

import torch

# Vision Longformer's order: the 3 x 3 blocks row by row without the centre; neighbour 1 is the upper left.
NEIGHBOR_BLOCKS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


class Sight(NamedTuple):
    """One thing a query sees."""

    pixel: tuple[int, int] | None  # None: beyond the map, a key and value of zero
    offset: tuple[int, int]  # key pixel minus relative_stride * query index, both counted from their block's first


def pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)


def what_a_query_sees(
    i, j, *, map_size, block_size, halo_size, stride, border, window, neighbors, relative_stride
) -> list[Sight]:
    """All that query (i, j), which stands at key pixel (stride * i, stride * j), attends to but extra keys."""
    (height, width), (block_h, block_w), (halo_h, halo_w) = map_size, block_size, halo_size
    whole_h, whole_w = math.ceil(height / block_h) * block_h, math.ceil(width / block_w) * block_w
    query_y, query_x = stride * i, stride * j
    first_y, first_x = query_y // block_h * block_h, query_x // block_w * block_w  # of the query's block
    seen = []
    for y in range(first_y - halo_h, first_y + block_h + halo_h):
        for x in range(first_x - halo_w, first_x + block_w + halo_w):
            if window is not None and max(abs(y - query_y), abs(x - query_x)) > window // 2:
                continue
            if neighbors is not None:
                block_of_key = ((y - first_y) // block_h, (x - first_x) // block_w)
                if block_of_key not in ((0, 0), NEIGHBOR_BLOCKS[neighbors - 1]):
                    continue
            offset = (
                (y - first_y) - relative_stride * ((query_y - first_y) // stride),
                (x - first_x) - relative_stride * ((query_x - first_x) // stride),
            )
            pixel_y, pixel_x = (y % whole_h, x % whole_w) if border == "circular" else (y, x)
            if 0 <= pixel_y < height and 0 <= pixel_x < width:
                seen.append(Sight((pixel_y, pixel_x), offset))
            elif border == "zeros":
                seen.append(Sight(None, offset))
    return seen


def pixel_loop(
    query,  # (B, Hq, Wq, N, Dk)
    key,  # (B, H, W, N, Dk)
    value,  # (B, H, W, N, Dv)
    *,
    block_size,
    halo_size,
    stride=1,
    border="zeros",
    window=None,
    neighbors=None,
    relative=None,
    bias=None,
    extra_key=None,
    extra_value=None,
    extra_bias=None,
    scale=None,
    scale_relative=False,
    relative_stride=None,
):  # -> (B, Hq, Wq, N, Dv)
    block_size, halo_size = pair(block_size), pair(halo_size)
    if any(size % stride for size in block_size):
        raise ValueError("block_size must be a multiple of stride")
    batch, query_h, query_w, heads, key_dim = query.shape
    reach_h, reach_w = block_size[0] + halo_size[0] - 1, block_size[1] + halo_size[1] - 1
    scale = key_dim**-0.5 if scale is None else scale
    zero_key, zero_value = key.new_zeros(key_dim), value.new_zeros(value.shape[-1])

    def answer(b, n, q, seen):
        """What head n of image b returns for the query vector q."""
        keys = torch.stack([zero_key if s.pixel is None else key[(b, *s.pixel, n)] for s in seen])
        values = torch.stack([zero_value if s.pixel is None else value[(b, *s.pixel, n)] for s in seen])
        rows = torch.tensor([reach_h + s.offset[0] for s in seen])
        columns = torch.tensor([reach_w + s.offset[1] for s in seen])
        logits = scale * (keys @ q)
        if relative is not None:
            position = (relative[0][rows] + relative[1][columns]) @ q
            logits = logits + (scale * position if scale_relative else position)
        if bias is not None:
            logits = logits + bias[n][rows, columns]
        if extra_key is not None:
            extra = scale * (extra_key[b, :, n] @ q)
            logits = torch.cat([logits, extra if extra_bias is None else extra + extra_bias[n]])
            values = torch.cat([values, extra_value[b, :, n]])
        return logits.softmax(0) @ values

    pixels = []
    for i in range(query_h):
        for j in range(query_w):
            seen = what_a_query_sees(
                i,
                j,
                map_size=key.shape[1:3],
                block_size=block_size,
                halo_size=halo_size,
                stride=stride,
                border=border,
                window=window,
                neighbors=neighbors,
                relative_stride=stride if relative_stride is None else relative_stride,
            )
            pixels.append([[answer(b, n, query[b, i, j, n], seen) for n in range(heads)] for b in range(batch)])
    rows_of_images = [torch.stack([torch.stack(head) for head in image]) for image in pixels]  # each (B, N, Dv)
    return torch.stack(rows_of_images, dim=1).reshape(batch, query_h, query_w, heads, value.shape[-1])
