"""Put a halo layer into a network of your own.

What you learn: `halonet.layers.HaloAttention` takes a map and gives a map, so it stands where a 3x3 convolution stood;
what that does to parameters, multiply-adds and accuracy; that torch.compile and torch.export take it; where it attends.

    python tutorials/halo_layer_in_your_network.py                           # handwritten digits, seconds on a CPU
    python tutorials/halo_layer_in_your_network.py --data FOLDER --img-size 64 --steps 3000      # your images
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from halonet.analysis import count_costs
from halonet.analysis.attention import record_attention
from halonet.analysis.attention.pictures import plot_attention
from halonet.analysis.overlay import contrasting_pixels, for_the_eye
from halonet.cli.commands import positive
from halonet.cli.words import Parser, exit_status
from halonet.data import DataConfig, EpochSampler, ImageDataset, Preprocessing, eval_transform, open_source
from halonet.data.source import SplitItems
from halonet.layers import HaloAttention

# ---------------------------------------------------------------------------------------------------------------------
# Step 1. A network of your own.
#
# Plain PyTorch: a stem, three residual blocks, a classifier. What mixes neighbouring pixels is left open: `mix` makes
# the layer, given its channels. (B, C, H, W) goes in, (B, C, H, W) comes out.


class Block(nn.Module):
    """x + mix(norm(x)), then x + pointwise(norm(x))."""

    def __init__(self, width: int, mix: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.BatchNorm2d(width), mix(width))
        self.pointwise = nn.Sequential(
            nn.BatchNorm2d(width), nn.Conv2d(width, 2 * width, 1), nn.SiLU(), nn.Conv2d(2 * width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(x)
        return x + self.pointwise(x)


class SmallNet(nn.Module):
    """Images (B, in_chans, H, W) -> logits (B, classes)."""

    def __init__(self, mix: Callable[[int], nn.Module], *, in_chans: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(width, mix) for _ in range(3)))
        self.head = nn.Sequential(
            nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


# ---------------------------------------------------------------------------------------------------------------------
# Step 2. The two layers that may stand there.
#
# The convolution sees 3x3 pixels. The halo layer cuts the map into blocks of 4x4, and each pixel attends to its block
# and two pixels around it, 8x8 in all, by content and by relative position. The map may have any size. Channels must be
# divisible by the heads; heads of 8 to 32 channels are usual.


def convolution(width: int) -> nn.Module:
    """3x3, as in any network."""
    return nn.Conv2d(width, width, 3, padding=1, bias=False)


def halo(width: int) -> nn.Module:
    """Local attention in its place."""
    return HaloAttention(width, num_heads=4, block_size=4, halo_size=2)


LAYERS: dict[str, Callable[[int], nn.Module]] = {"convolution": convolution, "halo": halo}

# ---------------------------------------------------------------------------------------------------------------------
# Step 3. Images.
#
# The digits that scikit-learn brings, or any folder of images: `open_source` finds classes and parts, `ImageDataset`
# reads and prepares. Nothing of this is needed for the layer; use whatever loader you have.


@dataclass
class Images:
    """The parts of a data set, and what a network for it must know."""

    train: ImageDataset
    test: ImageDataset
    prepared: Preprocessing
    classes: int


def open_images(root: str | None, img_size: int) -> Images:
    """The digits, or a folder."""
    source = open_source(DataConfig(root=root))
    mean, std = source.mean or (0.5,) * source.in_chans, source.std or (0.5,) * source.in_chans
    prepared = Preprocessing(img_size=img_size, in_chans=source.in_chans, mean=mean, std=std, crop_pct=1.0)
    parts = {}
    for name in ("train", "test"):
        split = source.splits[name]
        if not isinstance(split, SplitItems):
            raise ValueError(f"--data: expected a folder of images, got shards at {root}")
        parts[name] = ImageDataset(split, in_chans=source.in_chans, transform=eval_transform(prepared), seed=0)
    return Images(parts["train"], parts["test"], prepared, source.num_classes)


def endless(data: ImageDataset, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch after another, the same ones whatever the network."""
    sampler = EpochSampler(data, seed=0, num_replicas=1, rank=0)
    loader = DataLoader(data, batch_size=batch, sampler=sampler, drop_last=True)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


# ---------------------------------------------------------------------------------------------------------------------
# Step 4. Train, as any network is trained.


