"""The commands that use trained weights: validate, test, predict."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from halonet.cli.settings import parse_settings
from halonet.cli.words import Parser, UsageError


def evaluate(command: str, arguments: Sequence[str]) -> int:
    """Judge weights on labelled data; `command` is "validate" or "test"."""
    options = {
        "weights": "safetensors file that `halonet fit` wrote",
        "ckpt_path": "or a checkpoint; last: of the newest run below --out",
        "part": "train, val, test: of the data as `fit` cuts them; all: every image; null: what the weights' run held "
        "out, or of a folder that it did not read what lies ready, else all",
        "backend": "of local attention: auto, numba, sdpa, reference, triton; null: as the weights were saved",
    }
    part = "validation" if command == "validate" else "test"
    description = (
        f"The task's figures on the {part} part, or on all of another folder; files with more go to --out, by default "
        "beside the weights."
    )
    flags = {"json": "print JSON instead of lines to read"}
    config, values = parse_settings(command, arguments, description=description, options=options, flags=flags)
    from halonet.training import run
    from halonet.training.files import resolve_checkpoint
    from halonet.training.judgement import judged_folder
    from halonet.training.task import Judging

    checkpoint = values["ckpt_path"] and resolve_checkpoint(values["ckpt_path"], out=config.out)
    weights = values["weights"] and Path(values["weights"])
    # The default, which a newcomer may have left as it is; the other tasks tell by themselves what they got.
    if (
        weights
        and not checkpoint
        and config.task == "classification"
        and (task := weights_task(weights)) != config.task
    ):
        raise UsageError(f"{weights} is of the task {task}, not {config.task}: give --task {task}")
    split: Any = "val" if command == "validate" else "test"
    judging = Judging(split, part=values["part"], backend=values["backend"])
    judgement = run.judge(config, judging, weights=weights, checkpoint=checkpoint)
    folder = judged_folder(weights or checkpoint, data=str(judgement.about["data"]), split=values["part"] or split)
    # With --ckpt_path last, --out says where the runs are.
    if values["ckpt_path"] != "last" and any(token.split("=")[0] == "--out" for token in arguments):
        folder = Path(config.out)
    names = judgement.write(folder)
    print(judgement.to_json() if values["json"] else f"{judgement.render()}\n\n{', '.join(names)} in {folder}")
    return 0


def predict(arguments: Sequence[str]) -> int:
    """Answer for pictures."""
    parser = Parser(
        prog="halonet predict",
        description="Name the class of pictures, find the objects in them, or tell the disparity of a pair: what the "
        "weights were trained for.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", type=Path, help="pictures, or folders of them; for stereo LEFT RIGHT"
    )
    parser.add_argument("--weights", required=True, metavar="FILE", type=Path, help="that `halonet fit` wrote")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to print (default 5)")
    batch = "pictures in one pass (default 32; of a detector 4)"
    parser.add_argument("--batch", type=int, metavar="N", help=batch)
    parser.add_argument("--device", metavar="NAME", help="such as cpu or cuda (default: cuda where there is one)")
    out = "stereo, detection: where files go (default .)"
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help=out)
    threshold = "detection: least score of an object that is drawn and counted (default 0.5)"
    parser.add_argument("--score-threshold", type=float, default=0.5, metavar="SHARE", help=threshold)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a table instead of a line an answer")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line an answer")
    values = parser.parse_args(arguments)
    for name in ("top", "batch"):
        if getattr(values, name) is not None and getattr(values, name) < 1:
            raise UsageError(f"{name}: expected at least 1, got {getattr(values, name)}")
    if not 0 <= values.score_threshold <= 1:
        raise UsageError(f"score-threshold: expected 0 to 1, got {values.score_threshold}")
    task = weights_task(values.weights)
    if task == "stereo":
        return _tell(_disparity(values), as_json=values.json)
    if task == "detection":
        return _tell(_detections(values), as_json=values.json)
    from halonet.training.classification.predict import predict
    from halonet.training.predicting import pictures_of

    pictures = pictures_of(values.images)
    answers = predict(values.weights, pictures, top=values.top, batch=values.batch or 32, device=values.device)
    if values.csv is None:
        return _tell(answers, as_json=values.json)
    told = list(answers) if values.json else answers
    _write_csv(told, values.csv)
    return _tell(told, as_json=True) if values.json else print(values.csv) or 0


def _disparity(values: Any) -> Iterator[Any]:
    from halonet.training.stereo.predict import predict_pair

    if values.csv is not None:
        raise UsageError(f"--csv: {values.weights} tells disparities, which are no table")
    if len(values.images) != 2:
        raise UsageError(f"{values.weights} tells disparities: expected LEFT RIGHT, got {len(values.images)} images")
    yield predict_pair(values.weights, *values.images, out=values.out)


def _detections(values: Any) -> Iterator[Any]:
    from halonet.training.detection.predict import predict
    from halonet.training.predicting import pictures_of

    if values.csv is not None:
        raise UsageError(f"--csv: {values.weights} finds objects, which --out has as JSON")
    yield from predict(
        values.weights,
        pictures_of(values.images),
        out=values.out,
        score_threshold=values.score_threshold,
        batch=values.batch or 4,
        device=values.device,
    )


def _tell(answers: Iterable[Any], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps([answer.to_dict() for answer in answers], indent=2))
    else:
        for answer in answers:
            print(answer.to_line(), flush=True)
    return 0


def _write_csv(answers: Iterable[Any], path: Path) -> None:
    """A row a picture: its path, then class and probability from the likeliest on."""
    from halonet.files import replacing

    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for number, answer in enumerate(answers):
            if number == 0:
                ranks = range(1, len(answer.classes) + 1)
                writer.writerow(
                    ["path", *(name for rank in ranks for name in (f"class_{rank}", f"probability_{rank}"))]
                )
            ranked = zip(answer.classes, answer.probabilities, strict=True)
            writer.writerow([answer.path, *(cell for name, p in ranked for cell in (name, f"{p:.6f}"))])


def weights_task(path: Path) -> str:
    """The task that weights were trained for, as the file says."""
    from halonet.models.checkpoints import read_metadata

    return read_metadata(path).get("task", "classification")
