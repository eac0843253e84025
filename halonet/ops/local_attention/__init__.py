"""Blocked local attention: `api` is the contract, `geometry` the index arithmetic, `reference` the definition."""

from halonet.ops.local_attention.api import explain_backend, local_attention, tune_local_attention

__all__ = ["explain_backend", "local_attention", "tune_local_attention"]
