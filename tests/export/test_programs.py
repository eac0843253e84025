"""Exported programs compute what the model computes, for any batch, need no halonet, and no wrong one is left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import halonet
from benchmarks import export_parity
from halonet.cli import main
from halonet.export import Exporter, programs
from halonet.export.parity import BAND, BATCHES, TIMES, Comparison, Reference, random_images
from halonet.models.checkpoints import load_model, save_weights
from tests.training.conftest import error_line

Capture = pytest.CaptureFixture[str]
# One block a stage: enough for every node there is, and half the time.
SMALL = {
    "halonet_nano_32": {"depth": 1, "img_size": 16},
    "botnet_s1_nano_32": {"depth": 1},
    "vil_nano_32": {"depth": 1, "img_size": 16},
}
NAMES = ("a cup", "b", "c", "d")


def awake(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return export_parity.wake(halonet.create_model(name, **options))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as `halonet fit` writes it."""
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    model = awake("halonet_nano_32", num_classes=4, in_chans=1, **SMALL["halonet_nano_32"])
    save_weights(model, path, metadata={"class_names": json.dumps(NAMES), "mean": "[0.3]", "std": "[0.2]"})
    return path


@pytest.fixture(scope="module")
def onnx_file(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `halonet export` made of it."""
    path = tmp_path_factory.mktemp("onnx") / "digits.onnx"
    assert main(["export", str(weights), "--format", "onnx", "--softmax", "--out", str(path)]) == 0
    return path


def test_onnx_by_plain_onnxruntime(weights: Path, onnx_file: Path) -> None:
    """The answers of the weights, as probabilities, for a batch that the command did not try."""
    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((5, 1, 16, 16), dtype=np.float32)
    given = session.run(["probabilities"], {"image": images})[0]
    model, _ = load_model(weights)
    expected = model.eval()(torch.from_numpy(images)).softmax(1).detach().numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-3  # images are told apart
    assert session.get_inputs()[0].shape == ["batch", 1, 16, 16]
    assert session.get_outputs()[0].shape == ["batch", 4]


def test_onnx_says_what_it_holds(onnx_file: Path) -> None:
    notes = {entry.key: entry.value for entry in onnx.load(onnx_file).metadata_props}
    assert notes["model"] == "halonet_nano_32"
    assert json.loads(notes["class_names"]) == list(NAMES)
    assert [json.loads(notes[key]) for key in ("mean", "std", "input_size")] == [[0.3], [0.2], [1, 16, 16]]
    assert notes["output"] == "probabilities"


def test_onnx_has_standard_operators_and_no_path_of_this_machine(onnx_file: Path) -> None:
    model = onnx.load(onnx_file)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert str(Path(halonet.__file__).parent).encode() not in onnx_file.read_bytes()


@pytest.fixture(scope="module")
def exporter() -> Exporter:
    return Exporter(awake("halonet_nano_32", **SMALL["halonet_nano_32"]))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.startswith("botnet") else ()) for name in SMALL]
)
def test_pt2(name: str, tmp_path: Path, exporter: Exporter) -> None:
    path = tmp_path / "model.pt2"
    if name != "halonet_nano_32":
        exporter = Exporter(awake(name, **SMALL[name]))
    model = exporter.answer
    written = exporter.write(path, format="pt2", metadata={"note": "here"})
    assert [item.batch for item in written.comparisons] == list(BATCHES)
    assert all(item.passed for item in written.comparisons)
    extra = {programs.METADATA_FILE: ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra[programs.METADATA_FILE])["note"] == "here"
    images = torch.randn(3, *exporter.shape)
    torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-5)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("halonet" in target for target in targets), targets
    assert not any("stack_trace" in node.meta for node in exporter.program.graph.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*halonet.list_models(), *halonet.list_models(task="stereo")])
def test_every_model_at_its_own_size(name: str) -> None:
    entry = export_parity.in_own_process(name, ["onnx", "pt2"])
    assert "error" not in entry, entry["error"]


@pytest.mark.parametrize("wrong", [1e-4, float("nan")])
def test_wrong_programs_are_not_left(
    exporter: Exporter, wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("the old one")
    monkeypatch.setattr(programs, "run_pt2", lambda file: lambda inputs: exporter.answer(*inputs) * (1 + wrong))
    with pytest.raises(ValueError, match="differs from the model"):
        exporter.write(path, format="pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert path.read_text() == "the old one"


def test_programs_with_a_batch_built_in(exporter: Exporter) -> None:
    two = exporter.reference.inputs[2]
    with pytest.raises(ValueError, match=r"gives \(2, 1000\) where the model gives \(1, 1000\)"):
        exporter.reference.compare(lambda inputs: exporter.answer(*two))


def test_the_bound_follows_the_models_own_error() -> None:
    linear = nn.Linear(64, 8).eval()
    reference = Reference(linear, [torch.randn(2, 64)])
    (first, second) = reference.compare(lambda inputs: linear(*inputs))
    assert (first.relative, first.largest) == (0, 0)
    assert 0 < reference.errors[2] < 1e-6
    assert second.bound == TIMES * reference.errors[2] + BAND
    assert not Comparison(1, 0.0, float("nan"), 1.0).passed


class Noisy(nn.Module):
    """Loses all but three digits in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1e4 + 1e10 - 1e10


def test_a_model_that_float32_is_not_enough_for_is_not_judged() -> None:
    with pytest.raises(ValueError, match="own answers in float32 differ from float64"):
        Reference(Noisy(), [torch.rand(2, 64)])
    with pytest.raises(ValueError, match="differ from float64 by nan"):
        Reference(nn.Identity(), [torch.full((2, 4), float("nan"))])


def test_random_images_differ_in_more_than_noise() -> None:
    left, right = random_images(3, (2, 32, 48), count=2)
    assert left.shape == right.shape == (3, 2, 32, 48)
    assert not torch.equal(left, right)
    assert 0.7 < float(left.var()) < 1.3
    fields = left.unflatten(3, (4, 12)).unflatten(2, (4, 8)).mean((3, 5))
    assert float(fields.std()) > 0.4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nonsense_32", "--format", "pt2", "--out", "x.pt2"), "unknown model 'nonsense_32'"),
        (("no/run", "--format", "pt2", "--out", "x.pt2"), "no/run: expected a run's folder, a file of weights"),
        (("halonet_nano_32", "--format", "tflite", "--out", "x"), "invalid choice: 'tflite'"),
        (("halonet_nano_32", "--format", "pt2"), "required: --out"),
        (
            ("halonet_nano_32", "--format", "pt2", "--out", "x.pt2", "--opset", "20"),
            "--opset has no meaning for the format pt2",
        ),
        (("halonet_nano_32", "--format", "pt2", "--out", "x.pt2", "--push", "me/it"), "--push has no meaning"),
        (("halonet_nano_32", "--format", "hub", "--out", "x", "--softmax"), "--softmax has no meaning"),
        (("halonet_nano_32", "--format", "pt2", "--out", "."), "expected a file to write, . is a folder"),
        (("psmnet_nano", "--format", "pt2", "--out", "x.pt2", "--softmax"), "expected a model with a classifier"),
        (("halonet_nano_32", "--format", "pt2", "--out", "x", "--img-size", "1", "2", "3"), "got 3 numbers"),
    ],
)
def test_mistakes_in_one_line(arguments: tuple[str, ...], told: str, tmp_path: Path, capsys: Capture) -> None:
    assert told in error_line(capsys, "export", *arguments)
    assert list(Path().glob("x*")) == []


