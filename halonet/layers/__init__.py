"""Modules that fill the slot of a bottleneck: (B, C, H, W) -> (B, C', H', W'), one mechanism a file."""

from halonet.layers.halo_attention import HaloAttention

__all__ = ["HaloAttention"]
