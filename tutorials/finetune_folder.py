"""Fine-tune a network on your own folder of images.

What you learn: where weights come from when no hub is at hand; what becomes of a classifier for another number of
classes and of position tables for another block; how to let the last layers learn more than the first, or alone;
training, judging and predicting from Python and by the equal commands.

    python tutorials/finetune_folder.py                                    # drawn small example, a minute on a CPU
    python tutorials/finetune_folder.py --data FOLDER --weights WEIGHTS    # yours: a sub-folder of images a class

Further options go to `halonet fit` (docs/training.md). Without --weights the network first learns the digits 0 to 5,
which do for a try; weights of a larger run are better.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from halonet.cli import fit_settings
from halonet.cli.words import Parser, UsageError, exit_status
from halonet.data import SplitItems, load_digits_source, open_source
from halonet.models.checkpoints import load_weights, read_metadata
from halonet.models.zoo import create_model
from halonet.training import run
from halonet.training.classification.predict import predict
from halonet.training.predicting import pictures_of
from halonet.training.task import Judging

# ---------------------------------------------------------------------------------------------------------------------
# Step 1. A folder of images.
#
# A class is a sub-folder of images. Either that is all, and a tenth of each class is held out to choose by and a fifth
# to judge by, or the parts lie ready in train/, val/ and test/. Here scikit-learn's handwritten digits become such
# folders: 0 to 5, of which there are plenty, to learn from first; of 6 to 9 twelve a class to train on, as someone
# may have who has just begun to collect.

FIRST, FEW = 6, 12


def write_digits(folder: Path) -> tuple[Path, Path]:
    """The folders of the digits 0 to 5 and of the digits 6 to 9."""
    source = load_digits_source(val_fraction=0.1, test_fraction=0.2, split_seed=2021)
    first, second = folder / "digits-0-to-5", folder / "digits-6-to-9"
    for part, split in source.splits.items():
        assert isinstance(split, SplitItems)
        kept = dict.fromkeys(range(10), 0)
        for number, (image, digit) in enumerate(zip(split.items, split.labels, strict=True)):
            if part == "train" and digit >= FIRST and kept[digit] == FEW:
                continue
            kept[digit] += 1
            place = (first if digit < FIRST else second) / part / str(digit)
            place.mkdir(parents=True, exist_ok=True)
            assert isinstance(image, Image.Image)
            image.save(place / f"{number:04d}.png")
    return first, second


# ---------------------------------------------------------------------------------------------------------------------
# Step 2. Train.
#
# `fit_settings` takes the words of `halonet fit`, so every option of docs/training.md works here too, and a wrong name
# is told. `run.fit` trains, tests the epoch that was best on the validation images, and leaves a folder: weights,
# settings, figures, pictures.


def train(words: Sequence[str]) -> Path:
    """The folder of a run with these options."""
    print(f"\n$ halonet fit {shlex.join(words)}", flush=True)
    folder = run.fit(fit_settings(words))
    if folder is None:  # a process of several that only computes
        sys.exit(0)
    return folder


def pretrain(folder: Path, options: Sequence[str], *, epochs: int, out: Path) -> Path:
    """Weights that know the digits 0 to 5, as colour pictures of 16 x 16."""
    words = ["--data.root", str(folder), "--data.img_size", "16", "--trainer.max_epochs", str(epochs)]
    return train([*words, "--name", "first", "--out", str(out), *options]) / "weights.safetensors"


# ---------------------------------------------------------------------------------------------------------------------
# Step 3. Look at what happens to the weights.
#
# A weights file says which network it is of. Into one for another number of classes everything is loaded but the
# classifier. (Where you have just as many classes, but others, the old classifier is loaded: step 4 starts it anew.)
# Images may have any size, since relative position tables know offsets, not places; with a larger block or halo there
# are more offsets, and the tables are interpolated (HaloNet, appendix E). Nothing else may differ.


def look(weights: Path, *, classes: int, block_size: int | None) -> str:
    """Tell what loading does; the name of the network."""
    name = read_metadata(weights).get("model")
    if name is None:
        raise UsageError(f"--weights: {weights} does not say which network it is of; was it written by halonet fit?")
    options: dict[str, Any] = {} if block_size is None else {"block_size": block_size}
    report = load_weights(create_model(name, num_classes=classes, **options), weights)
    print(f"\n{name} for {classes} classes from {weights}:")
    print(f"  {len(report.loaded)} tensors loaded, {len(report.resized)} position tables resized", end="")
    print(f" (such as {report.resized[0]})" if report.resized else "")
    print(f"  new: {', '.join(sorted(report.replaced)) or 'nothing'}")
    return name


# ---------------------------------------------------------------------------------------------------------------------
# Step 4. Fine-tune, three ways.
#
# from-nothing     what the images alone teach: without it nobody knows whether the weights were of use
# classifier       optim.layer_decay 0: all other layers stay as they are
# all-layers       optim.layer_decay 0.7: each layer learns at 0.7 times the rate of the one after it
#
# model.zero_head starts the new classifier from zeros, as HaloNet's section 4.5 does: every class is as likely as any
# other at first, and no random classifier shakes the layers before it.


WAYS = ("from-nothing", "classifier", "all-layers")


def ways(weights: Path) -> dict[str, list[str]]:
    """Name of each way, and its options."""
    from_weights = ["--model.weights", str(weights), "--model.zero_head", "true"]
    decays = ([*from_weights, "--optim.layer_decay", decay] for decay in ("0", "0.7"))
    return dict(zip(WAYS, [[], *decays], strict=True))


def tell(folders: dict[str, Path]) -> None:
    """A table of what the runs' metrics.json hold."""
    figures = {name: json.loads((folder / "metrics.json").read_text()) for name, folder in folders.items()}
    print(f"\n{'fine-tuned':22} {'test images right':>18} {'of':>6} {'loss':>7}")
    for name, told in figures.items():
        right = round(told["test"]["accuracy"] * told["images"]["test"])
        share = f"{right} ({told['test']['accuracy']:.1%})"
        print(f"{name:22} {share:>18} {told['images']['test']:6d} {told['test']['loss']:7.3f}")


