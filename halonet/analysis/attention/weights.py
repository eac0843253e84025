"""What every attending layer has in common: the positions it reads and the weights of some of its queries."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from halonet.ops.local_attention.geometry import Axis

Size = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """The positions of a layer: what asks, what is looked at, and which block a query stands in.

    map_size: (h, w) of the map that is looked at.
    query_size: (hq, wq) of the map of queries, before any pooling.
    output_size: of the layer's output, after any pooling.
    pool: side of what is averaged into one pixel of the output, in queries.
    num_heads: N.
    num_global: global tokens G. They are looked at beside the map, and ask, too.
    stride: query i stands at pixel i * stride of the map.
    reduction: side, in queries, of what one pixel of the map stands for; above 1 where keys are those of a smaller map.
    signed: whether weights may be negative.
    axes: how the map is cut into blocks along height and width; None where there is one block, the whole map.
    """

    map_size: Size
    query_size: Size
    num_heads: int
    output_size: Size
    num_global: int = 0
    pool: int = 1
    stride: int = 1
    reduction: int = 1
    signed: bool = False
    axes: tuple[Axis, Axis] | None = None

    @property
    def input_size(self) -> Size:
        """(h, w) of the layer's own input, whose pixels and the image's are laid over each other."""
        return self.map_size if self.reduction == 1 else self.query_size

    def pixel_size(self, image_size: Size) -> tuple[float, float]:
        """Height and width of a pixel of the keys' map, in pixels of the image."""
        height, width = (self.reduction * full / side for full, side in zip(image_size, self.input_size, strict=True))
        return height, width

    def query_of(self, pixel: tuple[int, int], image_size: Size) -> tuple[int, int]:
        """The query that answers for a pixel of the image: that which stands at, or strides over, its place."""
        place = [at * side // full for at, side, full in zip(pixel, self.input_size, image_size, strict=True)]
        return place[0] // self.stride, place[1] // self.stride

    def index_of(self, query: tuple[int, int]) -> int:
        """Its number among all queries, global tokens first."""
        return self.num_global + query[0] * self.query_size[1] + query[1]


@dataclass(frozen=True)
class Weights:
    """Weights of Q queries on everything they see: map (Q, N, h, w), tokens (Q, N, G), outside (Q, N), seen (Q,).

    A query's output is the sum of the values, of the map and of the tokens, times these weights; the values outside the
    map are 0. seen: pixels of the map and tokens that take part.
    """

    map: Tensor
    tokens: Tensor
    outside: Tensor
    seen: Tensor
