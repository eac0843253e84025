"""Factorized attention as a layer, for maps, volumes and tokens."""

from __future__ import annotations

from torch import Tensor

from halonet.layers.whole_map_attention import WholeMapAttention
from halonet.ops.factorized_attention import factorized_attention


class FactorizedAttention(WholeMapAttention):
    """Attention as a mixture of basis masks, linear in pixels: FA-dot, FA-bot, FA-multi and FA-Tfm of Table 8.

    `channels` is the dimensionality of the basis. Forms and arguments are those of `WholeMapAttention`.
    """

    PROJECTIONS = ("coefficients", "basis", "value")

    def attend(self, first: Tensor, second: Tensor, value: Tensor) -> Tensor:
        """Coefficients (B, S, N, D), basis (B, S, N, D) and values (B, S, N, Dv) -> (B, S, N, Dv)."""
        return factorized_attention(first, second, value, kind=self.kind)

    def basis_masks(self, x: Tensor) -> Tensor:
        """The masks that all positions share (figure 7): (B, N, D, H, W), or with T or S in place of H, W.

        Of the kind "gaussian" each mask sums to 1 over the positions.
        """
        masks = self.projections["basis"](self.tokens_of(x)).unflatten(2, (self.num_heads, -1)).permute(0, 2, 3, 1)
        if self.kind == "gaussian":
            masks = masks.softmax(dim=3)
        return masks if x.ndim == 3 else masks.unflatten(3, x.shape[2:])
