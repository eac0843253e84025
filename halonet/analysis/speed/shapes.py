"""The calls of `local_attention` that models make, found by running them on tensors without memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from halonet import models
from halonet.layers import AttentionLayer


@dataclass(frozen=True)
class OpShape:
    """One call: a square or rectangular map, and what `local_attention` is told."""

    label: str
    height: int
    width: int
    num_heads: int
    key_dim: int
    value_dim: int
    block_size: tuple[int, int]
    halo_size: tuple[int, int]
    stride: int = 1

    @property
    def is_global(self) -> bool:
        """Whether one block is the whole map."""
        return self.block_size == (self.height, self.width) and self.halo_size == (0, 0)

    def __str__(self) -> str:
        (block, _), (halo, _) = self.block_size, self.halo_size
        heads = f"{self.num_heads} heads of {self.key_dim}/{self.value_dim}"
        return f"{self.label}: {self.height} x {self.width}, {heads}, b {block}, h {halo}, s {self.stride}"

    def sizes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Of query, key, value and both position tables."""
        queries = (-(-self.height // self.stride), -(-self.width // self.stride))
        rows = [2 * (block + halo) - 1 for block, halo in zip(self.block_size, self.halo_size, strict=True)]
        return {
            "query": (batch, *queries, self.num_heads, self.key_dim),
            "key": (batch, self.height, self.width, self.num_heads, self.key_dim),
            "value": (batch, self.height, self.width, self.num_heads, self.value_dim),
            "height_table": (rows[0], self.key_dim),
            "width_table": (rows[1], self.key_dim),
        }

    def tensors(self, batch: int, dtype: torch.dtype, device: torch.device | str) -> dict[str, Tensor]:
        """Tensors of those sizes, random, with gradients."""
        options: dict[str, Any] = {"generator": torch.Generator(device).manual_seed(0), "device": device}
        sizes = self.sizes(batch).items()
        return {name: torch.randn(size, dtype=dtype, **options).requires_grad_() for name, size in sizes}


def stages_of(name: str) -> list[OpShape]:
    """The different calls of a model of the zoo at its own image size, stage by stage, strided ones last.

    Raises ValueError for a name that the zoo has not, or a model without attention.
    """
    with torch.device("meta"):
        model = models.create_model(name)
    found = calls_of(model, models.model_config(name).image_shape, label=name)
    if not found:
        raise ValueError(f"model must have attention, got {name!r}, which has none")
    return found


def calls_of(model: nn.Module, image_size: tuple[int, int], *, label: str) -> list[OpShape]:
    """The different calls of a model on the meta device for an image of (height, width), labelled and numbered."""
    found: dict[OpShape, None] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, AttentionLayer)
        found[_shape_of(layer, inputs[0], label)] = None

    for layer in model.modules():
        if isinstance(layer, AttentionLayer):
            layer.register_forward_pre_hook(note)
    model(torch.empty(1, 3, *image_size, device="meta"))
    shapes = sorted(found, key=lambda shape: (shape.stride, -shape.height))
    return [OpShape(**{**vars(shape), "label": f"{label} {index}"}) for index, shape in enumerate(shapes, start=1)]


def _shape_of(layer: AttentionLayer, image: Tensor, name: str) -> OpShape:
    block_size, halo_size = layer.blocks_of((image.shape[2], image.shape[3]))
    return OpShape(
        label=name,
        height=image.shape[2],
        width=image.shape[3],
        num_heads=layer.num_heads,
        key_dim=layer.dim_qk // layer.num_heads,
        value_dim=layer.dim_out // layer.num_heads,
        block_size=block_size,
        halo_size=halo_size,
        stride=layer.query_stride,
    )
