"""Pure tensor functions: no modules, no files."""

from halonet.ops.factorized_attention import factorized_attention, nonlocal_attention
from halonet.ops.local_attention import explain_backend, local_attention, tune_local_attention
from halonet.ops.performer import orthogonal_features, performer_attention
from halonet.ops.relative_position import resize_bias, resize_table, split_tables
from halonet.ops.stereo_volume import concat_volume, soft_argmin

__all__ = [
    "concat_volume",
    "explain_backend",
    "factorized_attention",
    "local_attention",
    "nonlocal_attention",
    "orthogonal_features",
    "performer_attention",
    "resize_bias",
    "resize_table",
    "soft_argmin",
    "split_tables",
    "tune_local_attention",
]
