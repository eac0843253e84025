"""What a residual network is, as data. A model is a value of these types; see `zoo` for the rows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from halonet.models.inserted_attention import InsertedAttention, place_names, residual_places
from halonet.ops.checks import check_choice, check_positive
from halonet.ops.local_attention.checks import pair

SLOTS = ("conv", "halo", "mhsa")
INSERTS = ("mhsa", "nonlocal")
STEMS = ("conv7", "conv3", "patch4")
ACTIVATIONS = ("relu", "silu", "gelu")
Config = TypeVar("Config", bound=Any)


@dataclass(frozen=True)
class StageConfig:
    """A run of bottlenecks: 1x1 to `width`, the slot, 1x1 to `width * output_multiplier`.

    The first block strides and, where the shape changes, has a projection shortcut.

    depth: blocks.
    width: channels w inside the bottleneck.
    groups: of a "conv" slot; with more than 1 it is a ResNeXt's.
    slot: what mixes the pixels: "conv" (3x3, w -> w), "halo" (local attention, w -> w * value_multiplier) or "mhsa"
        (global attention, the same); or a tuple of them, one a block.
    stride: of the first block.
    output_multiplier: r_b of HaloNet, 4 in a ResNet.
    squeeze_excite: hidden share of a squeeze-excite module on the block's output, 0 for none.
    inserts: what stands between blocks: tuples (number of blocks before it, "mhsa" for one more bottleneck of that
        slot or "nonlocal" for a non-local block).
    The rest describes attention: see `halonet.layers.HaloAttention` and `BottleneckAttention`.
    """

    depth: int
    width: int
    slot: str | tuple[str, ...] = "conv"
    stride: int = 2
    output_multiplier: float = 4.0
    groups: int = 1
    squeeze_excite: float = 0.0
    inserts: tuple[tuple[int, str], ...] = ()
    num_heads: int = 8
    block_size: int | tuple[int, int] = 8
    halo_size: int | tuple[int, int] = 3
    value_multiplier: float = 1.0
    query_key_multiplier: float = 1.0
    relative: str = "split"
    content: bool = True
    window: int | None = None
    downsample: str = "query"
    border: str = "zeros"
    backend: str = "auto"

    def __post_init__(self) -> None:
        for slot in self.slot if isinstance(self.slot, tuple) else (self.slot,):
            check_choice("slot", slot, SLOTS)
        for name in ("depth", "width", "stride", "num_heads", "groups"):
            check_positive(name, getattr(self, name))
        share = self.squeeze_excite
        if not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise ValueError(f"squeeze_excite must be a share from 0 to 1, got {share!r}")
        if not isinstance(self.output_multiplier, (int, float)) or self.width * self.output_multiplier < 1:
            raise ValueError(f"output_multiplier must be a positive number, got {self.output_multiplier!r}")
        if self.width % self.groups:
            raise ValueError(f"groups must divide width={self.width}, got {self.groups!r}")
        if len(self.slots) != self.depth:
            raise ValueError(f"slot must be one for all or one for each of {self.depth} blocks, got {self.slot!r}")
        for after, kind in self.inserts:
            check_choice("inserts", kind, INSERTS)
            if not 1 <= after <= self.depth:
                raise ValueError(f"inserts must come after 1 to {self.depth} blocks, got {after!r}")

    @property
    def slots(self) -> tuple[str, ...]:
        """The slot of each block."""
        return self.slot if isinstance(self.slot, tuple) else (self.slot,) * self.depth

    @property
    def width_out(self) -> int:
        """Channels of the stage's output."""
        return round(self.width * self.output_multiplier)


@dataclass(frozen=True)
class ResidualConfig(InsertedAttention):
    """A residual network: stem, stages, head. Inserted attention is that of `InsertedAttention`.

    stages: the stages in order.
    image_size: side or (height, width) the model is meant for; it runs at any.
    stem: "conv7" (7x7 stride 2, then 3x3 max pool stride 2), "conv3" (3x3 stride `stem_stride`, no pool) or
        "patch4" (linear projection of 4x4 patches).
    stem_width: channels of the stem.
    head_width: d_f, channels of the final 1x1 convolution; None for no such layer.
    activation: "relu", "silu" or "gelu", everywhere.
    in_chans: channels of the images it is meant for.
    num_classes: classes it is meant for.
    attention_at: where attention of the whole map is inserted, by name: see `inserted_attention.residual_places`.
    """

    stages: tuple[StageConfig, ...]
    image_size: int | tuple[int, int] = 224
    stem: str = "conv7"
    stem_width: int = 64
    stem_stride: int = 2
    head_width: int | None = None
    activation: str = "relu"
    in_chans: int = 3
    num_classes: int = 1000
    attention_at: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("stem", self.stem, STEMS)
        check_choice("activation", self.activation, ACTIVATIONS)
        if not self.stages:
            raise ValueError("stages must not be empty")
        for name in ("stem_width", "stem_stride", "in_chans"):
            check_positive(name, getattr(self, name))
        if self.head_width is not None:
            check_positive("head_width", self.head_width)
        pair("image_size", self.image_size, minimum=1)
        self.check_attention()
        object.__setattr__(self, "attention_at", place_names(self.attention_at))
        _ = self.attention_places

    @property
    def attention_places(self) -> list[tuple[int, int]]:
        """(stage from 0, blocks before it) of each inserted attention."""
        return residual_places(self.attention_at, tuple(stage.depth for stage in self.stages))

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the images the model is meant for."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size


def stage_fields(config: Any) -> frozenset[str]:
    """Names of the options that a configuration's stages have; none where it has no stages."""
    stages = getattr(config, "stages", ())
    return frozenset(field.name for field in fields(stages[0])) if stages else frozenset()


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with some values changed, by field name.

    A field of the network's configuration is replaced. A field of its stages' is replaced in every stage; a list gives
    one value a stage.

    Raises:
        ValueError: an unknown name (with the nearest right ones) or a list of another length than the stages.
    """
    own, of_stages = {field.name for field in fields(config)} - {"stages"}, stage_fields(config)
    changes: list[dict[str, Any]] = [{} for _ in getattr(config, "stages", ())]
    for name, value in values.items():
        if name not in own | of_stages:
            raise ValueError(f"unknown model option {name!r}{nearest(name, own | of_stages)}")
        if name in of_stages:
            per_stage = value if isinstance(value, list) else [value] * len(changes)
            if len(per_stage) != len(changes):
                raise ValueError(f"{name} must be one value or a list of {len(changes)}, got {value!r}")
            for change, item in zip(changes, per_stage, strict=True):
                change[name] = _tuples(item)
    of_network = {name: value for name, value in values.items() if name in own}
    if not changes:
        return replace(config, **of_network)
    # All of a stage's at once: one may be refused without the other.
    stages = tuple(replace(stage, **change) for stage, change in zip(config.stages, changes, strict=True))
    return replace(config, stages=stages, **of_network)


def _tuples(value: Any) -> Any:
    """Lists, as YAML and JSON have them, as the tuples of a configuration."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the known names that begin so, or look like it."""
    known = sorted(known)
    close = [candidate for candidate in known if candidate.startswith(name)][:3]
    close = close or difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
