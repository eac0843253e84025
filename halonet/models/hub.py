"""Models as folders of the Hugging Face Hub: safetensors, config.json in timm's form, and a card.

Nothing here is fetched or sent unless `from_pretrained` is given the name of a repository, or `push_to_hub` is called.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

# timm has imported the library behind it already; this adds its mixin, a few milliseconds.
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from torch import nn

from halonet.files import replacing
from halonet.models.checkpoints import describe, load_model, save_weights

# What the Hub's own reading of config.json may hand on as if they were arguments.
_OF_CONFIG = ("config", "architecture", "num_features", "model_args", "pretrained_cfg", "halonet")
_PREPROCESSING = ("mean", "std", "crop_pct")  # of a file's metadata, as `halonet fit` writes it


class HubModel(PyTorchModelHubMixin, library_name="halonet"):
    """What makes a model savable as a folder of the Hub: `save_pretrained`, `push_to_hub` and `from_pretrained`, the
    Hub's own, on our files.

    weights_metadata: text kept with the weights beside what built the model, such as class names and preprocessing, as
        the metadata of a safetensors file has them. `from_pretrained` sets it.
    """

    weights_metadata: dict[str, str] | None = None

    def _save_pretrained(self, save_directory: Path) -> None:
        """Weights and config.json; the Hub's `save_pretrained` adds the card where there is none.

        Raises:
            ValueError: a model that does not know what built it, such as one with `features_only`.
        """
        assert isinstance(self, nn.Module)
        metadata = self.weights_metadata or {}
        config = hub_config(self, metadata)
        save_weights(self, save_directory / SAFETENSORS_SINGLE_FILE, metadata=metadata)
        with replacing(save_directory / CONFIG_NAME) as beside:
            beside.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Any:
        """The model of a folder or repository; raises ValueError where it is of another class."""
        model = from_pretrained(model_id, **{key: value for key, value in options.items() if key not in _OF_CONFIG})
        if not isinstance(model, cls):
            raise ValueError(f"{model_id} holds a {type(model).__name__}, not a {cls.__name__}")
        return model

    def generate_model_card(self, *args: Any, **facts: Any) -> Any:
        """The card of `halonet.models.model_card`, with what is known of a run, if anything."""
        from huggingface_hub import ModelCard

        from halonet.models.model_card import model_card

        assert isinstance(self, nn.Module)
        return ModelCard(model_card(self, metadata=self.weights_metadata or {}, **facts))


def from_pretrained(
    name: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
    **overrides: Any,
) -> nn.Module:
    """The model of a folder that `save_pretrained` or `halonet export --format hub` wrote, or of a repository.

    The file of weights says what built the model; nothing in it is run.

    Args:
        name: the folder, or "user/name" on the Hugging Face Hub.
        revision: branch, tag or commit of the repository; its newest if None.
        cache_dir: where downloads are kept; the Hub's own place if None.
        force_download: fetch again what is there.
        local_files_only: fetch nothing.
        token: of the Hub; the one that is logged in with if None.
        overrides: arguments of `create_model` that are to differ, as in `load_model`: `num_classes=3`.

    Returns:
        The model in evaluation mode. Its `weights_metadata` holds the text kept with the weights, such as class names.

    Raises:
        ValueError: a folder without weights, a repository that cannot be reached, or weights that do not fit.
    """
    from halonet import __version__

    folder = Path(name)
    if folder.is_dir():
        file = folder / SAFETENSORS_SINGLE_FILE
    else:
        try:
            file = Path(
                hf_hub_download(
                    str(name),
                    SAFETENSORS_SINGLE_FILE,
                    revision=revision,
                    cache_dir=None if cache_dir is None else Path(cache_dir),
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    library_name="halonet",
                    library_version=__version__,
                )
            )
        except (OSError, ValueError) as error:  # no connection, no such repository, no such name
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{name} is no folder, and the Hub does not give it: {reason}") from error
    model, metadata = load_model(file, **overrides)
    setattr(model, "weights_metadata", {k: v for k, v in metadata.items() if k not in ("model", "arguments")})  # noqa: B010
    return model.eval()


def hub_config(model: nn.Module, metadata: dict[str, str]) -> dict[str, Any]:
    """What config.json says, in timm's form, so that `timm.create_model("hf-hub:user/name")` builds the model too.

    Args:
        model: of `create_model`.
        metadata: of its weights; tells class names and preprocessing.

    Raises:
        ValueError: the model does not know what built it.
    """
    from halonet import __version__

    described = describe(model)
    if not described:
        raise ValueError(f"expected a model of create_model, which knows what built it, got a {type(model).__name__}")
    card: Any = getattr(model, "pretrained_cfg", None) or model.default_cfg  # timm reads no more than its own names
    told = {name: json.loads(metadata[name]) for name in _PREPROCESSING if name in metadata}
    pretrained = {**{key: value for key, value in card.items() if value not in (None, "")}, **told}
    for of_registry in ("architecture", "tag", "source", "file", "hf_hub_id", "custom_load"):
        pretrained.pop(of_registry, None)
    arguments = json.loads(described["arguments"])
    if "num_classes" in arguments:
        pretrained["num_classes"] = arguments["num_classes"]
    if "class_names" in metadata:
        pretrained["label_names"] = json.loads(metadata["class_names"])
    return {
        "architecture": described["model"],
        "num_features": getattr(model, "num_features", None),
        "model_args": arguments,
        "pretrained_cfg": pretrained,
        "halonet": {"version": __version__, "task": metadata.get("task", "classification")},
    }