def test_an_opset_that_is_too_old(exporter: Exporter, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="opset must be from 18 to"):
        exporter.write(tmp_path / "x.onnx", format="onnx", opset=9)


def test_without_the_extra(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    told = error_line(capsys, "export", "halonet_nano_32", "--format", "onnx", "--out", tmp_path / "x.onnx")
    assert "pip install 'halonet[export]'" in told


def test_a_size_of_its_own_and_json(weights: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "x.pt2"
    assert (
        main(["export", str(weights), "--format", "pt2", "--out", str(path), "--img-size", "20", "24", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == "pt2"
    assert [item["batch"] for item in told["comparisons"]] == [1, 2]
    assert torch.export.load(path).module()(torch.randn(4, 1, 20, 24)).shape == (4, 4)


def test_the_benchmark_goes_on_where_it_stopped(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []

    def judge(name: str, formats: list[str]) -> dict[str, object]:
        judged.append(name)
        if len(judged) == 1:
            return {"error": "for once"}
        found = {"largest": 1e-7, "relative": 1e-7, "share_of_bound": 0.1, "seconds": 1.0, "megabytes": 1.0}
        return {"own_error": 1e-8, **dict.fromkeys(formats, found), "seconds": 1.0, "peak_gigabytes": 1.0}

    monkeypatch.setattr(export_parity, "in_own_process", judge)
    path = tmp_path / "parity.json"
    arguments = ["halonet_h0_c1*", "--formats", "pt2", "--json", str(path), "--resume"]
    assert export_parity.main(arguments) == 1
    assert "FAILED for once" in capsys.readouterr().out
    assert export_parity.main(arguments) == 0
    assert judged == [*judged[:3], judged[0]]
    assert set(json.loads(path.read_text())["models"]) == set(halonet.list_models("halonet_h0_c1*")) == set(judged)
    capsys.readouterr()
    assert export_parity.main(["--json", str(path), "--table"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[2:] == ["| HaloNet | 3 | 0 | 1.0e-08 |  |  | 1.0e-07 | 0.10 |"]


def test_the_table_has_a_family_for_every_model() -> None:
    names = [*halonet.list_models(), *halonet.list_models(task="stereo")]
    report = {"models": {name: {"error": "as if"} for name in names}}
    counted = [int(line.split("|")[2]) for line in export_parity.table(report).splitlines()[2:]]
    assert sum(counted) == len(names)
