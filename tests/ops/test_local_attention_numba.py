"""What is particular to the kernels compiled by numba: threads, forked processes, widths of registers."""

import os
from collections import defaultdict
from dataclasses import replace

import numba
import numpy as np
import pytest
import torch

from halonet.ops import explain_backend, local_attention
from halonet.ops.local_attention import backends
from halonet.ops.local_attention.numba_cpu import amx, operator
from tests.ops.cases import CASES, Case, assert_same, call, output_and_gradients

_CASE = Case(map_size=(9, 7), block_size=4, halo_size=1, relative=True, batch=2, heads=3)


def result(case, *, dtype=torch.float64):
    return output_and_gradients(local_attention, case.tensors(dtype=dtype), **case.arguments, backend="numba")


@pytest.fixture
def threads():
    """Sets torch's threads, and sets them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_torch_keeps_its_number_of_threads_and_bits_do_not_depend_on_it(threads):
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(result(_CASE))
        assert torch.get_num_threads() == count
    for other in results[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in results[0].items())


def test_in_a_forked_process_another_backend_runs():
    """OpenMP ends a process that forked after its threads had started."""
    expected = result(_CASE)["output"]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)  # as in a DataLoader's workers: torch's own threads do not survive a fork either
            tensors = _CASE.tensors()
            output = call(local_attention, tensors, **_CASE.arguments)
            said = call(explain_backend, tensors, **_CASE.arguments)
            fine = torch.allclose(output, expected) and "numba: refused" in said and "sdpa: chosen" in said
            status = 0 if fine else 2
        finally:
            os._exit(status)  # whatever happens: it must not go on with the tests
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("block", [5, 6, 7])
def test_widths_that_do_not_fill_registers(channels, block):
    """Channels, and queries of a block (25, 36 and 49), on both sides of a multiple of 16 and 32."""
    case = Case(map_size=(9, 8), block_size=block, halo_size=2, relative=True, key_dim=channels, value_dim=channels + 1)
    expected = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend="reference")
    assert_same(result(case), expected)


# More than 256 keys a block, which come in tiles, and for some more than 512 queries, which come in groups.
LARGE = {
    "all-keys": Case(
        map_size=(19, 21), block_size=(19, 21), halo_size=0, relative=True, bias=True, extra=3, extra_bias=True
    ),
    "border": Case(map_size=(20, 22), block_size=(24, 26), halo_size=2, relative=True, batch=2, heads=1, key_dim=17),
    "whole-tiles-hidden": Case(
        map_size=(23, 27), block_size=(23, 27), halo_size=0, options={"window": 5}, value_dim=33
    ),
    "circular": Case(map_size=(18, 16), block_size=9, halo_size=5, options={"border": "circular"}, relative=True),
    "strided": Case(map_size=(17, 20), block_size=20, halo_size=1, options={"stride": 2}, relative=True, bias=True),
}


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE.keys())
def test_more_keys_and_queries_than_are_taken_together(case):
    expected = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend="reference")
    assert_same(result(case), expected)


# With heads wide enough, and with enough queries a block, for tile registers.
WIDE = {
    **{name: replace(LARGE[name], key_dim=32, value_dim=40) for name in ("all-keys", "border", "whole-tiles-hidden")},
    "circular": Case(
        map_size=(20, 18), block_size=12, halo_size=5, options={"border": "circular"}, key_dim=32, value_dim=32
    ),
    "halo": Case(map_size=(13, 17), block_size=12, halo_size=3, relative=True, key_dim=33, value_dim=32, batch=2),
    "strided": Case(
        map_size=(17, 25), block_size=24, halo_size=1, options={"stride": 2}, bias=True, key_dim=40, value_dim=64
    ),
}


EMPTY = {**LARGE, **WIDE, "small": _CASE, "no-position": replace(_CASE, relative=False, options={"border": "mask"})}


# Maps that are one block, with a bias, and how many of their rows a strip has.
WHOLE = {
    "strips-of-6": (Case(map_size=(12, 13), block_size=(12, 13), halo_size=0, bias=True, extra=2, extra_bias=True), 6),
    "prime-rows": (Case(map_size=(17, 9), block_size=(17, 9), halo_size=0, bias=True, relative=True), 1),
    "one-row": (Case(map_size=(1, 140), block_size=(1, 140), halo_size=0, bias=True), 1),
    "one-column": (Case(map_size=(150, 1), block_size=(150, 1), halo_size=0, bias=True), 75),
    "circular": (
        Case(map_size=(12, 12), block_size=12, halo_size=0, bias=True, batch=2, options={"border": "circular"}),
        6,
    ),
    "a-neighbour-that-is-not-there": (
        Case(map_size=(10, 13), block_size=(10, 13), halo_size=0, bias=True, options={"neighbors": 2}),
        5,
    ),
    "few": (Case(map_size=(8, 16), block_size=(8, 16), halo_size=0, bias=True), 8),
    "strided": (Case(map_size=(14, 14), block_size=14, halo_size=0, bias=True, options={"stride": 2}), 14),
    "a-window": (Case(map_size=(12, 12), block_size=12, halo_size=0, bias=True, options={"window": 5}), 12),
    "beyond-the-map": (Case(map_size=(11, 12), block_size=12, halo_size=0, bias=True), 12),
    "no-bias": (Case(map_size=(12, 12), block_size=12, halo_size=0, relative=True), 12),
}


@pytest.mark.parametrize(("case", "rows"), WHOLE.values(), ids=WHOLE.keys())
def test_a_whole_map_with_a_bias_goes_in_strips(case, rows, monkeypatch):
    strips = []

    def noted(call):
        strips.append(in_strips(call).geometry.rows.block)
        return in_strips(call)

    in_strips = operator.in_strips
    monkeypatch.setattr(operator, "in_strips", noted)
    assert_same(
        result(case), output_and_gradients(local_attention, case.tensors(), **case.arguments, backend="reference")
    )
    assert strips == [rows, rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", EMPTY.values(), ids=EMPTY.keys())
def test_nothing_is_read_that_was_not_written(case, dtype):
    """Buffers begin with what a call before left in them, here no numbers at all."""
    expected = result(case, dtype=dtype)
    tensors = {name: torch.full_like(tensor, torch.nan) for name, tensor in case.tensors(dtype=dtype).items()}
    for tensor in tensors.values():
        tensor.requires_grad_()
    for _ in range(2):
        output_and_gradients(local_attention, tensors, **case.arguments, backend="numba")
        again = result(case, dtype=dtype)
        assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
        assert all(tensor.isfinite().all() for tensor in again.values())


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("case", WIDE.values(), ids=WIDE.keys())
def test_parts_of_numbers(case, parts):
    """On tile registers float32 in three parts and bfloat16 in one are as exact as eager code, over some draws."""
    if not amx.is_permitted():
        pytest.skip("this processor has no AMX, or the system does not permit it")
    dtype = torch.bfloat16 if parts == 1 else torch.float32
    errors, allowed = defaultdict(float), defaultdict(float)
    for seed in range(10):
        tensors = case.tensors(dtype=dtype, seed=seed, requires_grad=False)

        def run(backend, dtype=dtype, tensors=tensors):
            leaves = {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}
            return output_and_gradients(local_attention, leaves, **case.arguments, backend=backend)

        exact, eager, ours = run("reference", torch.float64), run("reference"), run("numba")
        for name, tensor in exact.items():
            rounding = 2 * torch.finfo(dtype).eps * tensor.abs().max().item()
            error_of_eager = (eager[name].double() - tensor).abs().max().item()
            allowed[name] = max(allowed[name], 2 * error_of_eager + rounding)
            errors[name] = max(errors[name], (ours[name].double() - tensor).abs().max().item())
    assert all(errors[name] <= allowed[name] for name in allowed), (errors, allowed)


def test_without_tile_registers(monkeypatch):
    with_tiles = result(WIDE["halo"], dtype=torch.float32)
    monkeypatch.setattr(amx, "is_permitted", lambda: False)
    assert_same(result(WIDE["halo"], dtype=torch.float32), with_tiles, tolerance=1e-4)


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_what_is_not_finite_takes_vector_registers(name):
    """Infinity has no parts: infinity less infinity is no number, where eager code still has one."""
    case = Case(map_size=(8, 8), block_size=8, halo_size=0, key_dim=32, value_dim=32, heads=1)
    tensors = {key: tensor.detach() for key, tensor in case.tensors(dtype=torch.float32).items()}
    tensors[name][0, 1, 2, 0, 3] = torch.inf
    expected = call(local_attention, tensors, **case.arguments, backend="reference")
    actual = call(local_attention, tensors, **case.arguments, backend="numba")
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-4, atol=1e-5)


def test_queries_that_the_map_has_not_do_no_harm():
    """Their logits are nobody's, and may be as large as they like: exp(1000) must not meet a zero."""
    case = replace(CASES["vision-longformer"], map_size=(3, 3), block_size=4)
    tensors = {name: tensor.detach() for name, tensor in case.tensors().items()}
    tensors["extra_bias"] = tensors["extra_bias"] + 1000
    tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    expected = output_and_gradients(local_attention, tensors, **case.arguments, backend="reference")
    assert_same(output_and_gradients(local_attention, tensors, **case.arguments, backend="numba"), expected)


