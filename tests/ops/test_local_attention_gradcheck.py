"""Analytic against numerical gradients in float64, for every option of every backend."""

from dataclasses import replace

import pytest
import torch

from halonet.ops import local_attention
from tests.ops.cases import BACKENDS, CASES, Case, call

_TINY = Case(map_size=(3, 2), block_size=2, halo_size=1, heads=1, key_dim=2, value_dim=1)
_STRIDED = replace(_TINY, map_size=(3, 3), relative=True, bias=True, options={"stride": 2})

TINY_CASES = {
    "plain": _TINY,
    "heads": replace(_TINY, heads=2, batch=2),
    "rectangular": replace(_TINY, block_size=(1, 2), halo_size=(2, 1), relative=True),
    "stride": _STRIDED,
    "relative-stride": replace(_STRIDED, options={"stride": 2, "relative_stride": 1}),
    "mask": replace(_TINY, options={"border": "mask"}),
    "circular": replace(_TINY, options={"border": "circular"}, relative=True),
    "window": replace(_TINY, options={"window": 3}, relative=True),
    "neighbors": replace(_TINY, map_size=(3, 4), halo_size=2, options={"neighbors": 5}, bias=True),
    "relative": replace(_TINY, relative=True),
    "bias": replace(_TINY, bias=True),
    "extra": replace(_TINY, extra=2),
    "extra-bias": replace(_TINY, extra=2, extra_bias=True),
    "scale": replace(_TINY, options={"scale": 0.7}, relative=True),
    "scale-relative": replace(_TINY, options={"scale_relative": True}, relative=True),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TINY_CASES)
def test_gradients_equal_finite_differences(name, backend):
    case = TINY_CASES[name]
    tensors = case.tensors()

    def attention(*values):
        named = dict(zip(tensors, values, strict=True))
        return call(local_attention, named, **case.arguments, backend=backend)

    assert torch.autograd.gradcheck(attention, tuple(tensors.values()))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["everything", "vision-longformer", "stride-3-rectangular"])
def test_gradients_of_larger_cases_equal_finite_differences(name, backend):
    case = CASES[name]
    tensors = case.tensors()

    def attention(*values):
        named = dict(zip(tensors, values, strict=True))
        return call(local_attention, named, **case.arguments, backend=backend)

    assert torch.autograd.gradcheck(attention, tuple(tensors.values()))
