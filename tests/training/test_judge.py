"""Weights judged on their own data and on other folders, from the command line."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from halonet.analysis.classification import tally
from halonet.data import DataConfig, ImageDataset, ImageSource, Preprocessing, eval_transform, open_source
from halonet.data.source import SplitItems
from halonet.models.checkpoints import load_model, read_weights, save_weights
from halonet.training import judgement
from halonet.training.classification.judge import ClassificationJudgement
from halonet.training.classification.judged_data import JudgedData, with_classes_of
from halonet.training.classification.module import ClassificationTask
from halonet.training.config import OptimConfig, RunConfig
from halonet.training.run import judge
from halonet.training.task import Judging
from tests.training.conftest import error_line, run

Capture = pytest.CaptureFixture[str]
CPU_BACKENDS = ("reference", "sdpa", "numba")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Class folders 0, 3 and 7 of test digits as files: 4, 5 and 6 of them."""
    return write_scans(tmp_path / "scans", {"0": 4, "3": 5, "7": 6})


@pytest.fixture(scope="session")
def answering(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run's folder with a classifier that fits its features by least squares: it names the digits, where
    six steps of training leave a network that names one class for all."""
    folder = tmp_path_factory.mktemp("answering")
    shutil.copy(finished / "config.yaml", folder)
    any_model: Any
    any_model, metadata = load_model(finished / "weights.safetensors", backend="sdpa")
    features: list[torch.Tensor] = []
    any_model.head.fc.register_forward_hook(lambda module, inputs, output: features.append(inputs[0]))
    labels = torch.tensor(open_source(DataConfig()).splits["test"].labels)[:200]
    with torch.no_grad():
        any_model.eval()(digit_images(200))
        wanted = 10 * torch.nn.functional.one_hot(labels, 10).float()
        mean = features[0].mean(0)
        squares = (features[0] - mean).T @ (features[0] - mean)
        ridge = 1e-3 * squares.diagonal().mean() * torch.eye(len(squares))  # else the logits are mostly rounding
        any_model.head.fc.weight.copy_(torch.linalg.solve(squares + ridge, (features[0] - mean).T @ (wanted - 1)).T)
        any_model.head.fc.bias.copy_(1 - any_model.head.fc.weight @ mean)
    told = {name: value for name, value in metadata.items() if name != "model"}
    save_weights(any_model, folder / "weights.safetensors", metadata=told)
    return folder


def digit_images(count: int) -> torch.Tensor:
    """Of the digits' test part, as the network reads them: (count, 1, 16, 16)."""
    source = open_source(DataConfig())
    preprocessing = Preprocessing(16, 1, source.mean or (), source.std or (), 1.0)
    dataset = ImageDataset(source.splits["test"], in_chans=1, transform=eval_transform(preprocessing), seed=0)
    return torch.stack([dataset[index][0] for index in range(count)])


def write_scans(root: Path, counts: dict[str, int], names: dict[str, str] | None = None) -> Path:
    test = open_source(DataConfig()).splits["test"]
    for digit, count in counts.items():
        folder = root / (names or {}).get(digit, digit)
        folder.mkdir(parents=True)
        chosen = [item for item, label in zip(test.items, test.labels, strict=True) if label == int(digit)][:count]
        for number, scan in enumerate(chosen):
            assert isinstance(scan, Image.Image)
            scan.save(folder / f"{number}.png")
    return root


def judged(capsys: Capture, weights: Path, *arguments: object, command: str = "validate") -> dict[str, Any]:
    """What the command prints with --json; it writes into ./out, empty pictures to save time."""
    option = "--ckpt_path" if weights.suffix == ".ckpt" else "--weights"
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("halonet.analysis.confusion_plot.save_figure", lambda figure, path: Path(path).touch())
        assert run(command, option, weights, "--json", "--out", "out", "--data.num_workers=0", *arguments) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_all_of_a_folder_without_parts(answering: Path, scans: Path, capsys: Capture) -> None:
    """Nothing is cut away, and each image counts for the class that its folder names."""
    weights = answering / "weights.safetensors"
    told = judged(capsys, weights, "--data.root", scans)
    assert (told["data"], told["part"], told["images"], told["classes"]) == ("scans", "all images", 15, 3)
    assert [(row["class"], row["images"]) for row in told["per_class"]] == [("0", 4), ("3", 5), ("7", 6)]
    capsys.readouterr()
    assert run("predict", "--weights", weights, scans, "--top=1", "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    right = [Path(answer["path"]).parent.name == answer["classes"][0]["name"] for answer in answers]
    assert sum(row["right"] for row in told["per_class"]) == sum(right)
    assert told["accuracy"] == pytest.approx(sum(right) / 15)


def test_a_part_that_lies_ready(answering: Path, scans: Path, capsys: Capture) -> None:
    root = scans.parent / "split"
    root.mkdir()
    scans.rename(root / "valid")
    weights = answering / "weights.safetensors"
    for command in ("validate", "test"):
        told = judged(capsys, weights, "--data.root", root, command=command)
        assert (told["part"], told["images"]) == ("all images of valid/", 15)
    write_scans(root / "train", {"0": 2, "1": 2})
    assert judged(capsys, weights, "--data.root", root)["images"] == 15
    assert judged(capsys, weights, "--data.root", root, "--part", "all")["images"] == 19
    write_scans(root / "test", {"5": 1})
    assert judged(capsys, weights, "--data.root", root, command="test")["part"] == "all images of test/"


def test_folders_named_val_beside_others_are_classes(answering: Path, scans: Path, capsys: Capture) -> None:
    """With sub-folders too, as a part has them."""
    (scans / "val").mkdir()
    (scans / "7").rename(scans / "val" / "more")
    (scans.parent / "map.txt").write_text("val 7\n")
    told = judged(capsys, answering / "weights.safetensors", "--data.root", scans, "--data.class_map", "map.txt")
    assert [(row["class"], row["images"]) for row in told["per_class"]] == [("0", 4), ("3", 5), ("7", 6)]


def test_a_part_without_class_folders_is_left_to_the_data_set(finished: Path, scans: Path, capsys: Capture) -> None:
    """As ImageNet's: train/ has class folders, val/ is flat, and must not be passed over in favour of train/."""
    root = scans.parent / "flat"
    (root / "val").mkdir(parents=True)
    scans.rename(root / "train")
    shutil.copy(root / "train" / "0" / "0.png", root / "val" / "image.png")
    weights = finished / "weights.safetensors"
    assert judged(capsys, weights, "--data.root", root)["part"] == "validation part"
    shutil.rmtree(root / "val")
    assert judged(capsys, weights, "--data.root", root)["part"] == "all images of train/"


def test_classes_by_the_names_or_the_ids_of_the_data() -> None:
    """A data set that has both, as ImageNet's words and WordNet numbers, is matched by either."""
    items = SplitItems([Image.new("L", (1, 1))] * 3, [0, 1, 1])
    source = ImageSource("set", ("tench", "crane"), 1, {}, "photo", class_ids=("n01", "n02"))
    for known, labels in ((["crane", "elk", "tench"], [2, 0, 0]), (["n00", "n01", "n02"], [1, 2, 2])):
        told = with_classes_of(JudgedData(source, items, "all"), known, num_classes=3, class_map=None, weights="file")
        assert told.class_names == tuple(known)
        assert list(told.splits["test"].labels) == labels
    with pytest.raises(ValueError, match="unknown to file: tench, crane"):
        with_classes_of(JudgedData(source, items, "all"), ["x"], num_classes=1, class_map=None, weights="file")


def test_tallies_of_processes_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that each saw a share, as the gathering would hand them over."""
    task = ClassificationTask(torch.nn.Identity(), optim=OptimConfig(), num_classes=2)
    shares = [tally(torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, 0])), tally(torch.eye(2), torch.tensor([1, 1]))]

    def gather(into: list[Any], own: Any) -> None:
        assert own is shares[0]
        into[:] = shares

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    task.tally = shares[0]
    task.on_test_epoch_end()
    assert task.tally.images == 5
    assert task.tally.confusion.to_dense().tolist() == [[1, 1], [1, 2]]


def test_classes_by_map_and_by_number(answering: Path, scans: Path, tmp_path: Path, capsys: Capture) -> None:
    weights = answering / "weights.safetensors"
    expected = judged(capsys, weights, "--data.root", scans)["per_class"]
    names = {"0": "zero", "3": "three", "7": "seven"}
    write_scans(tmp_path / "named", {"0": 4, "3": 5, "7": 6}, names)
    Path("map.json").write_text(json.dumps({name: digit for digit, name in names.items()}))
    options = ("--data.root", tmp_path / "named")
    assert judged(capsys, weights, *options, "--data.class_map=map.json")["per_class"] == expected
    message = error_line(capsys, "test", "--weights", weights, *options)
    assert "3 of 3 classes of named are unknown to weights.safetensors: seven, three, zero" in message
    # ImageNet-V2's folders are numbers of classes that have other names.
    _, metadata = read_weights(weights)
    model, _ = load_model(weights)
    written = [f"n{9 - number}" for number in range(10)]
    save_weights(model, "other.safetensors", metadata={**metadata, "class_names": json.dumps(written)})
    told = judged(capsys, Path("other.safetensors"), "--data.root", scans)["per_class"]
    assert [(row["class"], row["right"]) for row in told] == [
        (written[int(row["class"])], row["right"]) for row in expected
    ]


def test_weights_that_name_no_classes(answering: Path, scans: Path, capsys: Capture) -> None:
    """Folders go by number; preprocessing is the model's and the data's."""
    model, _ = load_model(answering / "weights.safetensors")
    save_weights(model, "bare.safetensors")
    told = judged(capsys, Path("bare.safetensors"), "--data.root", scans, "--data.img_size=16")
    assert [row["class"] for row in told["per_class"]] == ["0", "3", "7"]
    (scans / "7").rename(scans / "seven")
    message = error_line(capsys, "test", "--weights", "bare.safetensors", "--data.root", scans)
    assert "bare.safetensors does not name its 10 classes" in message


def test_a_checkpoint_as_the_weights(finished: Path, scans: Path, capsys: Capture) -> None:
    """Also on data that have a few of its classes only."""
    of_weights, of_checkpoint = (
        judged(capsys, finished / name, "--data.root", scans)
        for name in ("weights.safetensors", "checkpoints/best.ckpt")
    )
    for name in ("accuracy", "per_class", "confused", "classes", "images"):
        assert of_weights[name] == of_checkpoint[name], name
    assert of_weights["loss"] == pytest.approx(of_checkpoint["loss"], rel=1e-5)


def test_a_checkpoint_that_tells_no_classes(finished: Path, capsys: Capture) -> None:
    """It has those of the data."""
    contents = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    del contents["metadata"]
    torch.save(contents, "old.ckpt")
    told = judged(capsys, Path("old.ckpt"), "--trainer.limit_test_batches=1", "--data.batch_size=16", command="test")
    assert (told["images"], told["of_images"], told["part"]) == (16, 359, "test part")


def test_parts_of_the_runs_own_data(finished: Path, capsys: Capture) -> None:
    weights = finished / "weights.safetensors"
    for part, size in (("train", 1259), ("all", 1797)):
        told = judged(capsys, weights, "--part", part, "--trainer.limit_val_batches=1")
        assert (told["images"], told["of_images"]) == (16, size)
    message = error_line(capsys, "test", "--weights", weights, "--part", "some")
    assert "--part: expected one of all, train, val, test, got 'some'" in message


def test_the_same_figures_from_every_backend(answering: Path) -> None:
    """Of the default model on the digits' test part: answers are the same, loss and confidence to float32 rounding."""
    config = RunConfig.from_dict(yaml.safe_load((answering / "config.yaml").read_text()))
    config.trainer.limit_test_batches, config.data.batch_size = 1.0, 128
    weights = answering / "weights.safetensors"
    told = {name: judge(config, Judging("test", backend=name), weights=weights) for name in CPU_BACKENDS}
    first = told["reference"]
    assert isinstance(first, ClassificationJudgement)
    assert first.figures.images == 359
    assert len(set(first.figures.confusion.indices()[1].tolist())) > 3
    for name, other in told.items():
        assert isinstance(other, ClassificationJudgement)
        assert other.class_rows() == first.class_rows(), name
        assert torch.equal(other.figures.confusion.to_dense(), first.figures.confusion.to_dense()), name
        for figure, value in first.values.items():
            assert other.values[figure] == pytest.approx(value, abs=1e-5), (name, figure)


def test_logits_of_every_backend_to_rounding(answering: Path) -> None:
    """Their error against float64 is at most twice the reference's in float32, plus a rounding band."""
    weights, images = answering / "weights.safetensors", digit_images(60)
    with torch.inference_mode():
        logits = {name: load_model(weights, backend=name)[0].eval()(images) for name in CPU_BACKENDS}
        exact = load_model(weights, backend="reference")[0].double().eval()(images.double())
    error = {name: float((value - exact).abs().max()) for name, value in logits.items()}
    band = 8 * torch.finfo(torch.float32).eps * float(exact.abs().max())
    assert 0 < error["reference"] < 1e-3
    for name in CPU_BACKENDS:
        assert error[name] <= 2 * error["reference"] + band, (name, error)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--backend", "cuda"),
            "--backend: expected one of auto, triton, numba, sdpa, reference, unfold, sliding_chunk",
        ),
        (("--backend", "triton"), "backend='triton' cannot take this call"),
        (("--data.in_chans", "3"), "reads 1 channels, got 3"),
        (("--data.class_map", "gone"), "data.class_map: cannot read gone"),
    ],
)
def test_choices_that_do_not_fit(finished: Path, arguments: tuple[str, ...], told: str, capsys: Capture) -> None:
    assert told in error_line(capsys, "test", "--weights", finished / "weights.safetensors", *arguments)


