"""Backends to compare with: how Vision Longformer's authors computed local attention (appendix C; arXiv 2103.15358)."""

from halonet.ops.local_attention.compared import sliding_chunk, unfold

__all__ = ["sliding_chunk", "unfold"]