def test_without_numba_another_backend_runs(monkeypatch):
    query = torch.randn(1, 4, 4, 1, 4)
    find = backends.numba_cpu.operator.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "numba" else find(name, *rest))
    said = explain_backend(query, query, query, block_size=2, halo_size=1)
    assert "numba: refused, numba is not installed (pip install 'halonet[cpu]')" in said
    assert "sdpa: chosen" in said


@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_no_number_reaches_the_same_pixels(dtype, name):
    tensors = _CASE.tensors(dtype=dtype, requires_grad=False)
    tensors[name][0, 2, 3, 1, 1] = float("nan")
    actual, expected = (
        call(local_attention, tensors, **_CASE.arguments, backend=backend).isnan() for backend in ("numba", "reference")
    )
    assert expected.any()
    assert not expected.all()
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("count", [1, 7, 15, 16])
def test_bfloat16_is_read_and_written_as_torch_rounds_it(count):
    """Ties go to the even number; infinities and NaN stay; nothing beyond the count is touched."""
    from halonet.ops.local_attention.numba_cpu.pointers import pointer_to
    from halonet.ops.local_attention.numba_cpu.vectors import load, load_bfloat16, store, store_bfloat16

    @numba.njit
    def there_and_back(source, address, target, count):
        store_bfloat16(address, 0, count, load(pointer_to(source), 0))
        store(pointer_to(target), 0, load_bfloat16(address, 0, count, source.dtype.type(0)))

    one = np.array([0x3F800000], np.uint32)
    ties = (one + np.array([0x8000, 0x18000, 0x7FFF, 0x8001], np.uint32)).view(np.float32)
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 3.4e38, 1e-40], np.float32)
    numbers = np.concatenate([ties, special, np.random.default_rng(0).normal(size=5).astype(np.float32)])
    for source in (numbers, numbers[::-1].copy()):
        places = torch.full((16,), 7.0, dtype=torch.bfloat16)
        target = np.zeros(16, np.float32)
        there_and_back(source, places.data_ptr(), target, count)
        expected = torch.from_numpy(source).to(torch.bfloat16)
        assert torch.equal(places[:count].nan_to_num(-1), expected[:count].nan_to_num(-1))
        assert torch.equal(places[:count].isnan(), expected[:count].isnan())
        assert (places[count:] == 7).all()
        np.testing.assert_array_equal(target[:count], expected[:count].float().numpy())
        assert (target[count:] == 0).all()


