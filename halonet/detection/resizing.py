"""How a detector brings images to its size: torchvision's way, for narrow ones too."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes


class Resizing(GeneralizedRCNNTransform):
    """torchvision's, that leaves a pixel of a side that its scale would make less of: it is stretched before."""

    @classmethod
    def like(cls, other: GeneralizedRCNNTransform) -> Resizing:
        """One of the same settings."""
        return cls(
            other.min_size,
            other.max_size,
            other.image_mean,
            other.image_std,
            size_divisible=other.size_divisible,
            fixed_size=other.fixed_size,
        )

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """(3, H, W) and its target -> the same, resized."""
        size = image.shape[-2:]
        least = max(size) // self.max_size + 1
        if min(size) < least:
            wider = [max(side, least) for side in size]
            image = F.interpolate(image[None], size=wider, mode="bilinear", align_corners=False)[0]
            if target is not None:
                target = {**target, "boxes": resize_boxes(target["boxes"], list(size), wider)}
                if "masks" in target:
                    target["masks"] = F.interpolate(target["masks"][None].float(), size=wider)[0].byte()
        return super().resize(image, target)
