"""Low precision, autocast, memory layouts. Errors are bounded by what plain eager code of the same dtype makes."""

import functools
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from halonet.ops import local_attention
from tests.ops.cases import BACKENDS, CASES, Case, assert_same, call, output_and_gradients
from tests.ops.pixel_loop import pixel_loop

_ROOMY = Case(map_size=(6, 5), block_size=4, halo_size=1, relative=True, bias=True, key_dim=8, value_dim=10)

DTYPE_CASES = {
    "zeros": _ROOMY,
    "mask-extra": replace(_ROOMY, options={"border": "mask"}, extra=2, extra_bias=True),
    "circular-window": replace(_ROOMY, options={"border": "circular", "window": 3}),
    "stride-2": replace(_ROOMY, options={"stride": 2, "scale_relative": True}),
    "neighbor": replace(_ROOMY, options={"neighbors": 4}),
    "bare": replace(_ROOMY, relative=False, bias=False),
}


def assert_error_at_most_twice(actual, eager, exact, *, dtype):
    """Twice the largest error of eager code, plus two units in the last place of the largest value."""
    for name, truth in exact.items():
        error = (actual[name].double() - truth).abs().max().item()
        allowed = 2 * (eager[name].double() - truth).abs().max().item()
        band = 2 * torch.finfo(dtype).eps * truth.abs().max().item()
        assert error <= allowed + band, f"{name}: error {error:.3g}, allowed {allowed:.3g} + {band:.3g}"


@functools.cache
def exact_of(name: str, dtype):
    """The loop in float64 on the numbers that the case has in `dtype`."""
    case = DTYPE_CASES[name]
    double = {key: tensor.detach().double().requires_grad_() for key, tensor in case.tensors(dtype=dtype).items()}
    return output_and_gradients(pixel_loop, double, **case.arguments)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", DTYPE_CASES)
def test_error_is_at_most_twice_that_of_eager(name, dtype, backend):
    """Eager code is the loop itself for the reference backend, and the reference backend for the others."""
    case = DTYPE_CASES[name]
    low, exact = case.tensors(dtype=dtype), exact_of(name, dtype)
    if backend == "reference":
        eager = output_and_gradients(pixel_loop, low, **case.arguments)
    else:
        eager = output_and_gradients(local_attention, low, **case.arguments, backend="reference")
    actual = output_and_gradients(local_attention, low, **case.arguments, backend=backend)
    assert {tensor.dtype for tensor in actual.values()} == {dtype}
    assert_error_at_most_twice(actual, eager, exact, dtype=dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["mask-extra", "circular-window"])
