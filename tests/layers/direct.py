"""The halo attention layer as the paper's equation 2 reads, one output pixel at a time, from the layer's weights alone.

Shares nothing with the library: no op, no blocks cut out, no table made longer. Border "zeros" only.
"""

import math

import torch


def direct_attention(layer, image):
    """(B, C, H, W) -> (B, C * r_v, ceil(H/stride), ceil(W/stride)), before any pooling."""
    _, _, height, width = image.shape
    stride = layer.query.stride[0]
    weights = layer.key_value.weight[:, :, 0, 0]
    maps = [layer.query.weight[:, :, 0, 0], weights[: layer.dim_qk], weights[layer.dim_qk :]]
    query, key, value = (torch.einsum("oc,bchw->hwbo", weight, image) for weight in maps)
    rows = []
    for i in range(math.ceil(height / stride)):
        columns = range(math.ceil(width / stride))
        pixels = [_pixel(layer, query, key, value, stride * i, stride * j) for j in columns]
        rows.append(torch.stack(pixels, dim=-1))
    return torch.stack(rows, dim=-2)


def _pixel(layer, query, key, value, row, column):
    """The output of the query at one key pixel: (B, C * r_v)."""
    (block_h, block_w), (halo_h, halo_w) = layer.block_size, layer.halo_size
    height, width = key.shape[:2]
    first_row, first_column = row // block_h * block_h, column // block_w * block_w
    keys, values, positions = [], [], []
    for y in range(first_row - halo_h, first_row + block_h + halo_h):
        for x in range(first_column - halo_w, first_column + block_w + halo_w):
            if layer.window is not None and max(abs(y - row), abs(x - column)) > layer.window // 2:
                continue
            inside = 0 <= y < height and 0 <= x < width
            keys.append(key[y, x] if inside else torch.zeros_like(key[0, 0]))
            values.append(value[y, x] if inside else torch.zeros_like(value[0, 0]))
            positions.append(_position(layer, y - row, x - column))
    heads = layer.num_heads
    q = query[row, column].unflatten(-1, (heads, -1))  # (B, N, D)
    k = torch.stack(keys).unflatten(-1, (heads, -1)) + torch.stack(positions)[:, None, None]  # (K, B, N, D)
    v = torch.stack(values).unflatten(-1, (heads, -1))
    logits = (q * k).sum(-1) / math.sqrt(q.shape[-1])
    return (logits.softmax(0)[..., None] * v).sum(0).flatten(-2)


def _position(layer, down, across):
    """The vector r that is added to a key at this distance in pixels."""
    channels = layer.dim_qk // layer.num_heads
    if layer.relative == "none":
        return torch.zeros(channels, dtype=layer.query.weight.dtype)
    height = layer.height_table[layer.block_size[0] + layer.halo_size[0] - 1 + down]
    width = layer.width_table[layer.block_size[1] + layer.halo_size[1] - 1 + across]
    return torch.cat([height, width]) if layer.relative == "split" else height + width