# ---------------------------------------------------------------------------------------------------------------------
# Step 5. Use it.
#
# weights.safetensors holds the names of the classes and how pictures are prepared: it is all that a prediction needs.
# Judging again gives the test figures, on the images that the run held out.


def use(folder: Path, words: Sequence[str], pictures: Sequence[Path]) -> None:
    """Judge the weights again, and ask them about some pictures."""
    weights = folder / "weights.safetensors"
    print(f"\n$ halonet test --weights {weights}")
    judgement = run.judge(fit_settings(words), Judging("test"), weights=weights)
    print(f"accuracy {judgement.values['accuracy']:.4f}, loss {judgement.values['loss']:.4f}")
    print(f"$ halonet predict --weights {weights} --top 2 {shlex.join(map(str, pictures))}")
    for answer in predict(weights, pictures, top=2):
        print(answer.to_line())


def main() -> int:
    """The whole lesson."""
    parser = Parser(prog="finetune_folder.py", description="Fine-tune on a folder of images.", allow_abbrev=False)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="your images (default: digits, drawn as PNG)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="to start from (default: trained here)")
    parser.add_argument(
        "--img-size", type=int, default=None, help="pixels of a side (default: 24; with --weights the network's own)"
    )
    parser.add_argument(
        "--block-size", type=int, default=None, help="of the attention (default: 6; with --weights as there)"
    )
    parser.add_argument("--way", action="append", choices=WAYS, help="may be given more than once (default: all)")
    parser.add_argument("--lr", type=float, default=0.05, help="peak learning rate (default 0.05)")
    parser.add_argument("--batch", type=int, default=8, help="images of a step (default 8)")
    parser.add_argument("--epochs", type=int, default=12, help="of fine-tuning (default 12)")
    parser.add_argument("--first-epochs", type=int, default=5, help="of the weights made here (default 5)")
    parser.add_argument("--out", type=Path, default=Path("finetuned"), metavar="FOLDER", help="default: finetuned")
    values, further = parser.parse_known_args()
    if values.weights is None:
        values.img_size, values.block_size = values.img_size or 24, values.block_size or 6

    # Small pictures, and no turning of digits left to right; photographs keep the default, random crops and flips.
    small = ["--data.augment", "affine", "--data.num_workers", "0", "--trainer.threads", "1"]
    data, weights = values.data, values.weights
    if data is None or weights is None:
        digits, few = write_digits(values.out / "images")
        data = data or few
        weights = weights or pretrain(digits, small, epochs=values.first_epochs, out=values.out)

    words = ["--data.root", str(data), "--data.batch_size", str(values.batch), "--optim.lr", str(values.lr)]
    words += ["--trainer.max_epochs", str(values.epochs), "--out", str(values.out)]
    words += [] if values.img_size is None else ["--data.img_size", str(values.img_size)]
    words += [] if values.block_size is None else ["--model.overrides.block_size", str(values.block_size)]
    words += [] if values.data else small
    words += further
    classes = open_source(fit_settings(words).data).num_classes
    words += ["--model.name", look(weights, classes=classes, block_size=values.block_size)]
    chosen = {name: options for name, options in ways(weights).items() if name in (values.way or WAYS)}
    folders = {name: train([*words, "--name", name, *options]) for name, options in chosen.items()}
    tell(folders)
    # Better ask about pictures that were not trained on, where they lie apart.
    asked = pictures_of([next((data / part for part in ("test", "val") if (data / part).is_dir()), data)])
    use(list(folders.values())[-1], words, asked[:: max(1, len(asked) // 3)][:3])
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, prog="finetune_folder.py"))
