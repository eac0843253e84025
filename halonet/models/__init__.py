"""Models: what a network is as data (`config`, `token_config`), the two skeletons on `network`, residual nets
(`residual`) and vision transformers (`vit`), their rows (`rows`, `vit_rows`), names (`zoo`) and weights.
"""

from halonet.models.accelerate import accelerate
from halonet.models.resnet_weights import init_from_resnet
from halonet.models.vil_weights import convert_vil
from halonet.models.zoo import create_model, list_models, model_config

__all__ = ["accelerate", "convert_vil", "create_model", "init_from_resnet", "list_models", "model_config"]
