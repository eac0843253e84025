"""What both skeletons share: the part of timm's interface that is the same of any network of stages and a head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from halonet.models.hub import HubModel


class Network(HubModel, nn.Module, ABC):
    """Features, then a head; a subclass makes both.

    feature_info: channels, reduction and module of each map that `forward_intermediates` gives.
    """

    # Set by `create_model`, kept with saved weights.
    model_name: str | None = None
    model_arguments: dict[str, Any] | None = None

    head: Any
    feature_info: list[dict[str, Any]]
    grad_checkpointing = False

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> what the head takes."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What `forward_features` gives -> logits (B, num_classes), or with `pre_logits` the pooled features."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable


def check_map_format(output_fmt: str) -> None:
    """Raises ValueError unless maps are asked for as (B, C, H, W), the one format of `forward_intermediates`."""
    if output_fmt != "NCHW":
        raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")


def linear_drop_path(config: Any, rate: float) -> Iterator[float]:
    """Stochastic depth a block of a configuration's stages, from 0 to `rate`."""
    blocks = sum(stage.depth for stage in config.stages)
    return iter([rate * index / max(1, blocks - 1) for index in range(blocks)])
