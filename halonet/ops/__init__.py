"""Pure tensor functions: no modules, no files."""

from halonet.ops.local_attention import explain_backend, local_attention, tune_local_attention
from halonet.ops.relative_position import resize_table, split_tables

__all__ = ["explain_backend", "local_attention", "resize_table", "split_tables", "tune_local_attention"]
