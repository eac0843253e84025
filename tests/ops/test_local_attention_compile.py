"""torch.compile sees one graph, and the compiled forward and backward agree with eager float64."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from halonet.ops import local_attention
from tests.ops.cases import BACKENDS, CASES, Case, assert_same, call, output_and_gradients

_HALO = Case(map_size=(8, 8), block_size=4, halo_size=1, relative=True)

COMPILED_CASES = {
    "halonet": _HALO,
    "downsampling-odd-map": replace(_HALO, map_size=(7, 6), options={"stride": 2}),
    "vision-longformer": CASES["vision-longformer"],
    "circular-bias": replace(CASES["circular-odd-map"], relative=False),
    "neighbor": CASES["neighbor-4-zeros"],
    "bare-halo-zero": CASES["halo-zero"],
}


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Overrides the folder's: the compiler must trace the real allocators."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check_compiled(name: str, backend: str, *, compiler: str, **compile_options) -> None:
    case = COMPILED_CASES[name]
    expected = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend="reference")
    compiled = torch.compile(local_attention, fullgraph=True, backend=compiler, **compile_options)
    actual = output_and_gradients(compiled, case.tensors(), **case.arguments, backend=backend)
    assert_same(actual, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", COMPILED_CASES)
def test_one_graph(name, backend):
    """Traces forward and backward without generating code: every graph break would raise."""
    check_compiled(name, backend, compiler="aot_eager")


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_forward_and_backward(backend):
    check_compiled("halonet", backend, compiler="inductor")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in COMPILED_CASES if name != "halonet"])
def test_compiled_options(name, backend):
    check_compiled(name, backend, compiler="inductor")


OPERATOR_CASES = {
    "halonet": ("numba", "tiles"),
    "downsampling-odd-map": ("numba", "tiles"),
    "bare-halo-zero": ("numba", "tiles"),
    "vision-longformer": ("numba",),
    "circular-bias": ("numba",),
}


@pytest.mark.parametrize(
    ("name", "operator"), [(name, operator) for name, operators in OPERATOR_CASES.items() for operator in operators]
)
def test_the_custom_operators_keep_what_they_declare(name, operator):
    """Schema, shapes and strides without data, and gradients, as torch checks them for a custom operator."""
    case = COMPILED_CASES[name]
    packet = getattr(torch.ops.halonet, f"local_attention_{operator}")
    with _Recorded(packet.default) as given:
        call(local_attention, case.tensors(), **case.arguments, backend="numba" if operator == "numba" else "sdpa")
    (arguments,) = given
    assert arguments[-1]  # asked for what the backward pass needs
    torch.library.opcheck(packet.default, tuple(arguments))


class _Recorded(TorchDispatchMode):
    """The arguments an operator is called with."""

    def __init__(self, operator):
        super().__init__()
        self.operator, self.arguments = operator, []

    def __enter__(self):
        super().__enter__()
        return self.arguments

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function == self.operator:
            self.arguments.append([leaf(argument) for argument in args])
        return function(*args, **(kwargs or {}))


def leaf(argument):
    return argument.detach().requires_grad_() if isinstance(argument, torch.Tensor) else argument


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_graph_for_a_model_in_training(backend):
    """The op between two layers, under autocast, as a network calls it; sizes change from call to call."""
    torch.manual_seed(0)
    before, after = torch.nn.Linear(6, 12), torch.nn.Linear(4, 2)
    tables = torch.nn.ParameterList([torch.randn(2 * 4 + 1, 4), torch.randn(2 * 4 + 1, 4)])

    def network(image):
        query, key, value = before(image).unflatten(-1, (1, 12)).split([4, 4, 4], dim=-1)
        out = local_attention(query, key, value, block_size=4, halo_size=1, relative=tuple(tables), backend=backend)
        return after(out).float().square().mean()

    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    for size in (8, 5, 6):
        image = torch.randn(1, size, size, 6)
        gradients = []
        for function in (network, compiled):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = function(image)
            gradients.append(torch.autograd.grad(loss, [*before.parameters(), *tables]))
        for eager, traced in zip(*gradients, strict=True):
            torch.testing.assert_close(traced, eager, rtol=0.1, atol=2e-2 * eager.abs().max().item())
