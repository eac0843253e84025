"""Networks whose parameters, gradients and optimizer states are shared out between devices (FSDP)."""

import copy
from typing import Any, TypeVar

import lightning.pytorch as lightning
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

from halonet.models.psmnet_parts import Hourglass, ResidualBlock
from halonet.models.residual import Bottleneck
from halonet.models.vit_stage import Block

# The units that are gathered one at a time while the network runs; whatever lies outside is one more.
UNITS = (Bottleneck, Block, ResidualBlock, Hourglass)

T = TypeVar("T", bound=nn.Module)


class ShardedStrategy(ModelParallelStrategy):
    """torch's FSDP2 over all devices of all nodes; checkpoints are whole, as those of one device.

    Unlike Lightning's FSDPStrategy (torch's FSDP1, which needs GPUs) it runs on a CPU over gloo too, and gradients are
    clipped by torch's own function.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()


class ShardableModule(lightning.LightningModule):
    """A task whose `model` is shared out where the strategy wants that."""

    model: nn.Module

    def take_over(self, tested: Any) -> None:
        """What a copy of this task that was tested in its place found out."""

    def configure_model(self) -> None:
        """Lightning's hook, called once the processes know each other."""
        if self.device_mesh is not None:
            synchronization: Any = getattr(self.trainer.strategy, "_layer_sync", None)
            if synchronization is not None:  # this strategy of Lightning's leaves it out
                synchronization.apply(self.model)
            shard(self.model, mesh=self.device_mesh["data_parallel"])


def units(model: nn.Module) -> list[nn.Module]:
    """The outermost modules of `model` that are gathered by themselves."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, UNITS) and module not in inside:
            found.append(module)
            inside.update(module.modules())
    return found


def shard(model: nn.Module, *, mesh: Any) -> None:
    """Share out the parameters of `model` between the devices of `mesh`, in place: block by block, then the rest."""
    for unit in units(model):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(task: T, *, strategy: str) -> T:
    """`task` itself, or where `strategy` shares its parameters out, in place and for good, a copy that stays whole."""
    return copy.deepcopy(task) if strategy == "fsdp" else task
