"""The Triton kernels: interpreted on a CPU, where there is no GPU, and on the GPU where there is one.

Interpreted kernels compute in float64 too, and are held to the reference to the last digits; on a GPU, in float32, to
what plain code of that type reaches. Memory nobody has written reads as NaN (conftest).
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from halonet.ops import explain_backend, local_attention, tune_local_attention
from halonet.ops.local_attention.triton_gpu import plan as planning
from halonet.ops.local_attention.triton_gpu.plan import Tiles
from tests.ops.cases import CASES, Case, assert_same, call, output_and_gradients
from tests.ops.test_local_attention_dtypes import DTYPE_CASES, assert_error_at_most_twice, slices_of_one_map

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Tiles(16, 16, 4)
# Several tiles of queries and keys a block, on maps that blocks do not divide. One head: interpreting takes its time.
TILED = {
    "halonet": Case(map_size=(7, 9), block_size=6, halo_size=2, relative=True, heads=1),
    "stride-2": Case(map_size=(11, 7), block_size=10, halo_size=3, relative=True, options={"stride": 2}, heads=1),
    "wide-halo": Case(map_size=(4, 5), block_size=3, halo_size=4, relative=True, options={"border": "mask"}, heads=1),
    "global": Case(map_size=(5, 6), block_size=(5, 6), halo_size=0, relative=True, value_dim=20, heads=1),
    "vision-longformer": Case(
        map_size=(6, 5),
        block_size=5,
        halo_size=5,
        options={"border": "mask", "window": 11},
        bias=True,
        extra=18,
        extra_bias=True,
        heads=1,
    ),
    "circular": Case(
        map_size=(7, 5),
        block_size=(6, 5),
        halo_size=(2, 4),
        relative=True,
        bias=True,
        options={"border": "circular"},
        heads=1,
    ),
}
SEVERAL_HEADS = {"batch-and-heads", "vision-longformer", "everything"}


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def launch():
    return importlib.import_module("halonet.ops.local_attention.triton_gpu.launch")


def results(case: Case, backend: str = "triton", dtype: torch.dtype = torch.float64):
    """Output and gradients on the test's device, returned on the CPU."""
    tensors = {name: t.detach().to(DEVICE).requires_grad_() for name, t in case.tensors(dtype=dtype).items()}
    found = output_and_gradients(local_attention, tensors, **case.arguments, backend=backend)
    return {name: tensor.cpu() for name, tensor in found.items()}


def assert_is_the_reference(case: Case) -> None:
    if DEVICE == "cpu":
        assert_same(results(case), results(case, "reference"))
    else:
        exact = results(case, "reference", torch.float64)
        eager = results(case, "reference", torch.float32)
        assert_error_at_most_twice(results(case, dtype=torch.float32), eager, exact, dtype=torch.float32)


@pytest.mark.parametrize("name", CASES)
def test_is_the_reference(name):
    case = CASES[name]
    assert_is_the_reference(case if name in SEVERAL_HEADS else replace(case, heads=1))


@pytest.mark.parametrize("positions", [0, 32], ids=["a-region-a-tile", "shared-regions"])
@pytest.mark.parametrize("name", TILED)
def test_any_tiles(name, positions, launch, monkeypatch):
    """Small tiles, several a block; position logits for single tiles, and for many at once."""
    monkeypatch.setattr(launch, "tiles_for", lambda *_: SMALL._replace(num_positions=positions))
    assert_is_the_reference(TILED[name])


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_geometry(data, launch, monkeypatch):
    stride = data.draw(st.sampled_from([1, 2]), "stride")
    block = tuple(stride * data.draw(st.integers(1, 4 // stride), "block") for _ in range(2))
    options = {"stride": stride, "border": data.draw(st.sampled_from(["zeros", "mask", "circular"]), "border")}
    if data.draw(st.booleans(), "has window"):
        options["window"] = data.draw(st.sampled_from([1, 3, 5]), "window")
    case = Case(
        map_size=data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)), "map_size"),
        block_size=block,
        halo_size=data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)), "halo_size"),
        options=options,
        relative=data.draw(st.booleans(), "relative"),
        bias=data.draw(st.booleans(), "bias"),
        extra=data.draw(st.integers(0, 2), "extra"),
        heads=1,
    )
    monkeypatch.setattr(launch, "tiles_for", lambda *_: SMALL)
    assert_is_the_reference(case)


