"""Pure tensor functions: no modules, no files."""

from halonet.ops.factorized_attention import (
    factorized_attention,
    factorized_attention_weights,
    nonlocal_attention,
    nonlocal_attention_weights,
)
from halonet.ops.local_attention import (
    explain_backend,
    local_attention,
    local_attention_weights,
    tune_local_attention,
)
from halonet.ops.performer import orthogonal_features, performer_attention, performer_attention_weights
from halonet.ops.relative_position import resize_bias, resize_table, split_tables
from halonet.ops.stereo_volume import concat_volume, soft_argmin

__all__ = [
    "concat_volume",
    "explain_backend",
    "factorized_attention",
    "factorized_attention_weights",
    "local_attention",
    "local_attention_weights",
    "nonlocal_attention",
    "nonlocal_attention_weights",
    "orthogonal_features",
    "performer_attention",
    "performer_attention_weights",
    "resize_bias",
    "resize_table",
    "soft_argmin",
    "split_tables",
    "tune_local_attention",
]
