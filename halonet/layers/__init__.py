"""What stands in the slot of a network, one mechanism a file.

An `AttentionLayer` or `NonLocal2d` takes a map, (B, C, H, W) -> (B, C', H', W'); a `TokenAttention` the tokens of one,
(B, G + H * W, C) -> the same shape; a `WholeMapAttention` either, and volumes.
"""

from halonet.layers.attention_layer import AttentionLayer
from halonet.layers.bottleneck_attention import BottleneckAttention
from halonet.layers.factorized_attention import FactorizedAttention
from halonet.layers.global_attention import GlobalAttention
from halonet.layers.halo_attention import HaloAttention
from halonet.layers.linformer_attention import LinformerAttention
from halonet.layers.longformer_attention import FullAttention, LongformerAttention
from halonet.layers.nonlocal2d import NonLocal2d
from halonet.layers.nonlocal_attention import NonLocal
from halonet.layers.performer_attention import PerformerAttention
from halonet.layers.spatial_reduction_attention import SpatialReductionAttention
from halonet.layers.token_attention import TokenAttention
from halonet.layers.whole_map_attention import WholeMapAttention

__all__ = [
    "AttentionLayer",
    "BottleneckAttention",
    "FactorizedAttention",
    "FullAttention",
    "GlobalAttention",
    "HaloAttention",
    "LinformerAttention",
    "LongformerAttention",
    "NonLocal",
    "NonLocal2d",
    "PerformerAttention",
    "SpatialReductionAttention",
    "TokenAttention",
    "WholeMapAttention",
]
