"""Local attention on NVIDIA GPUs by Triton kernels: the face of the backend."""

from halonet.ops.local_attention.triton_gpu.operator import refusal, run

__all__ = ["refusal", "run"]
