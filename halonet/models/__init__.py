"""Models: what a network is as data (`config`, `token_config`), the two skeletons on `network`, residual nets
(`residual`) and vision transformers (`vit`), their rows (`rows`, `vit_rows`), names (`zoo`) and weights; attention
put into residual nets (`inserted_attention`), feature pyramids on them (`pyramid`), and stereo networks (`psmnet`).
Folders of the Hugging Face Hub are `hub`, their cards `model_card`.
"""

from halonet.models.accelerate import accelerate
from halonet.models.hub import from_pretrained
from halonet.models.psmnet_weights import convert_psmnet
from halonet.models.pyramid import create_pyramid, list_pyramids
from halonet.models.resnet_weights import init_from_resnet
from halonet.models.vil_weights import convert_vil
from halonet.models.zoo import create_model, list_models, model_config

__all__ = [
    "accelerate",
    "convert_psmnet",
    "convert_vil",
    "create_model",
    "create_pyramid",
    "from_pretrained",
    "init_from_resnet",
    "list_models",
    "list_pyramids",
    "model_config",
]
