"""halonet: local-attention vision backbones."""
from halonet import ops

__version__ = "0.1.0"
__all__ = ["__version__", "ops"]