def test_large_logits_stay_finite(name, dtype, backend):
    """A softmax that does not subtract its maximum overflows here."""
    case = replace(DTYPE_CASES[name], options={**DTYPE_CASES[name].options, "scale": 30.0})
    low = case.tensors(dtype=dtype)
    actual = output_and_gradients(local_attention, low, **case.arguments, backend=backend)
    assert all(tensor.isfinite().all() for tensor in actual.values())
    largest = max(tensor.abs().max() for key, tensor in low.items() if "value" in key)
    assert (actual["output"].abs() <= 1.05 * largest).all()  # a weighted mean
    # Rounding a logit of about 100 in bfloat16 moves it by up to 0.5: only the wider types are compared closely.
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-3}.get(dtype)
    if tolerance:
        double = {key: tensor.detach().double() for key, tensor in low.items()}
        exact = {"output": call(pixel_loop, double, **case.arguments)}
        torch.testing.assert_close(actual["output"].double(), exact["output"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "options",
    [{"border": "mask"}, {"border": "circular"}, {"border": "mask", "window": 3}, {"border": "mask", "neighbors": 2}],
    ids=str,
)
def test_masks_hold_however_low_the_logits(options, dtype, backend):
    """Every key that is seen has the logit -1024: a mask that is merely a negative number would win over it."""
    case = Case(map_size=(5, 7), block_size=4, halo_size=2, options={**options, "scale": 1.0}, key_dim=4, value_dim=2)
    tensors = case.tensors(dtype=dtype, requires_grad=False)
    tensors["query"], tensors["key"] = tensors["query"].fill_(16), tensors["key"].fill_(-16)
    tensors["value"] = tensors["value"].fill_(1)
    output = call(local_attention, tensors, **case.arguments, backend=backend)
    torch.testing.assert_close(output, torch.ones_like(output), rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("maps", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["zeros", "mask-extra", "bare"])
def test_autocast(name, maps, backend):
    """Under autocast a map may come from a float32 layer or from a lowered one; parameters stay float32."""
    case = DTYPE_CASES[name]
    tensors = case.tensors(dtype=torch.float32)
    for map_name in ("query", "key", "value"):
        tensors[map_name] = tensors[map_name].detach().to(maps).requires_grad_()
    double = {key: tensor.detach().double().requires_grad_() for key, tensor in tensors.items()}
    exact = output_and_gradients(pixel_loop, double, **case.arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = output_and_gradients(local_attention, tensors, **case.arguments, backend=backend)
    assert actual["output"].dtype == torch.bfloat16
    assert all(actual[key].dtype == tensor.dtype for key, tensor in tensors.items())
    lowered = {key: tensor.detach().to(torch.bfloat16).requires_grad_() for key, tensor in tensors.items()}
    eager = output_and_gradients(pixel_loop, lowered, **case.arguments)
    assert_error_at_most_twice(actual, eager, exact, dtype=torch.bfloat16)


def slices_of_one_map(case):
    """q, k and v as slices of one projection's channels, the layout that a fused qkv layer leaves."""
    own = case.tensors(requires_grad=False)
    joined = torch.cat([own["query"], own["key"], own["value"]], dim=-1)
    query, key, value = joined.split([case.key_dim, case.key_dim, case.value_dim], dim=-1)
    return {**own, "query": query, "key": key, "value": value}


def channels_first(case):
    """Views of (B, N * D, H, W) maps as a convolution leaves them."""
    own = case.tensors(requires_grad=False)
    return own | {name: own[name].permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) for name in TRIPLE}


def transposed(case):
    """Views in which height and width, and batch and heads, are swapped in memory."""
    own = case.tensors(requires_grad=False)
    return own | {name: own[name].permute(3, 2, 1, 0, 4).contiguous().permute(3, 2, 1, 0, 4) for name in TRIPLE}


def part_of_a_larger_map(case):
    """Every second pixel of a map twice as large, and tables that are columns of a wider one."""
    own = case.tensors(requires_grad=False)
    views = {}
    for name, tensor in own.items():
        larger = torch.full([2 * size for size in tensor.shape], float("nan"), dtype=tensor.dtype)
        views[name] = larger[tuple(slice(None, None, 2) for _ in tensor.shape)].copy_(tensor)
    return views


def expanded(case):
    """One image and one head seen as many (stride 0)."""
    own = case.tensors(requires_grad=False)
    return own | {name: own[name][:1, :, :, :1].expand_as(own[name]) for name in TRIPLE}


TRIPLE = ("query", "key", "value")
LAYOUTS = [slices_of_one_map, channels_first, transposed, part_of_a_larger_map, expanded]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", ["odd-map", "vision-longformer", "circular-odd-map"])
def test_any_memory_layout(name, layout, backend):
    case = replace(CASES[name], batch=2)
    views = layout(case)
    assert not views["query"].is_contiguous() or not views["key"].is_contiguous()
    plain = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in views.items()}
    for tensors in (views, plain):
        for tensor in tensors.values():
            tensor.requires_grad_()
    expected = output_and_gradients(local_attention, plain, **case.arguments, backend=backend)
    actual = output_and_gradients(local_attention, views, **case.arguments, backend=backend)
    assert_same(actual, expected, tolerance=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["odd-map", "vision-longformer", "stride-2-odd-map"])
def test_any_memory_layout_of_the_incoming_gradient(name, backend):
    """A sum hands back one number seen as a map (stride 0), a permutation a transposed map."""
    case = replace(CASES[name], batch=2)
    for loss in (lambda out: out.sum(), lambda out: (out.permute(0, 3, 4, 1, 2).contiguous() ** 2).sum()):
        tensors = case.tensors()
        leaves = list(tensors.values())
        output = call(local_attention, tensors, **case.arguments, backend=backend)
        apart = output.detach().clone().requires_grad_()
        incoming = torch.autograd.grad(loss(apart), apart)[0].clone(memory_format=torch.contiguous_format)
        expected = torch.autograd.grad(output, leaves, incoming, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(loss(output), leaves), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["odd-map", "vision-longformer", "everything", "map-smaller-than-halo"])
def test_inputs_are_left_alone_and_calls_repeat(name, backend):
    case = CASES[name]
    tensors = case.tensors()
    before = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    first = output_and_gradients(local_attention, tensors, **case.arguments, backend=backend)
    second = output_and_gradients(local_attention, tensors, **case.arguments, backend=backend)
    assert all(torch.equal(tensors[key], tensor) for key, tensor in before.items())
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_gradients_the_answer_is_the_same(backend):
    case = CASES["vision-longformer"]
    tensors = case.tensors()
    expected = call(local_attention, tensors, **case.arguments, backend=backend)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            actual = call(local_attention, tensors, **case.arguments, backend=backend)
        assert not actual.requires_grad
        torch.testing.assert_close(actual, expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numba"])  # a CPU is all it knows
@pytest.mark.parametrize("name", CASES)
def test_every_tensor_is_made_on_the_device_of_the_maps(name, backend):
    """With tensors that have a device and no memory, so that no accelerator is needed; mixing devices raises."""
    case = CASES[name]
    with FakeTensorMode():
        maps = {
            key: torch.zeros(tensor.shape, device="cuda") for key, tensor in case.tensors(requires_grad=False).items()
        }
        output = call(local_attention, maps, **case.arguments, backend=backend)
    assert output.device.type == "cuda"
