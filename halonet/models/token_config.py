"""What a multi-scale vision transformer is, as data. A model is a value of these types; see `zoo` for the rows."""

from __future__ import annotations

from dataclasses import dataclass

from halonet.layers.longformer_attention import MASKINGS
from halonet.ops.checks import check_choice, check_positive
from halonet.ops.local_attention.checks import pair

ATTENTIONS = ("vil", "full", "global", "linformer", "sra", "performer")
POSITIONS = ("relative", "absolute", "none")
_WITH_BIAS = ("vil", "full")  # attention whose logits are there to be added to


@dataclass(frozen=True)
class TokenStageConfig:
    """An E-ViT stage: patches as tokens, global tokens before them, transformer blocks (Vision Longformer, figure 1).

    depth: blocks n.
    width: channels d of a token.
    num_heads: attention heads h.
    patch_size: side p of a patch of the map before, one token each.
    attention: a. "vil" (local with global tokens), "full", "global" (through global tokens only), "linformer", "sra"
        (spatial reduction) or "performer"; see `halonet.layers`.
    num_global: global tokens n_g, dropped at the end of the stage.
    position: "relative" (a bias of each offset in every layer, RPB), "absolute" (2D embedding, APE) or "none".
    window: of "vil", 2w + 1.
    masking: of "vil": "chunk", "window" or "cyclic".
    num_features: of "linformer" and "performer", K.
    reduction: of "sra", R.
    mlp_ratio: hidden channels of the feed-forward block as a multiple of d.
    backend: of local attention.
    """

    depth: int
    width: int
    num_heads: int
    patch_size: int = 2
    attention: str = "vil"
    num_global: int = 1
    position: str = "relative"
    window: int = 15
    masking: str = "chunk"
    num_features: int = 256
    reduction: int = 8
    mlp_ratio: float = 4.0
    backend: str = "auto"

    def __post_init__(self) -> None:
        check_choice("attention", self.attention, ATTENTIONS)
        check_choice("position", self.position, POSITIONS)
        check_choice("masking", self.masking, tuple(MASKINGS))
        for name in ("depth", "width", "num_heads", "patch_size"):
            check_positive(name, getattr(self, name))
        if self.position == "relative" and self.attention not in _WITH_BIAS:
            raise ValueError(f'position must be "absolute" or "none" for attention={self.attention!r}, got "relative"')
        if not isinstance(self.mlp_ratio, (int, float)) or self.width * self.mlp_ratio < 1:
            raise ValueError(f"mlp_ratio must be a positive number, got {self.mlp_ratio!r}")


@dataclass(frozen=True)
class TokenConfig:
    """A multi-scale vision transformer: stages of tokens, a norm, a head.

    stages: the stages in order.
    image_size: side or (height, width) the model is meant for; it runs at any (with "linformer" at this alone).
    patch_norm: whether a LayerNorm follows each patch embedding (section 3.1).
    in_chans: channels of the images it is meant for.
    num_classes: classes it is meant for.
    """

    stages: tuple[TokenStageConfig, ...]
    image_size: int | tuple[int, int] = 224
    patch_norm: bool = True
    in_chans: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages must not be empty")
        if not isinstance(self.patch_norm, bool):
            raise ValueError(f"patch_norm must be True or False, got {self.patch_norm!r}")
        check_positive("in_chans", self.in_chans)
        pair("image_size", self.image_size, minimum=1)

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the images the model is meant for."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
