"""Modules that fill the slot of a bottleneck: (B, C, H, W) -> (B, C', H', W'), one mechanism a file."""

from halonet.layers.attention_layer import AttentionLayer
from halonet.layers.bottleneck_attention import BottleneckAttention
from halonet.layers.halo_attention import HaloAttention
from halonet.layers.nonlocal2d import NonLocal2d

__all__ = ["AttentionLayer", "BottleneckAttention", "HaloAttention", "NonLocal2d"]
