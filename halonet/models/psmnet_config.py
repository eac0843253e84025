"""What a PSMNet is, as data; see `psmnet_rows` for the rows."""

from __future__ import annotations

from dataclasses import dataclass

from halonet.models.inserted_attention import InsertedAttention
from halonet.ops.checks import check_choice, check_positive
from halonet.ops.local_attention.checks import pair

HEADS = ("basic", "hourglass")
ATTENTION = ("none", "factorized", "nonlocal")
CLUSTERS = 4


@dataclass(frozen=True)
class PsmnetConfig:
    """A pyramid stereo matching network (Chang and Chen, arXiv 1803.08669, table 1), with or without attention.

    max_disparity: how many disparities are told apart, from 0 pixels on.
    head: "basic" (one stack of 3D convolutions, one output) or "hourglass" (three stacked hourglasses, an output each).
    width: channels of the first layers, of the pyramid's branches and of the matching volume's convolutions; the second
        cluster has twice as many, the last two four times.
    depths: residual blocks of the four clusters of the feature network.
    pools: sides of the pyramid's average pools, in pixels of the feature map at 1/4; a smaller map is pooled whole.
    attention: "none", "factorized" or "nonlocal": one layer after the last cluster, before the pyramid (Shen et al.,
        arXiv 1812.01243, section 4.2).
    attention_form, attention_kind: see `halonet.layers.WholeMapAttention`. Its values have all channels of the map.
    basis: dimensionality of the basis, or of queries and keys, all heads together.
    attention_heads: heads of the forms that have them.
    align_corners: how the pyramid and the scores are resized: False as the authors' code does on today's torch and as
        the weights want that they trained in 2021; True for those of 2018, when torch resized so.
    image_size: side or (height, width) it is meant for; it runs at any.
    in_chans: channels of the images.

    Raises:
        ValueError: an unknown word or a number out of its range.
    """

    max_disparity: int = 192
    head: str = "hourglass"
    width: int = 32
    depths: tuple[int, int, int, int] = (3, 16, 3, 3)
    pools: tuple[int, ...] = (64, 32, 16, 8)
    attention: str = "none"
    attention_form: str = "bot"
    attention_kind: str = "gaussian"
    basis: int = 64
    attention_heads: int = 1
    align_corners: bool = False
    image_size: int | tuple[int, int] = (256, 512)
    in_chans: int = 3

    def __post_init__(self) -> None:
        check_choice("head", self.head, HEADS)
        check_choice("attention", self.attention, ATTENTION)
        for name in ("max_disparity", "width", "in_chans"):
            check_positive(name, getattr(self, name))
        for name in ("depths", "pools"):
            object.__setattr__(self, name, _counts(name, getattr(self, name)))
        if len(self.depths) != CLUSTERS:
            raise ValueError(f"depths must be {CLUSTERS} numbers, got {self.depths!r}")
        if not isinstance(self.align_corners, bool):
            raise ValueError(f"align_corners must be true or false, got {self.align_corners!r}")
        pair("image_size", self.image_size, minimum=1)
        self.inserted.check_attention()

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the images the model is meant for."""
        return pair("image_size", self.image_size, minimum=1)

    @property
    def inserted(self) -> InsertedAttention:
        """The options of the attention layer; what it would be where there is none."""
        return InsertedAttention(
            attention="factorized" if self.attention == "none" else self.attention,
            attention_form=self.attention_form,
            attention_kind=self.attention_kind,
            basis=self.basis,
            attention_values=4 * self.width,
            attention_heads=self.attention_heads,
        )


def _counts(name: str, values: object) -> tuple[int, ...]:
    """A tuple or list, as files have it, of positive ints, as a tuple."""
    if not isinstance(values, tuple | list) or not values:
        raise ValueError(f"{name} must be a tuple of positive ints, got {values!r}")
    for value in values:
        check_positive(name, value)
    return tuple(values)
