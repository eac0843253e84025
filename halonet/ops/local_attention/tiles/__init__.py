"""Local attention on a CPU by tiles that fit its cache, in torch's own operations: part of the backend "sdpa"."""

from halonet.ops.local_attention.tiles.operator import run, takes

__all__ = ["run", "takes"]
