"""Memory that nobody has written reads as NaN while the ops are tested, so that an unwritten output cannot pass."""

import pytest
import torch


def _filled_with_nan(allocate):
    def allocate_poisoned(*args, **kwargs):
        tensor = allocate(*args, **kwargs)
        if tensor.is_floating_point() or tensor.is_complex():
            with torch.no_grad():
                tensor.fill_(float("nan"))
        return tensor

    return allocate_poisoned


@pytest.fixture(autouse=True)
def poisoned_memory(request, monkeypatch):
    """On for every test of this folder but those that compile, by their name: tracing must see the real allocators."""
    if "compile" in request.node.name:
        return
    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (torch.Tensor, "new_empty"),
        (torch.Tensor, "new_empty_strided"),
    ):
        monkeypatch.setattr(owner, name, _filled_with_nan(getattr(owner, name)))
