"""Local attention on a CPU by kernels that numba compiles for its processor: the backend "numba"."""

from halonet.ops.local_attention.numba_cpu.operator import refusal, run

__all__ = ["refusal", "run"]
