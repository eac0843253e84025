"""What local attention promises, stated without the loop: who sees whom, what moves with the image, what is equal."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from halonet.ops import local_attention
from tests.ops.cases import BACKENDS, CASES, Case, call, pair

pytestmark = pytest.mark.parametrize("backend", BACKENDS)
BORDERS = ("zeros", "mask", "circular")


def run(case: Case, tensors, backend, **changes):
    return call(local_attention, tensors, **{**case.arguments, **changes}, backend=backend)


def blocks_that_see(pixel, case: Case):
    """Query blocks whose block plus halo holds a key pixel, straight or around the border."""
    seeing = []
    for size, block, halo, position in zip(
        case.map_size, pair(case.block_size), pair(case.halo_size), pixel, strict=True
    ):
        whole = math.ceil(size / block) * block
        wraps = (-whole, 0, whole) if case.options.get("border") == "circular" else (0,)
        seeing.append(
            {
                first // block
                for first in range(0, size, block)
                if any(first - halo <= position + wrap < first + block + halo for wrap in wraps)
            }
        )
    return {(down, across) for down in seeing[0] for across in seeing[1]}


def queries_of(blocks, case: Case):
    """(Hq, Wq) mask of the queries that stand in the blocks."""
    stride = case.options.get("stride", 1)
    (height, width), (block_h, block_w) = case.map_size, pair(case.block_size)
    rows, columns = range(0, height, stride), range(0, width, stride)
    return torch.tensor([[(y // block_h, x // block_w) in blocks for x in columns] for y in rows])


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pixel", [(0, 0), (3, 4), (6, 8), (6, 2)], ids=str)
def test_a_pixel_outside_block_and_halo_changes_nothing(pixel, stride, border, backend):
    case = Case(
        map_size=(7, 9),
        block_size=2,
        halo_size=1,
        options={"stride": stride, "border": border},
        relative=True,
        bias=True,
    )
    sees = queries_of(blocks_that_see(pixel, case), case)
    assert sees.any()
    assert not sees.all()
    tensors = case.tensors(requires_grad=False)
    before = run(case, tensors, backend)
    for number in (3.0, float("inf"), float("nan")):
        changed = {name: tensor.clone() for name, tensor in tensors.items()}
        changed["key"][0, pixel[0], pixel[1]] = number
        changed["value"][0, pixel[0], pixel[1]] = number
        unchanged = (run(case, changed, backend) == before).all(-1).all(-1)[0]
        assert torch.equal(unchanged, ~sees), f"a pixel of {number}"  # and whoever sees it does change
    tensors = case.tensors()
    output = run(case, tensors, backend)
    gradients = torch.autograd.grad(output[0][~sees].square().sum(), [tensors["key"], tensors["value"]])
    for gradient in gradients:
        assert gradient[0, pixel[0], pixel[1]].eq(0).all()
        assert gradient.abs().max() > 0


def test_a_pixel_outside_the_window_changes_nothing(backend):
    case = Case(map_size=(6, 7), block_size=3, halo_size=2, options={"window": 3}, relative=True)
    tensors = case.tensors(requires_grad=False)
    before = run(case, tensors, backend)
    tensors["key"][0, 2, 3] += 1
    tensors["value"][0, 2, 3] -= 2
    moved = (run(case, tensors, backend) - before).abs().amax((0, 3, 4)) > 0
    expected = torch.zeros(6, 7, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("border", ["mask", "circular"])
@pytest.mark.parametrize("options", [{}, {"window": 3}, {"neighbors": 3}, {"stride": 2}], ids=str)
@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("map_size", [(5, 7), (1, 1), (2, 3)], ids=str)
def test_a_constant_map_comes_back_unchanged_where_borders_do_not_take_part(map_size, extra, options, border, backend):
    case = Case(
        map_size=map_size,
        block_size=4,
        halo_size=2,
        options={**options, "border": border},
        relative=True,
        bias=True,
        extra=extra,
    )
    tensors = case.tensors(requires_grad=False)
    constant = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    for name in {"value", "extra_value"} & tensors.keys():
        tensors[name] = constant.expand_as(tensors[name])
    output = run(case, tensors, backend)
    torch.testing.assert_close(output, constant.expand_as(output), rtol=1e-12, atol=1e-12)


def test_a_constant_map_fades_at_a_border_of_zeros(backend):
    case = Case(map_size=(4, 4), block_size=2, halo_size=1)
    tensors = case.tensors(requires_grad=False)
    tensors["value"] = torch.ones_like(tensors["value"])
    output = run(case, tensors, backend)
    assert (output < 1 - 1e-3).all()  # every block of this map touches the border


def rolled(tensors, shift):
    """The maps moved down and right, around the border."""
    maps = ("query", "key", "value")
    return {name: tensor.roll(shift, (1, 2)) if name in maps else tensor for name, tensor in tensors.items()}


SHIFTED = Case(map_size=(12, 15), block_size=3, halo_size=2, relative=True, bias=True)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shift", [(3, 0), (0, 3), (6, 3)], ids=str)
def test_moving_the_image_by_blocks_moves_the_output(shift, border, backend):
    tensors = SHIFTED.tensors(requires_grad=False)
    output = run(SHIFTED, tensors, backend, border=border)
    moved = run(SHIFTED, rolled(tensors, shift), backend, border=border)
    # Interior: blocks whose halo stays inside the map both before and after.
    inside = (slice(None), slice(shift[0] + 3, -3), slice(shift[1] + 3, -3))
    if border == "circular":
        inside = (slice(None),)
    torch.testing.assert_close(moved[inside], output.roll(shift, (1, 2))[inside], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (2, 1)], ids=str)
@pytest.mark.parametrize("window", [None, 3, 5])
def test_moving_the_image_by_pixels_moves_the_output_only_with_a_window(window, shift, border, backend):
    """HaloNet, section 2.2: haloed blocks give up translational equivariance, pixel-centred windows keep it."""
    tensors = SHIFTED.tensors(requires_grad=False)
    output = run(SHIFTED, tensors, backend, border=border, window=window)
    moved = run(SHIFTED, rolled(tensors, shift), backend, border=border, window=window)
    inside = (slice(None), slice(5, -5), slice(5, -5))
    difference = (moved - output.roll(shift, (1, 2)))[inside].abs().max()
    assert difference < 1e-12 if window else difference > 1e-3


@pytest.mark.parametrize("border", BORDERS)
def test_one_block_as_large_as_the_map_is_global_attention(border, backend):
    """With position: every pair of pixels of the map, logits written out in full."""
    case = Case(map_size=(4, 3), block_size=(4, 3), halo_size=0, options={"border": border}, relative=True, bias=True)
    tensors = case.tensors(requires_grad=False)
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(4), torch.arange(3), indexing="ij"))
    rows, columns = y[None] - y[:, None] + 3, x[None] - x[:, None] + 2  # (query, key)
    query, key, value = (tensors[name].flatten(1, 2) for name in ("query", "key", "value"))
    position = tensors["height_table"][rows] + tensors["width_table"][columns]
    logits = torch.einsum("bqnd,bknd->bnqk", query, key) * 3**-0.5
    logits = logits + torch.einsum("bqnd,qkd->bnqk", query, position) + tensors["bias"][:, rows, columns]
    expected = torch.einsum("bnqk,bknd->bqnd", logits.softmax(-1), value).unflatten(1, (4, 3))
    torch.testing.assert_close(run(case, tensors, backend), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("border", BORDERS)
def test_halo_zero_is_attention_in_separate_windows(border, backend):
    case = Case(map_size=(6, 4), block_size=(3, 2), halo_size=0, options={"border": border}, batch=2)
    tensors = case.tensors(requires_grad=False)

    def windows(map_):
        cut = map_.unflatten(1, (2, 3)).unflatten(3, (2, 2))  # (B, I, i, J, j, N, D)
        return cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5)  # (B, I, J, N, pixels, D)

    expected = F.scaled_dot_product_attention(*(windows(tensors[name]) for name in ("query", "key", "value")))
    torch.testing.assert_close(windows(run(case, tensors, backend)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("block_size", [2, (3, 4), 6], ids=str)
def test_block_one_is_attention_in_the_window_of_each_pixel(block_size, border, backend):
    """Block 1 and halo h see the same pixels as any block with the window 2h + 1, if the halo holds it."""
    single = Case(map_size=(6, 12), block_size=1, halo_size=2, options={"border": border}, relative=True, bias=True)
    tensors = single.tensors(requires_grad=False)
    expected = run(single, tensors, backend)
    blocked = replace(single, block_size=block_size, options={"border": border, "window": 5})
    wider = dict(tensors)
    more = [(ours - theirs) for ours, theirs in zip(blocked.reach, single.reach, strict=True)]
    wider["height_table"] = F.pad(tensors["height_table"], (0, 0, more[0], more[0]), value=7.0)
    wider["width_table"] = F.pad(tensors["width_table"], (0, 0, more[1], more[1]), value=7.0)
    wider["bias"] = F.pad(tensors["bias"], (more[1], more[1], more[0], more[0]), value=7.0)
    torch.testing.assert_close(run(blocked, wider, backend), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("window", [None, 3])
def test_a_strided_query_is_every_second_query(window, border, backend):
    case = Case(map_size=(7, 6), block_size=4, halo_size=1, options={"border": border}, relative=True, bias=True)
    tensors = case.tensors(requires_grad=False)
    expected = run(case, tensors, backend, window=window)[:, ::2, ::2]
    tensors["query"] = tensors["query"][:, ::2, ::2]
    actual = run(case, tensors, backend, window=window, stride=2)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_border_of_zeros_is_a_map_surrounded_by_zeros(backend):
    case = Case(map_size=(6, 4), block_size=2, halo_size=2, relative=True, bias=True)
    tensors = case.tensors(requires_grad=False)
    larger = dict(tensors)
    for name in ("query", "key", "value"):
        larger[name] = F.pad(tensors[name], (0, 0, 0, 0, 2, 2, 2, 2))
    inner = run(case, larger, backend, border="mask")[:, 2:-2, 2:-2]
    torch.testing.assert_close(run(case, tensors, backend), inner, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["vision-longformer", "everything", "odd-map"])
def test_images_do_not_see_each_other(name, backend):
    case = replace(CASES[name], batch=3)
    tensors = case.tensors(requires_grad=False)
    output = run(case, tensors, backend)
    of_an_image = ("query", "key", "value", "extra_key", "extra_value")
    order = [2, 0, 1]
    reordered = {key: tensor[order] if key in of_an_image else tensor for key, tensor in tensors.items()}
    torch.testing.assert_close(run(case, reordered, backend), output[order], rtol=1e-12, atol=1e-12)
    alone = {key: tensor[1:2] if key in of_an_image else tensor for key, tensor in tensors.items()}
    torch.testing.assert_close(run(case, alone, backend), output[1:2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["vision-longformer", "everything", "odd-map"])
def test_heads_do_not_see_each_other(name, backend):
    case = replace(CASES[name], heads=3)
    tensors = case.tensors(requires_grad=False)
    output = run(case, tensors, backend)
    order = torch.tensor([1, 2, 0])
    axis = {"query": 3, "key": 3, "value": 3, "bias": 0, "extra_key": 2, "extra_value": 2, "extra_bias": 0}
    reordered = {
        key: tensor.index_select(axis[key], order) if key in axis else tensor for key, tensor in tensors.items()
    }
    torch.testing.assert_close(run(case, reordered, backend), output[:, :, :, order], rtol=1e-12, atol=1e-12)


def test_an_extra_key_that_outweighs_all_others_gives_its_value(backend):
    case = Case(map_size=(5, 4), block_size=2, halo_size=1, extra=2, extra_bias=True)
    tensors = case.tensors(requires_grad=False)
    tensors["extra_bias"] = torch.tensor([[0.0, 1000.0], [1000.0, 0.0]], dtype=torch.float64)
    output = run(case, tensors, backend)
    for head, token in ((0, 1), (1, 0)):
        expected = tensors["extra_value"][:, token, head].expand(5, 4, -1)
        torch.testing.assert_close(output[0, :, :, head], expected, rtol=1e-12, atol=1e-12)


def test_extra_keys_without_weight_change_nothing(backend):
    case = Case(map_size=(5, 4), block_size=2, halo_size=1, relative=True)
    tensors = case.tensors(requires_grad=False)
    expected = run(case, tensors, backend)
    with_extra = replace(case, extra=2, extra_bias=True).tensors(requires_grad=False) | tensors
    with_extra["extra_bias"] = torch.full((2, 2), -1000.0, dtype=torch.float64)
    torch.testing.assert_close(run(case, with_extra, backend), expected, rtol=1e-12, atol=1e-12)


def test_tables_not_reached_by_any_offset_have_no_gradient(backend):
    """A window of 3 reaches offsets -1..1 only."""
    case = Case(map_size=(6, 6), block_size=3, halo_size=1, options={"window": 3}, relative=True, bias=True)
    tensors = case.tensors()
    run(case, tensors, backend).square().sum().backward()
    reached = [False, False, True, True, True, False, False]
    assert tensors["height_table"].grad.abs().amax(1).gt(1e-12).tolist() == reached
    assert tensors["bias"].grad.abs().amax((0, 2)).gt(1e-12).tolist() == reached
