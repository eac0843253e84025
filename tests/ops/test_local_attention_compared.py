"""The ways of Vision Longformer's authors compute what the reference does, where they can."""

from __future__ import annotations

import pytest
import torch

from halonet.ops import explain_backend, local_attention
from tests.ops.cases import CASES, Case, assert_same, call, output_and_gradients

WINDOWS = {
    "exact": Case(
        map_size=(7, 9), block_size=3, halo_size=3, options={"window": 7, "border": "mask"}, bias=True, extra=2, batch=2
    ),
    "narrow": Case(
        map_size=(8, 5),
        block_size=3,
        halo_size=3,
        options={"window": 3, "border": "mask"},
        extra_bias=True,
        extra=1,
    ),
    "zeros": Case(map_size=(6, 7), block_size=2, halo_size=2, options={"window": 5}, bias=True),
    "dilated": Case(
        map_size=(9, 11), block_size=4, halo_size=4, options={"window": 5, "dilation": 2, "border": "mask"}, bias=True
    ),
    "dilated-zeros": Case(map_size=(9, 7), block_size=3, halo_size=3, options={"window": 3, "dilation": 3}, bias=True),
    "wide-halo": Case(map_size=(6, 6), block_size=2, halo_size=3, options={"window": 3, "border": "mask"}, bias=True),
}
CHUNKS = {
    "plain": Case(map_size=(7, 9), block_size=3, halo_size=3, options={"border": "mask"}, bias=True, extra=2, batch=2),
    "bare": Case(map_size=(4, 4), block_size=2, halo_size=2, options={"border": "mask"}),
    "circular": Case(map_size=(7, 9), block_size=3, halo_size=3, options={"border": "circular"}, bias=True, extra=1),
    "few-circular": Case(map_size=(3, 4), block_size=2, halo_size=2, options={"border": "circular"}, bias=True),
    **{
        f"neighbour-{number}": Case(
            map_size=(7, 5), block_size=2, halo_size=2, options={"border": "mask", "neighbors": number}, bias=True
        )
        for number in range(1, 9)
    },
}


def check(case, backend):
    expected = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend="reference")
    got = output_and_gradients(local_attention, case.tensors(), **case.arguments, backend=backend)
    assert_same(got, expected)


@pytest.mark.parametrize("case", WINDOWS.values(), ids=WINDOWS.keys())
def test_unfold(case):
    check(case, "unfold")


@pytest.mark.parametrize(
    "case", [*CHUNKS.values(), WINDOWS["exact"], WINDOWS["narrow"]], ids=[*CHUNKS, "exact", "narrow"]
)
def test_sliding_chunk(case):
    check(case, "sliding_chunk")


@pytest.mark.parametrize("backend", ["unfold", "sliding_chunk"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_case_is_right_or_refused(case, backend):
    said = call(explain_backend, case.tensors(), **case.arguments, backend=backend)
    line = next(line for line in said.splitlines() if line.startswith(f"{backend}:"))
    if "chosen" in line:
        check(case, backend)
        return
    with pytest.raises(ValueError, match=f"backend='{backend}' cannot take this call"):
        call(local_attention, case.tensors(), **case.arguments, backend=backend)


@pytest.mark.parametrize(("case", "backend"), [(WINDOWS["exact"], "unfold"), (CHUNKS["plain"], "sliding_chunk")])
def test_they_are_never_taken_unasked(case, backend):
    said = call(explain_backend, case.tensors(), **case.arguments)
    assert f"{backend}: refused" in said


def test_half_precision():
    tensors = CHUNKS["plain"].tensors(dtype=torch.bfloat16)
    for case, backend in ((CHUNKS["plain"], "sliding_chunk"), (WINDOWS["exact"], "unfold")):
        output = call(local_attention, tensors, **case.arguments, backend=backend)
        assert output.dtype == torch.bfloat16
        assert output.isfinite().all()


def test_dilation_by_hand():
    """A row of 7 pixels, window 3, dilation 2: the middle one sees itself and those two away, weights alike."""
    value = torch.eye(7, dtype=torch.float64).view(1, 1, 7, 1, 7)
    zeros = torch.zeros(1, 1, 7, 1, 2, dtype=torch.float64)
    options = {"block_size": (1, 7), "halo_size": (0, 2), "border": "mask", "window": 3, "dilation": 2}
    seen = local_attention(zeros, zeros, value, **options)[0, 0, :, 0]
    third = torch.tensor(1 / 3, dtype=torch.float64)
    assert torch.equal(seen[3].nonzero().flatten(), torch.tensor([1, 3, 5]))
    torch.testing.assert_close(seen[3][[1, 3, 5]], third.expand(3))
    assert torch.equal(seen[0].nonzero().flatten(), torch.tensor([0, 2]))


def test_every_other_backend_refuses_dilation():
    arguments = {"block_size": 4, "halo_size": 2, "dilation": 2}
    map_ = torch.randn(1, 8, 8, 1, 4)
    lines = dict(line.split(": ", 1) for line in explain_backend(map_, map_, map_, **arguments).splitlines())
    assert lines["reference"] == "chosen"
    for name in ("numba", "sdpa"):
        assert lines[name] == "refused, it has no dilation"
