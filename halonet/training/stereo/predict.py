"""The disparity of a pair of pictures with trained weights; needs no trainer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from halonet.analysis.disparity_pictures import colour_disparity
from halonet.data.stereo import normalize, read_pair, write_disparity
from halonet.files import replacing
from halonet.models.checkpoints import load_model


@dataclass(frozen=True)
class Disparity:
    """Of one pair: pixels of the left picture, and the files written."""

    left: str
    right: str
    pixels: np.ndarray
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        return {"left": self.left, "right": self.right, **self._range(), "files": list(self.files)}

    def to_line(self) -> str:
        span = self._range()
        return f"{self.left}: disparity {span['least']:.1f} to {span['most']:.1f} px; {', '.join(self.files)}"

    def _range(self) -> dict[str, float]:
        return {"least": float(self.pixels.min()), "most": float(self.pixels.max()), "mean": float(self.pixels.mean())}


@torch.inference_mode()
def predict_pair(weights: Path, left: Path, right: Path, *, out: Path) -> Disparity:
    """Tell the disparity of a pair, and write it as NAME.pfm (exact), NAME.png (16 bit, KITTI's) and NAME_colour.png.

    NAME is the left picture's, with _disparity. Raises ValueError for weights of another task, a picture that cannot be
    read, or two of different sizes.
    """
    model, metadata = load_model(weights)
    if metadata.get("task") != "stereo":
        raise ValueError(f"{weights} holds {metadata['model']}, which tells no disparities")
    views = [normalize(view)[None] for view in read_pair(left, right)]
    model.eval()
    pixels = model(*views)[0].float().numpy()
    stem = f"{left.stem}_disparity"
    files = [out / f"{stem}.pfm", out / f"{stem}.png", out / f"{stem}_colour.png"]
    write_disparity(files[0], pixels)
    write_disparity(files[1], pixels)
    with replacing(files[2]) as beside:
        Image.fromarray(colour_disparity(pixels)).save(beside)
    return Disparity(str(left), str(right), pixels, tuple(map(str, files)))
