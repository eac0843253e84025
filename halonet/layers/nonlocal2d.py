"""The non-local block of Wang et al. (arXiv 1711.07971), BoTNet's point of comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from halonet.layers.pointwise import Pointwise
from halonet.ops import local_attention
from halonet.ops.checks import check_choice, check_positive

KINDS = ("gaussian", "dot")


class NonLocal2d(nn.Module):
    """x + W_z y, y = attention of every pixel to every pixel: (B, C, H, W) -> (B, C, H, W).

    With theta, phi and g as 1x1 convolutions to C / reduction channels,

        "gaussian" (embedded Gaussian):  y_i = sum over j of softmax_j(theta_i . phi_j) g_j
        "dot" (dot product):             y_i = 1 / (H * W) * sum over j of (theta_i . phi_j) g_j

    without scale, heads or position. The last norm begins with weight 0, so that the block begins as the identity and
    may be put anywhere into a trained network (section 3.3 there). Shen et al.'s reading of it is `NonLocal`.

    Args:
        dim: channels C.
        kind: "gaussian" or "dot".
        reduction: of the channels inside, which are at least one.
        backend: of the op, for "gaussian"; "auto" takes the fastest. Its work grows with (H * W)^2, its memory with
            H * W where the backend is a kernel. "dot" multiplies phi by g first where that is less work.

    Raises:
        ValueError: an unknown kind, or a dim or reduction that is not positive.
    """

    def __init__(self, dim: int, *, kind: str = "gaussian", reduction: int = 2, backend: str = "auto") -> None:
        super().__init__()
        check_choice("kind", kind, KINDS)
        check_positive("dim", dim)
        check_positive("reduction", reduction)
        inner = max(1, dim // reduction)
        self.dim, self.kind, self.backend = dim, kind, backend
        self.theta, self.phi, self.g = (Pointwise(dim, inner, 1) for _ in range(3))
        self.expand = Pointwise(inner, dim, 1, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small normal projections, and a norm of weight 0: the identity."""
        for convolution in (self.theta, self.phi, self.g, self.expand):
            nn.init.normal_(convolution.weight, std=0.01)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = self.attend(*self.project(x))
        return x + self.norm(self.expand(y.permute(0, 3, 1, 2)))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Theta, phi and g of a map: (B, C, H, W) -> (B, H, W, C') each."""
        pixels = x.contiguous(memory_format=torch.channels_last)
        theta, phi, g = (layer(pixels).permute(0, 2, 3, 1) for layer in (self.theta, self.phi, self.g))
        return theta, phi, g

    def attend(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """(B, H, W, C') twice and (B, H, W, Dv) of any Dv -> (B, H, W, Dv)."""
        if self.kind == "gaussian":
            query, key, value = (map_.unsqueeze(3) for map_ in (theta, phi, g))
            block_size = (theta.shape[1], theta.shape[2])
            output = local_attention(
                query, key, value, block_size=block_size, halo_size=0, scale=1.0, backend=self.backend
            )
            return output.squeeze(3)
        tokens = theta.shape[1] * theta.shape[2]
        query, key, value = (map_.flatten(1, 2) for map_ in (theta, phi, g))
        if tokens > theta.shape[3]:  # (theta phi^T) g = theta (phi^T g)
            output = query @ (key.transpose(1, 2) @ value / tokens)
        else:
            output = query @ key.transpose(1, 2) / tokens @ value
        return output.unflatten(1, theta.shape[1:3])

    def extra_repr(self) -> str:
        """The options that make this layer, for print(model)."""
        return f"{self.dim}, kind={self.kind!r}"
