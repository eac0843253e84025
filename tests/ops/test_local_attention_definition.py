"""Output and every gradient of each backend against the loop over pixels, in float64."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halonet.ops import local_attention
from tests.ops.cases import BACKENDS, CASES, Case, assert_same, call, output_and_gradients, weights_like
from tests.ops.pixel_loop import pixel_loop

_expected = {}


def expected_of(name: str):
    """The loop is the slow half, and the same for every backend: worked out once a case."""
    if name not in _expected:
        case = CASES[name]
        _expected[name] = output_and_gradients(pixel_loop, case.tensors(), **case.arguments)
    return _expected[name]


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("name", CASES)
def test_output_and_gradients_equal_the_loop(name, backend):
    case = CASES[name]
    actual = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend=backend)
    assert_same(actual, expected_of(name))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["vision-longformer", "relative"])
@pytest.mark.parametrize("wanted", [("query", "key", "value"), ("value",), ("query",)], ids=str)
def test_gradients_of_some_tensors_alone(wanted, name, backend):
    """Tensors that ask for no gradient get none and change nothing for the others."""
    case, expected = CASES[name], expected_of(name)
    tensors = case.tensors()
    for key, tensor in tensors.items():
        tensor.requires_grad_(key in wanted)
    output = call(local_attention, tensors, **case.arguments, backend=backend)
    output.backward(gradient=weights_like(output))
    actual = {"output": output.detach()} | {key: tensors[key].grad for key in wanted}
    assert_same(actual, {key: expected[key] for key in actual})
    assert all(tensor.grad is None for key, tensor in tensors.items() if key not in wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("key_dim", "value_dim"), [(16, 40), (16, 80), (8, 96), (4, 160), (16, 256), (64, 8)])
def test_channels_of_the_published_models(key_dim, value_dim, backend):
    """Fused kernels favour some widths; H5 to H7 have these."""
    case = Case(
        map_size=(4, 5), block_size=4, halo_size=1, relative=True, heads=1, key_dim=key_dim, value_dim=value_dim
    )
    actual = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend=backend)
    assert_same(actual, output_and_gradients(pixel_loop, case.tensors(), **case.arguments))


@pytest.mark.parametrize(
    "options", [{"stride": 2}, pytest.param({}, marks=pytest.mark.slow), {"stride": 2, "border": "mask"}], ids=str
)
def test_a_map_of_h7_that_its_blocks_do_not_divide(options):
    """The last map of H7 at 600 pixels is 19 x 19 and its block 10, halo 3 (table A2)."""
    case = Case(map_size=(19, 19), block_size=10, halo_size=3, relative=True, heads=1, options=options)
    expected = output_and_gradients(pixel_loop, case.tensors(), **case.arguments)
    for backend in BACKENDS:
        actual = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend=backend)
        assert_same(actual, expected)


@st.composite
def any_case(draw) -> Case:
    """Any allowed combination of options, on maps small enough for the loop."""
    stride = draw(st.sampled_from([1, 1, 1, 2, 3]))
    blocks = st.integers(1, 4 // stride).map(lambda steps: steps * stride)
    pairs_or_ints = st.booleans()
    block = (draw(blocks), draw(blocks)) if draw(pairs_or_ints) else draw(blocks)
    halo = (draw(st.integers(0, 3)), draw(st.integers(0, 3))) if draw(pairs_or_ints) else draw(st.integers(0, 3))
    options = {"stride": stride, "border": draw(st.sampled_from(["zeros", "mask", "circular"]))}
    restriction = draw(st.sampled_from(["none", "none", "window", "neighbors"]))
    if restriction == "window":
        options["window"] = draw(st.sampled_from([1, 3, 5, 7]))
    elif restriction == "neighbors":
        options["neighbors"] = draw(st.integers(1, 8))
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from([0.0, 0.5, 1.0, -1.0, 2.5]))
    options["scale_relative"] = draw(st.booleans())
    if stride > 1 and draw(st.booleans()):
        options["relative_stride"] = draw(st.integers(1, stride))
    extra = draw(st.integers(0, 2))
    return Case(
        map_size=(draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        block_size=block,
        halo_size=halo,
        options=options,
        relative=draw(st.booleans()),
        bias=draw(st.booleans()),
        extra=extra,
        extra_bias=extra > 0 and draw(st.booleans()),
        batch=draw(st.sampled_from([1, 1, 2])),
        heads=draw(st.integers(1, 2)),
        key_dim=draw(st.integers(1, 3)),
        value_dim=draw(st.integers(1, 3)),
    )


def check_every_backend(case: Case, seed: int) -> None:
    expected = output_and_gradients(pixel_loop, case.tensors(seed=seed), **case.arguments)
    stride = case.options["stride"]
    assert expected["output"].shape[1:3] == tuple(math.ceil(size / stride) for size in case.map_size)
    for backend in BACKENDS:
        actual = output_and_gradients(local_attention, case.tensors(seed=seed), **case.arguments, backend=backend)
        assert_same(actual, expected)


PROPERTY = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}


@settings(max_examples=250, **PROPERTY)
@given(case=any_case(), seed=st.integers(0, 2**31 - 1))
def test_any_combination_of_options_equals_the_loop(case, seed):
    check_every_backend(case, seed)


@pytest.mark.slow
@settings(max_examples=2000, **PROPERTY)
@given(case=any_case(), seed=st.integers(0, 2**31 - 1))
def test_many_combinations_of_options_equal_the_loop(case, seed):
    check_every_backend(case, seed)