def test_in_half_precision_and_larger_batches(finished: Path, scans: Path, capsys: Capture) -> None:
    # Not numba, which would compile its kernels for bfloat16.
    weights, options = finished / "weights.safetensors", ("--data.root", scans, "--backend=sdpa")
    whole = judged(capsys, weights, *options)
    half = judged(capsys, weights, *options, "--trainer.precision=bf16-mixed", "--data.batch_size=64")
    assert (half["precision"], half["images"]) == ("bf16-mixed", 15)
    assert half["loss"] != whole["loss"]
    assert half["loss"] == pytest.approx(whole["loss"], rel=0.1)


def test_what_is_left_and_said(answering: Path, scans: Path, capsys: Capture) -> None:
    """Beside the weights unless told; as lines to read unless told."""
    alone = Path("alone") / "weights.safetensors"
    alone.parent.mkdir()
    shutil.copy(answering / "weights.safetensors", alone)
    expected = judged(capsys, alone, "--data.root", scans)
    assert run("validate", "--weights", alone, "--data.root", scans, "--data.num_workers=0") == 0
    said, folder = capsys.readouterr().out, Path("alone") / "judged-scans-val"
    assert "scans, all images: 15 images of 3 classes of the 10 that the weights know" in said
    assert f"top-1 accuracy{100 * expected['accuracy']:13.2f} %" in said
    assert "calibration error" in said
    assert str(folder) in said.splitlines()[-1]
    assert {path.name for path in folder.iterdir()} == {
        "judged.json", "per_class.csv", "confusion.png", "calibration.png"
    }  # fmt: skip
    written = json.loads((folder / "judged.json").read_text())
    for name in ("accuracy", "accuracy_interval", "calibration_error", "per_class", "calibration", "confused"):
        assert written[name] == expected[name], name
    with (folder / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], int(row["images"]), int(row["right"])) for row in rows] == [
        (row["class"], row["images"], row["right"]) for row in expected["per_class"]
    ]
    wrong = {(entry["class"], entry["answer"]): entry["images"] for entry in expected["confused"]}
    for row in rows:
        assert int(row["taken_for_images"]) == wrong.get((row["class"], row["taken_for"]), 0)
        assert bool(row["taken_for"]) == (row["right"] != row["images"])


