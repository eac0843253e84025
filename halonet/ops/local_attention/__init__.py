"""Blocked local attention: `api` is the contract, `geometry` the index arithmetic, `reference` the definition,
`weights` what chosen queries look at."""

from halonet.ops.local_attention.api import explain_backend, local_attention, tune_local_attention
from halonet.ops.local_attention.weights import LocalWeights, local_attention_weights

__all__ = ["LocalWeights", "explain_backend", "local_attention", "local_attention_weights", "tune_local_attention"]
