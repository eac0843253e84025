"""The copy to channels first is torch's own, however it is made."""

from __future__ import annotations

import pytest
import torch

from halonet.layers import memory_format
from halonet.layers.memory_format import channels_first


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 7, 1, 1), (0, 2, 3, 3)])
def test_copies_are_torchs(monkeypatch, shape, last, grad):
    monkeypatch.setattr(memory_format, "_LARGE", 1)
    x = torch.randn(shape)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_(grad)
    copy = channels_first(x)
    assert torch.equal(copy, x)
    assert copy.is_contiguous()
    assert copy.requires_grad == grad


def test_a_large_image_is_copied_by_itself(monkeypatch):
    x = torch.randn(2, 128, 64, 64).contiguous(memory_format=torch.channels_last)
    expected = x.contiguous()
    monkeypatch.setattr(torch.Tensor, "contiguous", None)
    assert torch.equal(channels_first(x), expected)
