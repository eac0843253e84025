"""Against code of others: timm's halo and bottleneck attention with copied weights, PyTorch's own attention."""

import pytest
import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.halo_attn import HaloAttn
from torch.nn import functional as F

from halonet.ops import local_attention
from tests.ops.cases import BACKENDS, CASES, call, weights_like


def heads_last(image, heads):
    """(B, N * D, H, W) -> (B, H, W, N, D)."""
    return image.unflatten(1, (heads, -1)).permute(0, 3, 4, 1, 2)


def channels_first(out):
    """(B, H, W, N, D) -> (B, N * D, H, W)."""
    return out.permute(0, 3, 4, 1, 2).flatten(1, 2)


def assert_layer_equals(layer, ours, image):
    """Output, gradient of the image, and gradient of every parameter of the layer."""
    results = []
    for function in (layer, ours):
        output = function(image)
        leaves = [image, *layer.parameters()]
        results.append([output, *torch.autograd.grad(output, leaves, weights_like(output))])
    for name, theirs, mine in zip(["output", "image", *dict(layer.named_parameters())], *results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("block", "halo", "map_size", "scale_pos_embed"),
    [(4, 1, (8, 12), False), (4, 3, (8, 8), True), (2, 3, (6, 4), False), (6, 0, (6, 12), False)],
)
def test_timm_halo_attention(block, halo, map_size, scale_pos_embed, stride, backend):
    """timm's tables have 2 * (block + 2 * halo) - 1 rows; no offset reaches the first 2 * halo of them."""
    torch.manual_seed(0)
    layer = HaloAttn(
        dim=6,
        dim_out=12,
        stride=stride,
        num_heads=3,
        dim_head=8,
        block_size=block,
        halo_size=halo,
        qkv_bias=True,
        scale_pos_embed=scale_pos_embed,
    ).double()
    torch.nn.init.normal_(layer.pos_embed.height_rel)
    torch.nn.init.normal_(layer.pos_embed.width_rel)
    image = torch.randn(2, 6, *map_size, dtype=torch.float64, requires_grad=True)

    def ours(image):
        query = heads_last(layer.q(image), 3)
        key, value = heads_last(layer.kv(image), 3).split([layer.dim_head_qk, layer.dim_head_v], dim=-1)
        out = local_attention(
            query,
            key,
            value,
            block_size=block,
            halo_size=halo,
            stride=stride,
            relative=(layer.pos_embed.height_rel[2 * halo :], layer.pos_embed.width_rel[2 * halo :]),
            scale_relative=scale_pos_embed,
            relative_stride=1,
            backend=backend,
        )
        return channels_first(out)

    assert_layer_equals(layer, ours, image)


def test_timm_at_stride_2_counts_offsets_in_query_steps():
    """With our default, offsets in pixels, the strided layer gives another answer: the difference is documented."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, size, size, 1, 4, dtype=torch.float64) for size in (2, 4, 4))
    tables = tuple(torch.randn(2 * 4 + 1, 4, dtype=torch.float64) for _ in range(2))
    options = {"block_size": 4, "halo_size": 1, "stride": 2, "relative": tables}
    in_pixels = local_attention(query, key, value, **options)
    torch.testing.assert_close(in_pixels, local_attention(query, key, value, **options, relative_stride=2))
    difference = (in_pixels - local_attention(query, key, value, **options, relative_stride=1)).abs()
    assert difference[0, 0, 0].max() < 1e-12  # the first query of a block counts from the same pixel
    assert difference[0, 1, 1].max() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("feat_size", [(4, 4), (3, 5)])
@pytest.mark.parametrize("scale_pos_embed", [False, True])
def test_timm_bottleneck_attention(feat_size, scale_pos_embed, backend):
    """One block as large as the map, halo 0: the tables of both have 2 * size - 1 rows."""
    torch.manual_seed(0)
    layer = BottleneckAttn(
        dim=6, dim_out=12, feat_size=feat_size, num_heads=2, dim_head=8, scale_pos_embed=scale_pos_embed
    ).double()
    torch.nn.init.normal_(layer.pos_embed.height_rel)
    torch.nn.init.normal_(layer.pos_embed.width_rel)
    image = torch.randn(2, 6, *feat_size, dtype=torch.float64, requires_grad=True)

    def ours(image):
        parts = layer.qkv(image).split([layer.dim_out_qk, layer.dim_out_qk, layer.dim_out_v], dim=1)
        out = local_attention(
            *(heads_last(part, 2) for part in parts),
            block_size=feat_size,
            halo_size=0,
            relative=(layer.pos_embed.height_rel, layer.pos_embed.width_rel),
            scale_relative=scale_pos_embed,
            backend=backend,
        )
        return channels_first(out)

    assert_layer_equals(layer, ours, image)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "sizes",
    [
        {"block_size": (5, 4), "halo_size": 0},
        {"block_size": 8, "halo_size": 0, "border": "mask"},
        {"block_size": 1, "halo_size": 5, "border": "mask"},
        {"block_size": 8, "halo_size": 0, "border": "circular"},
    ],
    ids=["block-is-map", "block-beyond-map", "halo-beyond-map", "one-block-circular"],
)
def test_global_attention_is_scaled_dot_product_attention(sizes, backend):
    case = CASES["batch-and-heads"]
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, 5, 4, 3, channels, generator=generator, dtype=torch.float64, requires_grad=True)
        for channels in (case.key_dim, case.key_dim, case.value_dim)
    ]
    actual = call(local_attention, dict(zip(("query", "key", "value"), maps, strict=True)), **sizes, backend=backend)
    sequences = [map_.flatten(1, 2).transpose(1, 2) for map_ in maps]
    expected = F.scaled_dot_product_attention(*sequences).transpose(1, 2).unflatten(1, (5, 4))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(output, maps, weights_like(output)) for output in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