def train(model: nn.Module, images: Images, *, steps: int, batch: int) -> float:
    """CPU seconds it took: the clock on the wall also counts what else the machine does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=max(2, steps))
    model.train()
    began = time.process_time()
    for _, (x, labels) in zip(range(steps), endless(images.train, batch), strict=False):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return time.process_time() - began


@torch.no_grad()
def right(model: nn.Module, data: ImageDataset) -> int:
    """Images whose class is told right."""
    model.eval()
    return sum(int((model(x).argmax(1) == labels).sum()) for x, labels in DataLoader(data, batch_size=64))


# ---------------------------------------------------------------------------------------------------------------------
# Step 5. Compare.
#
# `count_costs` counts what runs, from shapes alone: no weights, nothing is computed. Accuracies are of these few steps
# and this seed; one run each tells little about which layer is better.


def compare(images: Images, *, steps: int, batch: int) -> nn.Module:
    """A line for each layer; the network with attention."""
    batch = min(batch, len(images.train))
    side, chans = images.prepared.img_size, images.prepared.in_chans
    print(f"{len(images.train)} training images of {images.classes} classes at {side}x{side}, {steps} steps of {batch}")
    print(f"{'layer':12} {'parameters':>11} {'multiply-adds':>14} {'test images right':>20} {'CPU seconds':>12}")
    models = {}
    for name, layer in LAYERS.items():
        torch.manual_seed(0)
        models[name] = model = SmallNet(layer, in_chans=chans, classes=images.classes)
        model(torch.zeros(2, chans, side, side)).sum().backward()  # kernels are compiled on their first call
        seconds = train(model, images, steps=steps, batch=batch)
        cost = count_costs(model, input_size=(chans, side, side)).total()
        told = f"{right(model, images.test)} of {len(images.test)}"
        print(f"{name:12} {cost.parameters:11,} {cost.multiply_adds:14,} {told:>20} {seconds:12.1f}", flush=True)
    return models["halo"]


# ---------------------------------------------------------------------------------------------------------------------
# Step 6. Look where it attends.
#
# `record_attention` runs the network once; then any layer tells the weights of any pixel's query, head by head. They
# sum to 1 with what falls on the zeros outside the map, which take part in HaloNet's attention.


def look(model: nn.Module, images: Images, path: Path) -> None:
    """Draw where three pixels of the first test image attend, and tell it of the first of them."""
    x = images.test[0][0][None]
    pixels = contrasting_pixels(x[0])
    record = record_attention(model, x)
    plot_attention(record, for_the_eye(x[0], images.prepared.mean, images.prepared.std), pixels, path)
    print(f"\nwhere the pixel {pixels[0]} of the first test image attends ({path}):")
    for layer in record.layers.values():
        rows = layer.at(pixels[:1])
        weights, outside = rows.weights[0].mean(0), float(rows.outside.mean())
        largest = divmod(int(weights.argmax()), layer.map_size[1])
        print(f"  {layer.label}: most at {largest} of {layer.map_size}, {outside:.0%} outside the map", end="")
        print("" if rows.in_block is None else f", {float(rows.in_block.mean()):.0%} in its own block")


# ---------------------------------------------------------------------------------------------------------------------
# Step 7, if you ask for it. Compile and export.


def largest_difference(one: nn.Module, other: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Of their outputs."""
    with torch.no_grad():
        return float((one(x) - other(x)).abs().max())


def compile_it(model: nn.Module, x: Tensor) -> None:
    """torch.compile: the op stays one call in the compiled graph."""
    print(f"torch.compile: largest difference of outputs {largest_difference(model, torch.compile(model), x):.1e}")


def export_it(model: nn.Module, x: Tensor, path: Path) -> None:
    """torch.export: a program that needs none of this code, except halonet for its fast op."""
    torch.export.save(torch.export.export(model, (x,)), path)
    again = torch.export.load(path).module()
    print(f"torch.export: largest difference of outputs {largest_difference(model, again, x):.1e} ({path})")


def main() -> int:
    """The whole lesson."""
    parser = Parser(prog="halo_layer_in_your_network.py", description="A halo layer in a network of one's own.")
    parser.add_argument("--data", metavar="FOLDER", help="your images, a sub-folder a class (default: the digits)")
    parser.add_argument("--img-size", type=positive, default=16, help="pixels of a side (default 16)")
    parser.add_argument("--steps", type=positive, default=200, help="of training (default 200)")
    parser.add_argument("--batch", type=positive, default=32, help="images of a step (default 32)")
    parser.add_argument("--threads", type=positive, default=1, help="of the CPU (default 1: enough for so little)")
    parser.add_argument("--compile", action="store_true", help="try torch.compile")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write a torch.export program")
    parser.add_argument("--picture", type=Path, default=Path("attends.png"), help="default: attends.png")
    values = parser.parse_args()
    torch.set_num_threads(values.threads)
    images = open_images(values.data, values.img_size)
    model = compare(images, steps=values.steps, batch=values.batch)
    look(model, images, values.picture)
    x = images.test[0][0][None]
    if values.compile:
        compile_it(model, x)
    if values.export:
        export_it(model, x, values.export)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, prog="halo_layer_in_your_network.py"))