@pytest.fixture
def products_in_one_order(monkeypatch):
    """Interpreted float32 products add one channel after the other: numpy's own add those of q.k and of k.q in
    different orders on some CPUs, as a GPU does not, and the forward pass's normalization does not fit then."""
    if DEVICE != "cpu":
        return
    interpreter = importlib.import_module("triton.runtime.interpreter")
    own = interpreter.InterpreterBuilder.create_dot

    def create_dot(builder, a, b, acc, *options):
        if a.data.dtype != np.float32:
            return own(builder, a, b, acc, *options)
        total = acc.data.copy()
        for channel in range(a.data.shape[1]):
            total += a.data[:, channel, None] * b.data[None, channel]
        return interpreter.TensorHandle(total, acc.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", DTYPE_CASES)
@pytest.mark.usefixtures("products_in_one_order")
def test_error_is_at_most_twice_that_of_eager(name, dtype):
    case = DTYPE_CASES[name]
    low = case.tensors(dtype=dtype)
    double = {key: tensor.detach().double().requires_grad_() for key, tensor in low.items()}
    exact = output_and_gradients(local_attention, double, **case.arguments, backend="reference")
    actual = results(case, dtype=dtype)
    assert {tensor.dtype for tensor in actual.values()} == {dtype}
    assert_error_at_most_twice(actual, results(case, "reference", dtype), exact, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_logits_beyond_the_range_of_exponentials(dtype):
    case = replace(DTYPE_CASES["mask-extra"], options={"border": "mask", "scale": 30.0})
    assert all(tensor.isfinite().all() for tensor in results(case, dtype=dtype).values())


def test_tf32_follows_torch(launch, monkeypatch):
    """The kernels round products as torch's own are allowed to, and keep position logits in two pieces then."""
    plans = []
    monkeypatch.setattr(launch, "_constants", lambda plan, wrap=launch._constants: plans.append(plan) or wrap(plan))
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            results(CASES["relative"], dtype=torch.float32)
    finally:
        torch.set_float32_matmul_precision(before)
    assert {(plan.precision, plan.split) for plan in plans} == {("ieee", False), ("tf32", True)}


def test_slices_of_one_projection_are_read_where_they_are(launch, monkeypatch):
    """No copy of query, key or value: the kernels get the addresses of the slices."""
    case = replace(CASES["odd-map"], relative=True)
    tensors = {name: tensor.to(DEVICE) for name, tensor in slices_of_one_map(case).items()}
    joined = torch.cat([tensors["query"], tensors["key"], tensors["value"]], dim=-1)
    sizes = [case.key_dim, case.key_dim, case.value_dim]
    if DEVICE == "cuda":
        joined = joined.float()
    views = dict(zip(("query", "key", "value"), joined.split(sizes, dim=-1), strict=True))
    given_to_kernels = []
    real = launch.start
    monkeypatch.setattr(launch, "start", lambda k, g, t, *a: given_to_kernels.extend(a[:3]) or real(k, g, t, *a))
    tables = {name: tensors[name].to(joined.dtype) for name in ("height_table", "width_table")}
    call(local_attention, {**views, **tables}, **case.arguments, backend="triton")
    assert [map_.pointer.data_ptr() for map_ in given_to_kernels] == [view.data_ptr() for view in views.values()]


@pytest.mark.skipif(DEVICE == "cuda", reason="only a CPU's memory costs nothing until it is written")
def test_addresses_of_64_bits():
    """A map whose second row begins more than 2**31 numbers behind the first. Only its few pixels are ever touched."""
    far = 2**31 + 8
    numbers = torch.from_numpy(np.empty(far + 64, dtype=np.float16))  # numpy leaves memory alone until it is written
    key = numbers.as_strided((1, 2, 2, 1, 8), (far, far, 8, 8, 1))
    key.copy_(torch.randn(1, 2, 2, 1, 8))
    case = Case(map_size=(2, 2), block_size=2, halo_size=1, heads=1, key_dim=8, value_dim=8)
    tensors = case.tensors(dtype=torch.float16, requires_grad=False)
    near = call(local_attention, {**tensors, "key": key.contiguous()}, **case.arguments, backend="triton")
    assert torch.equal(call(local_attention, {**tensors, "key": key}, **case.arguments, backend="triton"), near)


class _Largest(TorchDispatchMode):
    """How many bytes the largest tensor has that any torch operator made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = [result] if isinstance(result, torch.Tensor) else result
        for tensor in made if isinstance(made, (tuple, list)) else ():
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


def test_nothing_as_large_as_neighbourhoods_is_made(launch, monkeypatch):
    """A pixel has 8 numbers and 64 logits. No tensor made between the kernels is larger than a map."""
    case = Case(map_size=(9, 10), block_size=2, halo_size=3, relative=True, heads=1, key_dim=8, value_dim=8)
    # The tables' gradients are summed in a place for each processor.
    monkeypatch.setattr(launch, "processors", lambda device: 1)
    largest = []

    def watched(run):
        def run_watched(*arguments):
            with _Largest() as seen:
                result = run(*arguments)
            largest.append(seen.bytes)
            return result

        return run_watched

    # Inside the operator: what it makes there, no mode outside of it sees.
    for name in ("forward", "backward"):
        monkeypatch.setattr(launch, name, watched(getattr(launch, name)))
    results(case, dtype=torch.float32)
    assert largest == [9 * 10 * 8 * 4, 9 * 10 * 8 * 4]


def test_gradients_are_the_same_to_the_last_bit():
    first, second = (results(CASES["everything"], dtype=torch.float32) for _ in range(2))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_a_gradient_of_bias_in_parts_of_heads(launch, monkeypatch):
    """Memory for one head's sums only: they are made one after the other."""
    monkeypatch.setattr(launch, "SLOT_BYTES", 1)
    assert_is_the_reference(replace(CASES["vision-longformer"], heads=3, batch=2))


def test_many_programs_share_the_sums(launch, monkeypatch):
    monkeypatch.setattr(launch, "processors", lambda device: 2)
    assert_is_the_reference(replace(CASES["odd-map"], batch=3, relative=True, extra=2, bias=True))


def test_tuning_takes_the_fastest_that_fits(launch, monkeypatch):
    """Candidates are run, one of them does not fit, and the fastest of the others serves the calls that follow."""
    from triton.runtime.errors import OutOfResources

    from halonet.ops.local_attention.triton_gpu import tuning

    case = replace(CASES["odd-map"], relative=True, bias=True, heads=1)
    tensors = {name: t.detach().to(DEVICE) for name, t in case.tensors(dtype=torch.float32).items()}
    slow, large, fast = Tiles(16, 16, 1), Tiles(128, 128, 4), Tiles(32, 16, 2)

    def seconds(run, device, rounds):
        tiles = list(launch.TUNED.values())[-1]  # the one that is being tried
        if tiles == large:
            raise OutOfResources(1, 0, "shared memory")
        run()
        return {slow: 2.0, fast: 1.0}[tiles]

    monkeypatch.setattr(launch, "TUNED", {})
    monkeypatch.setattr(tuning, "CANDIDATES", (slow, large, fast))
    monkeypatch.setattr(tuning, "_seconds", seconds)
    chosen = call(tune_local_attention, tensors, **case.arguments)
    assert chosen == dict.fromkeys(("forward", "query", "key", "bias"), tuple(fast))
    used = []
    real = launch.start
    monkeypatch.setattr(launch, "start", lambda k, g, tiles, *rest: used.append(tiles) or real(k, g, tiles, *rest))
    call(local_attention, tensors, **case.arguments, backend="triton")
    assert used == [fast]


def test_tuning_needs_what_the_kernels_need(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = CASES["whole-blocks"]
    with pytest.raises(ValueError, match="backend='triton' cannot take this call"):
        call(tune_local_attention, case.tensors(), **case.arguments)
    with pytest.raises(ValueError, match="rounds must be a positive int, got 0"):
        call(tune_local_attention, case.tensors(), **case.arguments, rounds=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key_dim": 129}, "keys of at most 128 channels, got 129"),
        ({"value_dim": 257}, "values of at most 256 channels, got 257"),
    ],
)
def test_what_it_refuses(changes, reason):
    case = replace(CASES["whole-blocks"], **changes)
    tensors = {name: tensor.to(DEVICE) for name, tensor in case.tensors(requires_grad=False).items()}
    assert f"triton: refused, its kernels take {reason}" in call(explain_backend, tensors, **case.arguments)
    with pytest.raises(ValueError, match=reason):
        call(local_attention, tensors, **case.arguments, backend="triton")


def test_without_a_gpu_it_refuses(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    said = call(explain_backend, CASES["whole-blocks"].tensors(), **CASES["whole-blocks"].arguments)
    assert "triton: refused, its kernels run on NVIDIA GPUs, got tensors on cpu" in said


def test_without_triton_it_refuses(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "triton", None)
    said = call(explain_backend, CASES["whole-blocks"].tensors(), **CASES["whole-blocks"].arguments)
    assert "triton: refused, triton is not installed" in said


class Network(torch.nn.Module):
    """The op between two layers, as a network calls it."""

    def __init__(self):
        super().__init__()
        self.before, self.after = torch.nn.Linear(6, 12), torch.nn.Linear(4, 2)
        self.tables = torch.nn.ParameterList([torch.randn(9, 4), torch.randn(9, 4)])

    def forward(self, image):
        query, key, value = self.before(image).unflatten(-1, (1, 12)).split([4, 4, 4], dim=-1)
        options = SimpleNamespace(block_size=4, halo_size=1, relative=tuple(self.tables), backend="triton")
        return self.after(local_attention(query, key, value, **vars(options))).float()


class TestInsideTorch:
    """One node for torch.compile, autograd, export and checkpoints."""

    @pytest.fixture(autouse=True)
    def poisoned_memory(self):
        """Overrides the folder's: the compiler must trace the real allocators."""
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
    def test_one_graph_in_training(self, compiler):
        torch.manual_seed(0)
        network = Network().to(DEVICE)
        compiled = torch.compile(network, fullgraph=True, backend=compiler)
        for size in (8, 5):
            image = torch.randn(1, size, size, 6, device=DEVICE)
            gradients = []
            for function in (network, compiled):
                with torch.autocast(DEVICE, dtype=torch.bfloat16):
                    loss = function(image).square().mean()
                gradients.append(torch.autograd.grad(loss, list(network.parameters())))
            for eager, traced in zip(*gradients, strict=True):
                torch.testing.assert_close(traced, eager, rtol=0.1, atol=2e-2 * eager.abs().max().item())

    def test_the_operator_keeps_what_it_declares(self):
        case = CASES["stride-2-odd-map"]
        tensors = {
            name: t.detach().to(DEVICE).requires_grad_() for name, t in case.tensors(dtype=torch.float32).items()
        }
        operator = torch.ops.halonet.local_attention_triton.default
        arguments = [tensors.get(name) for name in ("query", "key", "value", "height_table", "width_table", "bias")]
        numbers = [4, 4, 1, 1, 2, 2, -1, 0]
        torch.library.opcheck(operator, (*arguments, None, None, None, numbers, "zeros", 0.5, 1.0, True))

    def test_an_exported_program_has_one_node_of_it(self):
        network, image = Network().to(DEVICE), torch.randn(1, 8, 8, 6, device=DEVICE)
        with torch.no_grad():
            program = torch.export.export(network, (image,))
            assert str(program.graph).count("torch.ops.halonet.local_attention_triton.default") == 1
            torch.testing.assert_close(program.module()(image), network(image))

    def test_activation_checkpoints(self):
        network, image = Network().to(DEVICE), torch.randn(1, 6, 6, 6, device=DEVICE)
        plain = torch.autograd.grad(network(image).sum(), list(network.parameters()))
        kept = torch.utils.checkpoint.checkpoint(network, image, use_reentrant=False)
        torch.testing.assert_close(torch.autograd.grad(kept.sum(), list(network.parameters())), plain)


@pytest.mark.parametrize("most", [16, 32, 64])
@pytest.mark.parametrize("sides", [(1, 1), (14, 14), (18, 18), (45, 45), (3, 64), (64, 64)])
def test_tiles_cover_what_they_are_of(sides, most):
    rows, columns, down, across = planning.tile_of(*sides, most)
    assert rows * columns <= most
    assert (down - 1) * rows < sides[0] <= down * rows
    assert (across - 1) * columns < sides[1] <= across * columns


def test_tiles_of_keys_meet_few_blocks():
    """8 x 8 keys that start where a halo of 3 ends lie in 2 x 2 neighbourhoods; cut at the blocks they lie in 3 x 3."""
    assert planning.key_tile_of((8, 8), (3, 3), 64) == (8, 8, 1, 1)
    assert planning._visits(8, 3, 8) == 2
    assert planning.span_of(8, 3) == 3
