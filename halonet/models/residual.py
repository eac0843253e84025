"""The one skeleton: a residual network of bottlenecks in which a stage says what stands in the slot.

ResNet, SENet, SASA, HaloNet, BoTNet and non-local nets differ by their configuration only; see `config` for its fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import ClassifierHead, DropPath, SqueezeExcite
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from halonet.layers import AttentionLayer, BottleneckAttention, HaloAttention, NonLocal2d, WholeMapAttention
from halonet.models.config import ResidualConfig, StageConfig
from halonet.models.network import Network, check_map_format, linear_drop_path

_ACTIVATION: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm and, if given, an activation."""

    def __init__(
        self,
        dim: int,
        dim_out: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        padding: int | None = None,
        act: str = "",
    ) -> None:
        super().__init__()
        if padding is None:
            padding = kernel_size // 2
        self.conv = nn.Conv2d(dim, dim_out, kernel_size, stride=stride, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(dim_out)
        if act:
            self.act = make_activation(act)


class Stem(nn.Module):
    """Image to the first map; the pooling of a "conv7" stem is a module of its own after it."""

    def __init__(self, config: ResidualConfig, in_chans: int) -> None:
        super().__init__()
        kernel, stride, padding = {
            "conv7": (7, 2, 3),
            "conv3": (3, config.stem_stride, 1),
            "patch4": (4, 4, 0),
        }[config.stem]
        self.stride = stride
        self.conv = ConvNorm(in_chans, config.stem_width, kernel, stride=stride, padding=padding, act=config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, stem_width, H/stride, W/stride)."""
        return self.conv(x)


class Bottleneck(nn.Module):
    """1x1, slot, 1x1, squeeze-excite, shortcut: the residual block of every family here."""

    def __init__(
        self,
        dim: int,
        stage: StageConfig,
        slot: str,
        *,
        stride: int,
        activation: str,
        drop_path: float,
        size: tuple[int, int],
    ) -> None:
        super().__init__()
        width, dim_out = stage.width, stage.width_out
        self.reduce = ConvNorm(dim, width, act=activation)
        self.slot = make_slot(slot, stage, stride=stride, size=size)
        slot_width = getattr(self.slot, "dim_out", width)
        self.slot_norm = nn.Sequential()
        self.slot_norm.norm = nn.BatchNorm2d(slot_width)
        self.slot_norm.act = make_activation(activation)
        self.expand = ConvNorm(slot_width, dim_out)
        nn.init.zeros_(self.expand.norm.weight)
        self.squeeze_excite: nn.Module = nn.Identity()
        if stage.squeeze_excite:
            self.squeeze_excite = SqueezeExcite(
                dim_out, rd_channels=max(1, round(dim_out * stage.squeeze_excite)), act_layer=_ACTIVATION[activation]
            )
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        changes_shape = stride != 1 or dim != dim_out
        self.shortcut = ConvNorm(dim, dim_out, stride=stride) if changes_shape else nn.Identity()
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, width_out, ceil(H/stride), ceil(W/stride))."""
        branch = self.expand(self.slot_norm(self.slot(self.reduce(x))))
        return self.act(self.drop_path(self.squeeze_excite(branch)) + self.shortcut(x))


def make_slot(slot: str, stage: StageConfig, *, stride: int, size: tuple[int, int]) -> nn.Module:
    """What mixes the pixels of a block: a 3x3 convolution or an attention layer.

    Args:
        slot: which, one of `config.SLOTS`.
        stage: the block's stage.
        stride: of the block.
        size: (H, W) of the slot's input at the model's image size.
    """
    if slot == "conv":
        return nn.Conv2d(stage.width, stage.width, 3, stride=stride, padding=1, groups=stage.groups, bias=False)
    options: dict[str, Any] = {
        "num_heads": stage.num_heads,
        "stride": stride,
        "value_multiplier": stage.value_multiplier,
        "query_key_multiplier": stage.query_key_multiplier,
        "relative": stage.relative,
        "downsample": stage.downsample,
        "feat_size": size,
        "backend": stage.backend,
    }
    if slot == "mhsa":
        return BottleneckAttention(stage.width, content=stage.content, **options)
    return HaloAttention(
        stage.width,
        block_size=stage.block_size,
        halo_size=stage.halo_size,
        window=stage.window,
        border=stage.border,
        **options,
    )


def make_activation(name: str) -> nn.Module:
    """The activation of that name."""
    return _ACTIVATION[name]() if name == "gelu" else _ACTIVATION[name](inplace=True)


class ResidualNet(Network):
    """A residual network by its configuration, with the methods timm's models have.

    Args:
        config: the network.
        num_classes: outputs of the classifier, 0 for none; the configuration's if None.
        in_chans: channels of the images; the configuration's if None.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 at the first.
        global_pool: pooling before the classifier, as timm names it ("avg", "max", "" for none).
    """

    def __init__(
        self,
        config: ResidualConfig,
        *,
        num_classes: int | None = None,
        in_chans: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes if num_classes is None else num_classes
        self.drop_rate = drop_rate

        self.stem = Stem(config, config.in_chans if in_chans is None else in_chans)
        pools = config.stem == "conv7"
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pools else nn.Identity()
        reduction, dim = self.stem.stride, config.stem_width
        self.feature_info = [{"num_chs": dim, "reduction": reduction, "module": "stem"}] if pools else []
        reduction *= 2 if pools else 1

        drop_paths = linear_drop_path(config, drop_path_rate)
        stages: list[nn.Module] = []
        for index, stage in enumerate(config.stages):
            stages.append(_make_stage(dim, index, config, reduction, drop_paths))
            reduction, dim = reduction * stage.stride, stage.width_out
            self.feature_info.append({"num_chs": dim, "reduction": reduction, "module": f"stages.{index}"})
        self.stages = nn.Sequential(*stages)

        self.final_conv: nn.Module = nn.Identity()
        if config.head_width is not None:
            self.final_conv = ConvNorm(dim, config.head_width, act=config.activation)
            dim = config.head_width
        self.num_features = self.head_hidden_size = dim
        self.head = ClassifierHead(dim, self.num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self._initialize()

    def _initialize(self) -> None:
        """He initialization of convolutions, a small normal classifier; attention and norms initialize themselves."""
        kinds = AttentionLayer | NonLocal2d | WholeMapAttention
        layers = [layer for layer in self.modules() if isinstance(layer, kinds)]
        own = {module for layer in layers for module in layer.modules()}
        for module in self.modules():
            if module in own:
                continue
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> the last map, (B, num_features, H', W')."""
        x = self.pool(self.stem(x))
        for stage in self.stages:
            x = self._run_stage(stage, x)
        return self.final_conv(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of `feature_info`, and the last map, as timm's models return them.

        Args:
            x: (B, in_chans, H, W).
            indices: which maps: the last n, a list of indices, or all.
            norm: has no effect here; there is no norm outside the blocks.
            stop_early: leave out the stages after the last wanted map; the last map is then that of the last run.
            output_fmt: "NCHW".
            intermediates_only: only the list of maps.
        """
        check_map_format(output_fmt)
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        maps: list[Tensor] = []
        latest = x
        for index, latest in enumerate(self._maps(x)):
            if index in wanted:
                maps.append(latest)
            if stop_early and index == last:
                return maps if intermediates_only else (latest, maps)
        return maps if intermediates_only else (self.final_conv(latest), maps)

    def _maps(self, x: Tensor) -> Iterator[Tensor]:
        """The maps of `feature_info`, in order."""
        x = self.stem(x)
        if self.feature_info[0]["module"] == "stem":
            yield x
        x = self.pool(x)
        for stage in self.stages:
            x = self._run_stage(stage, x)
            yield x

    def _run_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(stage, x)
        return stage(x)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what the wanted maps do not need; returns their indices (timm's interface)."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        kept = last if self.feature_info[0]["module"] == "stem" else last + 1
        self.stages = self.stages[:kept]
        if prune_head:
            self.final_conv = nn.Identity()
            self.reset_classifier(0, "")
        return wanted

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for another number of classes; 0 removes it."""
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool)

    def no_weight_decay(self) -> set[str]:
        """Names of the position tables."""
        return {name for name, _ in self.named_parameters() if name.endswith(("height_table", "width_table"))}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Depth of each parameter for layer-wise learning rates (timm's interface)."""
        return {
            "stem": r"^stem",
            "blocks": [
                (r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(?:\w+_after_)?(\d+)", None),
                (r"^final_conv", (99999,)),
            ],
        }


def _make_stage(
    dim: int, number: int, config: ResidualConfig, reduction: int, drop_paths: Iterator[float]
) -> nn.Sequential:
    """The blocks of stage `number` (from 0), whose input has `dim` channels at 1/`reduction` of the image.

    Blocks are named by their number, inserted ones by what they are and come after: numbers stay those of a ResNet.
    """
    stage, blocks = config.stages[number], nn.Sequential()
    for index, slot in enumerate(stage.slots):
        stride = stage.stride if index == 0 else 1
        shared: dict[str, Any] = {"activation": config.activation, "drop_path": next(drop_paths)}
        block = Bottleneck(dim, stage, slot, stride=stride, size=_map_size(config, reduction), **shared)
        blocks.add_module(str(index), block)
        dim, reduction = stage.width_out, reduction * stride
        for after, kind in stage.inserts:
            if after == index + 1:
                options: dict[str, Any] = {"stride": 1, "size": _map_size(config, reduction), **shared}
                added = NonLocal2d(dim) if kind == "nonlocal" else Bottleneck(dim, stage, kind, **options)
                blocks.add_module(f"{kind}_after_{after}", added)
        if (number, index + 1) in config.attention_places:
            blocks.add_module(f"attention_after_{index + 1}", config.make_attention(dim))
    return blocks


def _map_size(config: ResidualConfig, reduction: int) -> tuple[int, int]:
    """(H, W) of the maps at 1/`reduction` of the model's images."""
    height, width = (-(-side // reduction) for side in config.image_shape)
    return height, width
