"""What a stereo run leaves behind: weights, pictures, and the error of a constant answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from halonet.analysis.basis_masks import plot_basis
from halonet.analysis.disparity_pictures import plot_disparities
from halonet.analysis.plots import plot_curves
from halonet.analysis.score import Score
from halonet.data.stereo import MEAN, STD, Scene, normalize
from halonet.layers import FactorizedAttention
from halonet.models.checkpoints import save_weights
from halonet.stereo import valid_mask
from halonet.training.files import WEIGHTS
from halonet.training.stereo.datamodule import StereoDataModule
from halonet.training.stereo.module import StereoTask, constant_error

CURVE_LABELS = {"loss": "smooth L1 of all outputs (weighted)", "trained": "train"}
SHOWN_PAIRS = 4
# Pairs that the mean disparity of the training part is taken over, at most.
MOST_PAIRS = 2000


def write_weights(model: nn.Module, folder: Path, *, extra: dict[str, str]) -> None:
    """The model, with the task that `halonet predict` needs to know."""
    save_weights(model, folder / WEIGHTS, metadata={"task": "stereo", **extra})


def judge_constant(task: StereoTask, data: StereoDataModule) -> dict[str, float]:
    """The mean disparity of the training pairs, and the end-point error of telling it everywhere on the test pairs.

    So that an error can be weighed: who looks at nothing errs by this much. All in pixels; "own_epe" is the error of
    telling each test pair's own mean everywhere.
    """
    train = [_truth(item.load(), task) for item in data.source.splits["train"][:MOST_PAIRS]]
    known = [disparity[mask].double().mean() for disparity, mask in train if mask.any()]
    mean = float(torch.stack(known).mean()) if known else float("nan")
    test = [_truth(item.load(), task) for item in data.source.splits["test"]]
    own = [constant_error([pair], float(pair[0][pair[1]].mean())) for pair in test if pair[1].any()]
    return {"disparity": mean, "epe": constant_error(test, mean), "own_epe": sum(own) / len(own) if own else mean}


def _truth(scene: Scene, task: StereoTask) -> tuple[Tensor, Tensor]:
    disparity, valid = torch.from_numpy(scene.disparity)[None], torch.from_numpy(scene.valid)[None]
    return disparity, valid_mask(disparity, valid, max_disparity=task.max_disparity)


@torch.inference_mode()
def draw_pictures(
    task: StereoTask, data: StereoDataModule, history: Sequence[dict[str, float]], folder: Path, *, score: Score
) -> None:
    """curves.png, disparities.png of some test pairs, and with factorized attention basis.png of their left views."""
    plot_curves(history, folder / "curves.png", score=score, **CURVE_LABELS)
    task.model.eval()
    device = next(task.model.parameters()).device
    items = data.source.splits["test"]
    scenes = [items[index].load() for index in range(min(SHOWN_PAIRS, len(items)))]
    told: list[Any] = []
    for scene in scenes:
        left, right = (normalize(view)[None].to(device) for view in (scene.left, scene.right))
        told.append(task.model(left, right)[0].float().cpu().numpy())
    plot_disparities(scenes, told, folder / "disparities.png")
    if any(isinstance(module, FactorizedAttention) for module in task.model.modules()):
        views = [normalize(scene.left).to(device) for scene in scenes]
        features: Any = task.model.features
        plot_basis(task.model, views, folder / "basis.png", mean=MEAN, std=STD, run=features)
