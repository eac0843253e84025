"""Detect objects on your own annotated images, in COCO's form.

What you learn: how such a folder is laid out; how wrong annotations are found, by id; training a small Mask R-CNN with
local attention; its average precision; boxes and masks drawn on pictures.

    python tutorials/detect_your_coco_data.py                                    # drawn scenes, about a minute on a CPU
    python tutorials/detect_your_coco_data.py --data FOLDER --steps 5000 --model maskrcnn_botnet50_1024 \\
        --backbone-weights WEIGHTS                                               # yours

Further options go to `halonet fit` (docs/training.md). The small form trains far too little to find much;
docs/recipes.md tells what ten minutes of it reach.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from halonet.cli import fit_settings
from halonet.cli.commands import positive
from halonet.cli.words import Parser, exit_status
from halonet.data.coco import check_folder
from halonet.data.coco.open import drawn_source
from halonet.data.coco.write import write_coco
from halonet.files import replacing
from halonet.training import run
from halonet.training.detection.predict import predict
from halonet.training.predicting import pictures_of
from halonet.training.task import Judging

# ---------------------------------------------------------------------------------------------------------------------
# Step 1. A folder of COCO's form.
#
#     FOLDER/annotations/instances_train.json    images, annotations (box, class, mask, whether a crowd), categories
#     FOLDER/annotations/instances_val.json
#     FOLDER/train/*.jpg, FOLDER/val/*.jpg
#
# COCO 2017 as it is unpacked, Roboflow's export and one file beside its images are told by what lies there
# (docs/coco.md). Here scenes of textured shapes are drawn, and written in that form.


def draw(folder: Path, images: int) -> Path:
    """So many scenes to train on; to validate and to test an eighth of that each, at least 32."""
    print(f"$ halonet data draw {folder} --images {images} --size 96 96")
    if not (folder / "annotations").is_dir():
        write_coco(drawn_source(images, size=(96, 96), seed=0), folder, say=print)
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Step 2. What is wrong with it.
#
# Annotations drawn by people have boxes without a width, polygons of two points, images that are not there. Training
# leaves out what is wrong and refuses a folder with more than one wrong annotation in a hundred; the check names each.
# In the drawn scenes one box is spoilt to show it, and mended again.


def check(folder: Path) -> int:
    """How many things are wrong; the first few are printed."""
    print(f"\n$ halonet data check {folder}")
    problems = check_folder(folder)
    for problem in problems[:10]:
        print(problem)
    print(f"problems: {len(problems)}" + (", the first ten above" if len(problems) > 10 else ""))
    return len(problems)


def spoil_and_check(folder: Path) -> None:
    """Take the width of one box away, check, and give it back."""
    path = folder / "annotations" / "instances_train.json"
    told = path.read_text()
    spoilt = json.loads(told)
    spoilt["annotations"][3]["bbox"][2] = 0
    for text in (json.dumps(spoilt), told):
        with replacing(path) as beside:
            beside.write_text(text)
        check(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Step 3. Train.
#
# `--task detection` begins with the recipe detection_drawn: a small Mask R-CNN, convolutions in two stages and local
# attention in two, AdamW. A length in steps takes the place of its ten epochs. For photographs take a row of a paper
# (`halonet models --task detection`) and begin with the weights of a classifier.


def train(words: Sequence[str]) -> Path:
    """The folder of a run with these options."""
    print(f"\n$ halonet fit {shlex.join(words)}", flush=True)
    folder = run.fit(fit_settings(words))
    if folder is None:  # a process of several that only computes
        sys.exit(0)
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Step 4. Judge.
#
# COCO's average precision, by pycocotools: the mean over overlaps of 0.50 to 0.95 (AP), at 0.50 alone, of boxes and of
# masks. The run has tested itself already; judging again, here on the validation part, is what one does with weights.


def judge(words: Sequence[str], weights: Path) -> None:
    """Average precision on the validation images."""
    print(f"\n$ halonet validate --weights {weights}")
    values = run.judge(fit_settings(words), Judging("val"), weights=weights).values
    for kind in ("box", "mask"):
        if f"{kind}_ap" in values:
            print(f"{kind} AP {100 * values[f'{kind}_ap']:.2f} %, AP50 {100 * values[f'{kind}_ap50']:.2f} %")


# ---------------------------------------------------------------------------------------------------------------------
# Step 5. Predict.
#
# Every picture gets a copy with what was found drawn on it, and detections.json holds all of it as COCO's results. A
# score of 0.5 is a usual bound for what is drawn; a detector that has learnt little is seldom that sure.


def find(weights: Path, pictures: Sequence[Path], *, out: Path, score: float) -> None:
    """Find objects in pictures."""
    shown = shlex.join(map(str, pictures))
    print(f"\n$ halonet predict --weights {weights} --score-threshold {score} --out {out} {shown}")
    for answer in predict(weights, pictures, out=out, score_threshold=score):
        print(answer.to_line())
    print(f"{len(json.loads((out / 'detections.json').read_text()))} objects in {out / 'detections.json'}")


def main() -> int:
    """The whole lesson."""
    parser = Parser(prog="detect_your_coco_data.py", description="Detect on COCO-format data.", allow_abbrev=False)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="your annotated images (default: drawn scenes)")
    parser.add_argument("--images", type=positive, default=160, help="to draw (default 160)")
    parser.add_argument("--model", metavar="NAME", help="default: maskrcnn_halo_nano_128")
    parser.add_argument("--backbone-weights", type=Path, metavar="FILE", help="of a classifier to begin with")
    parser.add_argument("--steps", type=positive, default=60, help="of training (default 60)")
    parser.add_argument("--batch", type=positive, default=4, help="images of a step (default 4)")
    parser.add_argument("--score", type=float, default=0.05, help="least score that is drawn (default 0.05)")
    parser.add_argument("--out", type=Path, default=Path("detected"), metavar="FOLDER", help="default: detected")
    values, further = parser.parse_known_args()
    data = values.data or draw(values.out / "scenes", values.images)
    if values.data is None:
        spoil_and_check(data)
    else:
        check(data)

    words = ["--task", "detection", "--data.root", str(data), "--data.batch_size", str(values.batch)]
    words += ["--trainer.max_steps", str(values.steps), "--optim.warmup_steps", str(values.steps // 5)]
    words += ["--out", str(values.out)]
    words += ["--model.name", values.model] if values.model else []
    words += ["--detection.backbone_weights", str(values.backbone_weights)] if values.backbone_weights else []
    words += [] if values.data else ["--data.num_workers", "0", "--trainer.threads", "1"]
    words += further
    folder = train(words)
    weights = folder / "weights.safetensors"
    judge(words, weights)
    judged = next(iter(sorted(path for path in data.glob("*val*") if path.is_dir())), data)
    find(weights, pictures_of([judged])[:4], out=folder / "found", score=values.score)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, prog="detect_your_coco_data.py"))
