"""Models: `config` is what a network is, `residual` the one skeleton, `zoo` the rows, `checkpoints` their weights."""

from halonet.models.accelerate import accelerate
from halonet.models.zoo import create_model, list_models, model_config

__all__ = ["accelerate", "create_model", "list_models", "model_config"]
