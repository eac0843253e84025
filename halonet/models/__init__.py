"""Models: `config` is what a network is, `residual` the one skeleton, `zoo` the rows, `checkpoints` their weights."""

from halonet.models.accelerate import accelerate
from halonet.models.resnet_weights import init_from_resnet
from halonet.models.zoo import create_model, list_models, model_config

__all__ = ["accelerate", "create_model", "init_from_resnet", "list_models", "model_config"]
