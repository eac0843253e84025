"""halonet: local-attention vision backbones, their one attention primitive, and what trains and judges them."""

from halonet import ops
from halonet.models import accelerate, create_model, from_pretrained, list_models

__version__ = "0.1.0"
__all__ = ["__version__", "accelerate", "create_model", "from_pretrained", "list_models", "ops"]