def test_exponential():
    """Within one epsilon where weights matter, three in all; 0 below what single precision holds."""
    from halonet.ops.local_attention.numba_cpu.pointers import pointer_to
    from halonet.ops.local_attention.numba_cpu.vectors import exp, load, store

    @numba.njit
    def exponential(source, target):
        for index in range(0, source.size, 16):
            store(pointer_to(target), index, exp(load(pointer_to(source), index)))

    def of(numbers):
        target = np.empty_like(numbers)
        exponential(numbers, target)
        return target

    numbers = np.linspace(-87, 0, 160_000, dtype=np.float32)
    exact = np.exp(numbers.astype(np.float64))
    error = np.abs(of(numbers) / exact - 1) / np.finfo(np.float32).eps
    assert error[numbers > -10].max() < 1
    assert error.max() < 3
    special = np.array([0, -np.inf, np.nan, -1e30, -88, -200] + [0] * 10, np.float32)
    np.testing.assert_array_equal(of(special)[:6], [1, 0, np.nan, 0, 0, 0])
    odd_nan = np.full(16, 0x7FC001FF, np.uint32).view(np.float32)
    assert np.isnan(of(odd_nan)).all()


def test_arithmetic_goes_on_as_it_was():
    """The kernels take numbers too small to be normal for 0; torch does not, before and after."""
    small = torch.full((4,), 1e-39)
    result(_CASE, dtype=torch.float32)
    assert torch.equal(small * 0.5, torch.full((4,), 0.5e-39))
    assert (small * 0.5 > 0).all()


def test_maps_of_bfloat16_are_read_where_they_are():
    """A float32 copy of each would be twice the memory that the maps take."""
    map_ = torch.randn(1, 4, 4, 2, 24, dtype=torch.bfloat16)
    parts = map_[..., :8], map_[..., 8:]
    assert [operator._prepared(part).data_ptr() for part in parts] == [part.data_ptr() for part in parts]
    assert operator._prepared(map_.half()).dtype == torch.float32