def test_the_test_of_a_run_tells_the_same(finished: Path, capsys: Capture) -> None:
    told = judged(capsys, finished / "weights.safetensors", command="test")
    metrics = json.loads((finished / "metrics.json").read_text())["test"]
    for name in ("accuracy_interval", "top5_interval", "calibration_error", "mean_class_accuracy"):
        assert metrics[name] == pytest.approx(told[name], abs=1e-5), name
    assert told["images"] == 32  # as trainer.limit_test_batches of the run says


def test_progress_goes_to_stderr(finished: Path, scans: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgement, "SECONDS_BETWEEN_LINES", -1.0)
    options = ("--weights", finished / "weights.safetensors", "--data.root", scans, "--data.num_workers=0")
    assert run("test", *options, "--out=out", "--json", "--data.batch_size=8") == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    assert [line.split(" after ")[0] for line in captured.err.splitlines()] == ["batch 1 of 2", "batch 2 of 2"]
    assert run("test", *options, "--out=out", "--json", "--trainer.progress=none") == 0
    assert capsys.readouterr().err == ""


def test_what_is_no_number_is_null() -> None:
    told = json.loads(judgement.Judgement({"data": "x"}, {"loss": math.nan, "accuracy": 0.5}).to_json())
    assert told == {"data": "x", "loss": None, "accuracy": 0.5}
