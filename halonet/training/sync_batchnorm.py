"""Batch norm whose statistics are those of all devices together.

torch's own SyncBatchNorm refuses tensors on a CPU (torch 2.15: "expected input tensor to be on GPU"); here is one that
runs on any device, so that processes of a CPU equal one process too.
"""

from typing import Any

import torch
import torch.distributed
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn


class _SumOverDevices(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total


def _sum_over_devices(x: Tensor) -> Tensor:
    total: Tensor = _SumOverDevices.apply(x)
    return total


class _Synchronized(nn.modules.batchnorm._BatchNorm):
    """What `forward` becomes; state and evaluation stay those of the class it is mixed into."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same. Normalizes with mean and variance of every device's x while training.

        Both are taken in two passes, mean first, in float64: the sums of few devices are then as good as those of one.
        """
        if not self.training or _devices() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        others = [dim for dim in range(x.ndim) if dim != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        values = x.double()
        total = torch.cat([values.sum(others), values.new_tensor([x.numel() / x.shape[1]])])
        total = _sum_over_devices(total)
        # A device, or all of them, may have nothing, as a detector's head where no region was found.
        count = total[-1].detach().clamp(min=1)
        centred = values - (total[:-1] / count).view(shape)
        variance = _sum_over_devices(centred.square().sum(others)) / count
        if total[-1] > 0:
            self._remember(total[:-1].detach() / count, variance.detach() * count / (count - 1).clamp(min=1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, unbiased: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


class _BatchNorm1d(_Synchronized, nn.BatchNorm1d):
    pass


class _BatchNorm2d(_Synchronized, nn.BatchNorm2d):
    pass


class _BatchNorm3d(_Synchronized, nn.BatchNorm3d):
    pass


_PAIRS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
    nn.BatchNorm3d: _BatchNorm3d,
}


def _devices() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def synchronize(model: nn.Module, *, enable: bool = True) -> None:
    """Make batch norms of `model` take their statistics over all processes, or no longer. Modules, parameters and the
    keys of the state dict stay what they are."""
    pairs = _PAIRS if enable else {new: old for old, new in _PAIRS.items()}
    for module in model.modules():
        if type(module) in pairs:
            module.__class__ = pairs[type(module)]


class SyncEveryBatchNorm(TorchSyncBatchNorm):
    """Lightning's plugin: on GPUs torch's own SyncBatchNorm, on a CPU the one of this file.

    on_cpu: to be set once the trainer knows its device.
    """

    on_cpu = False

    def apply(self, model: nn.Module) -> nn.Module:
        """See `LayerSync`."""
        if not self.on_cpu:
            return super().apply(model)
        synchronize(model)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """See `LayerSync`."""
        if not self.on_cpu:
            return super().revert(model)
        synchronize(model, enable=False)
        return model
