"""Which backend runs: "auto" can be explained, and an explicit one never becomes another."""

from types import SimpleNamespace

import pytest
import torch

from halonet.ops import explain_backend, local_attention
from halonet.ops.local_attention import backends, checks
from tests.ops.cases import BACKENDS, CASES, Case

PLAIN = Case(map_size=(5, 4), block_size=2, halo_size=1)


def arguments(case=PLAIN, **changes):
    return {**case.tensors(requires_grad=False), **case.arguments, **changes}


def lines_of(report):
    """name -> what is said of it."""
    return dict(line.split(": ", 1) for line in report.splitlines())


def test_the_tests_cover_every_backend():
    known = set(lines_of(explain_backend(**arguments())))
    assert set(BACKENDS) <= known
    with pytest.raises(ValueError, match="backend") as caught:
        local_attention(**arguments(backend="none of these"))
    assert all(name in str(caught.value) for name in known)  # the message lists the valid names


def test_auto_is_explained():
    said = lines_of(explain_backend(**arguments()))
    assert [name for name, verdict in said.items() if verdict.startswith("chosen")] == ["numba"]
    for name, verdict in said.items():
        if name != "numba":
            assert verdict.startswith("refused")
            assert len(verdict.split()) > 3, f"{name} is refused without a reason: {verdict}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_explicit_backend_is_explained(backend):
    said = lines_of(explain_backend(**arguments(backend=backend)))
    assert [name for name, verdict in said.items() if verdict.startswith("chosen")] == [backend]


@pytest.fixture
def refusing(monkeypatch):
    """A backend that is the fastest and takes nothing, and must never be run."""

    def run(call):
        raise AssertionError("a backend that refused was run")

    stub = SimpleNamespace(refusal=lambda call: "it needs a device that is not here", run=run)
    table = {"stub": stub, **backends.BACKENDS}
    monkeypatch.setattr(backends, "BACKENDS", table)
    monkeypatch.setattr(checks, "BACKENDS", table)


@pytest.mark.usefixtures("refusing")
def test_an_explicit_backend_never_falls_back():
    with pytest.raises(ValueError, match=r"stub.*it needs a device that is not here"):
        local_attention(**arguments(backend="stub"))


@pytest.mark.usefixtures("refusing")
def test_auto_passes_over_a_backend_that_refuses_and_says_why():
    output = local_attention(**arguments())
    torch.testing.assert_close(output, local_attention(**arguments(backend="reference")))
    said = lines_of(explain_backend(**arguments()))
    assert said["stub"] == "refused, it needs a device that is not here"
    assert said["numba"].startswith("chosen")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_named_backend_is_the_one_that_runs(backend, monkeypatch):
    ran = []
    for name, module in backends.BACKENDS.items():
        monkeypatch.setattr(module, "run", lambda call, name=name, run=module.run: ran.append(name) or run(call))
    local_attention(**arguments(backend=backend))
    assert ran == [backend]


@pytest.mark.parametrize("name", CASES)
def test_what_explain_backend_promises_is_what_auto_runs(name, monkeypatch):
    case = CASES[name]
    tensors = case.tensors(requires_grad=False)
    if case.relative:
        tensors["relative"] = (tensors.pop("height_table"), tensors.pop("width_table"))
    said = lines_of(explain_backend(**tensors, **case.arguments))
    chosen = [backend for backend, verdict in said.items() if verdict.startswith("chosen")]
    ran = []
    for backend, module in backends.BACKENDS.items():
        monkeypatch.setattr(module, "run", lambda call, name=backend, run=module.run: ran.append(name) or run(call))
    local_attention(**tensors, **case.arguments)
    assert ran == chosen
