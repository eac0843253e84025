"""Multi-scale vision transformers: stages of tokens, each on a smaller map. Vision Longformers are rows of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from halonet.layers.token_attention import INIT_STD
from halonet.models.network import Network, check_map_format, linear_drop_path
from halonet.models.token_config import TokenConfig
from halonet.models.vit_stage import NORM_EPS, Size, TokenStage

POOLS = ("avg", "token", "")
_TABLES = ("_table", "_bias", "global_tokens")  # ends of the names of what tells position, or is a token


class TokenHead(nn.Module):
    """Pooling of tokens, dropout, classifier: "avg" over all tokens, "token" for the first global one, "" for none."""

    def __init__(self, dim: int, num_classes: int, *, pool_type: str, drop_rate: float) -> None:
        super().__init__()
        self.pool_type = pool_type
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, T, C) -> (B, num_classes), or with `pre_logits` the pooled features."""
        if self.pool_type:
            tokens = tokens.mean(dim=1) if self.pool_type == "avg" else tokens[:, 0]
        tokens = self.drop(tokens)
        return tokens if pre_logits else self.fc(tokens)


class MultiScaleVit(Network):
    """A multi-scale vision transformer by its configuration, with the methods timm's models have (arXiv 2103.15358).

    Args:
        config: the network.
        num_classes: outputs of the classifier, 0 for none; the configuration's if None.
        in_chans: channels of the images; the configuration's if None.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 at the first.
        global_pool: "avg" (the mean of the last stage's tokens, which the paper found better), "token" (its first
            global token, the class token) or "" for none.

    Raises:
        ValueError: an unknown pooling, or "token" where the last stage has no global token.
    """

    def __init__(
        self,
        config: TokenConfig,
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
        rates = linear_drop_path(config, drop_path_rate)
        dim, reduction = config.in_chans if in_chans is None else in_chans, 1
        self.feature_info = []
        stages = []
        for index, stage in enumerate(config.stages):
            reduction *= stage.patch_size
            height, width = (-(-side // reduction) for side in config.image_shape)
            own = [next(rates) for _ in range(stage.depth)]
            stages.append(TokenStage(dim, stage, (height, width), patch_norm=config.patch_norm, drop_paths=own))
            dim = stage.width
            self.feature_info.append({"num_chs": dim, "reduction": reduction, "module": f"stages.{index}"})
        self.stages = nn.ModuleList(stages)
        self.num_features = self.head_hidden_size = dim
        self.norm: nn.Module = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = TokenHead(dim, self.num_classes, pool_type=self._checked_pool(global_pool), drop_rate=drop_rate)
        self._initialize()

    def _checked_pool(self, pool: str) -> str:
        if pool not in POOLS:
            raise ValueError(f'global_pool must be "avg", "token" or "", got {pool!r}')
        if pool == "token" and not self.config.stages[-1].num_global:
            raise ValueError('global_pool must be "avg" or "" where the last stage has num_global=0, got "token"')
        return pool

    def _initialize(self) -> None:
        """Truncated normal linear layers; convolutions, norms and tables initialize themselves."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> the last stage's tokens after the norm, global ones first: (B, G + H' * W', C)."""
        for tokens, _, _ in self._run(x):
            last = tokens
        return self.norm(last)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of `feature_info`, and what `forward_features` gives, as timm's models return them.

        Args:
            x: (B, in_chans, H, W).
            indices: which maps: the last n, a list of indices, or all.
            norm: the last stage's map after the final norm.
            stop_early: leave out the stages after the last wanted map.
            output_fmt: "NCHW".
            intermediates_only: only the list of maps.
        """
        check_map_format(output_fmt)
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        maps: list[Tensor] = []
        final, latest = len(self.feature_info) - 1, x
        for index, (tokens, size, stage) in enumerate(self._run(x)):
            latest = self.norm(tokens) if index == final else tokens
            if index in wanted:
                maps.append(stage.to_map(latest if norm else tokens, size))
            if stop_early and index == last:
                break
        return maps if intermediates_only else (latest, maps)

    def _run(self, x: Tensor) -> Iterator[tuple[Tensor, Size, TokenStage]]:
        """Of every stage its tokens, the size of their map, and itself."""
        for stage in self.stages:
            assert isinstance(stage, TokenStage)
            tokens, size = stage.embed(x)
            for block in stage.blocks:
                call = partial(block, size=size)
                if self.grad_checkpointing and torch.is_grad_enabled():
                    tokens = checkpoint(call, tokens, use_reentrant=False)
                else:
                    tokens = call(tokens)
            yield tokens, size, stage
            x = stage.to_map(tokens, size)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what the wanted maps do not need; returns their indices (timm's interface)."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        self.stages = self.stages[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for another number of classes; 0 removes it."""
        self.num_classes = num_classes
        pool = self.head.pool_type if global_pool is None else self._checked_pool(global_pool)
        like = next(self.parameters())
        head = TokenHead(self.num_features, num_classes, pool_type=pool, drop_rate=self.drop_rate)
        self.head = head.to(device=like.device, dtype=like.dtype)
        if isinstance(head.fc, nn.Linear):
            nn.init.trunc_normal_(head.fc.weight, std=INIT_STD)
            nn.init.zeros_(head.fc.bias)

    def no_weight_decay(self) -> set[str]:
        """Names of position tables and biases of offsets, and of the global tokens."""
        return {name for name, _ in self.named_parameters() if name.endswith(_TABLES)}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Depth of each parameter for layer-wise learning rates (timm's interface)."""
        return {
            "stem": r"^stages\.0\.(?:embedding|global_tokens|position)",
            "blocks": r"^stages\.(\d+)"
            if coarse
            else [
                (r"^stages\.(\d+)\.(?:embedding|global_tokens|position)", (-1,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^norm", (99999,)),
            ],
        }
