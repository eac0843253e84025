"""Maps of many blocks, which backends work through in tiles: every way to cut the work gives the same answer."""

import pytest
import torch

from halonet.ops import local_attention
from halonet.ops.local_attention.tiles import clipped
from tests.ops.cases import CASES, Case, assert_same, output_and_gradients


def assert_equals_reference(case: Case) -> None:
    """The reference is held to the loop elsewhere; here the loop would take minutes."""
    expected = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend="reference")
    actual = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend="sdpa")
    assert_same(actual, expected)


LARGE = {"map_size": (37, 29), "batch": 3, "heads": 4, "key_dim": 8, "value_dim": 12}
LARGE_CASES = {
    "halonet": Case(block_size=8, halo_size=3, relative=True, **LARGE),
    "mask": Case(block_size=8, halo_size=3, relative=True, options={"border": "mask"}, **LARGE),
    "downsampling": Case(block_size=8, halo_size=3, relative=True, options={"stride": 2}, **LARGE),
    "pixel-centred": Case(block_size=4, halo_size=3, relative=True, options={"window": 7}, **LARGE),
    "rectangular": Case(block_size=(4, 10), halo_size=(5, 1), relative=True, **LARGE),
    "halo-two-blocks-deep": Case(block_size=4, halo_size=7, relative=True, **LARGE),
    "separate-windows": Case(block_size=7, halo_size=0, **LARGE),
    "one-block": Case(block_size=40, halo_size=0, relative=True, **{**LARGE, "batch": 1, "heads": 2}),
    "circular": Case(block_size=8, halo_size=3, bias=True, options={"border": "circular"}, **LARGE),
}


@pytest.mark.parametrize("name", LARGE_CASES)
def test_large_maps(name):
    assert_equals_reference(LARGE_CASES[name])


@pytest.mark.parametrize("tile_bytes", [1, 1500, 6000])
@pytest.mark.parametrize("name", CASES)
def test_tiles_of_any_size(name, tile_bytes, monkeypatch):
    """From one row of queries of one block a tile up to a few blocks: no case above fills a tile otherwise."""
    monkeypatch.setattr(clipped, "TILE_BYTES", tile_bytes)
    case = CASES[name]
    expected = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend="reference")
    actual = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend="sdpa")
    assert_same(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tile_bytes", [1, 20_000, 1 << 21])
def test_answers_do_not_depend_on_the_tiles(tile_bytes, dtype, monkeypatch):
    case = Case(map_size=(19, 22), block_size=6, halo_size=2, relative=True, batch=3, heads=3, key_dim=8, value_dim=5)
    monkeypatch.setattr(clipped, "TILE_BYTES", 1 << 30)
    expected = output_and_gradients(local_attention, case.tensors(dtype=dtype), **case.arguments, backend="sdpa")
    monkeypatch.setattr(clipped, "TILE_BYTES", tile_bytes)
    actual = output_and_gradients(local_attention, case.tensors(dtype=dtype), **case.arguments, backend="sdpa")
    for name, tensor in expected.items():
        band = 16 * torch.finfo(dtype).eps * tensor.abs().max().item()
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=band)
