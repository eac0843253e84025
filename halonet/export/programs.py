"""A model as a program: torch.export's, or ONNX made of it. Neither needs halonet to run, and the batch is free."""

from __future__ import annotations

import importlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from halonet.export.parity import BATCHES, Comparison, Reference, Run, random_images
from halonet.files import replacing
from halonet.models.psmnet import PSMNet

FORMATS = {"onnx": ".onnx", "pt2": ".pt2"}
METADATA_FILE = "halonet.json"  # inside a .pt2
LEAST_OPSET = 18  # of torch's exporter


@dataclass(frozen=True)
class Written:
    """A program on disk. seconds: of making and writing it. megabytes: of the file, 1e6 bytes."""

    path: Path
    format: str
    seconds: float
    megabytes: float
    comparisons: tuple[Comparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        told = {"path": str(self.path), "format": self.format, "seconds": self.seconds, "megabytes": self.megabytes}
        return {**told, "comparisons": [item.to_dict() for item in self.comparisons]}


def check_installed(format: str) -> None:
    """Raises ModuleNotFoundError, before any work, where the libraries of a format are missing."""
    for name in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        importlib.import_module(name)


class Answer(nn.Module):
    """The model with a name for what it takes and gives; with `softmax`, logits become probabilities."""

    def __init__(self, model: nn.Module, *, softmax: bool) -> None:
        super().__init__()
        stereo = isinstance(model, PSMNet)
        if softmax and (stereo or not getattr(model, "num_classes", 0)):
            raise ValueError("softmax: expected a model with a classifier, got one without")
        self.model, self.softmax = model, softmax
        self.input_names = ["left", "right"] if stereo else ["image"]
        self.output_name = "disparity" if stereo else "probabilities" if softmax else "logits"

    def forward(self, *images: Tensor) -> Tensor:
        """The model's images, (B, C, H, W) each -> its answer."""
        answer = self.model(*images)
        return answer.softmax(dim=1) if self.softmax else answer


class Exporter:
    """A model traced once for any batch, and written in one format or several, each file checked before it is left.

    Args:
        model: of `halonet.create_model`, not `features_only`, in float32 on the CPU. Is put into evaluation mode.
        img_size: (height, width) of the images; fixed in the program. The model's own if None.
        softmax: whether a classifier's program ends in probabilities in place of logits.

    Raises:
        ValueError: a model of another kind, dtype or device, `softmax` for one without a classifier, or a model that
            cannot be judged because float32 is not enough for it.
    """

    def __init__(self, model: nn.Module, *, img_size: tuple[int, int] | None = None, softmax: bool = False) -> None:
        card: Any = getattr(model, "default_cfg", None) or {}
        if "input_size" not in card:
            raise ValueError("model must be one of create_model, which knows the size of its images")
        first = next(model.parameters())
        if (first.dtype, first.device.type) != (torch.float32, "cpu"):
            raise ValueError(f"model must be of torch.float32 on cpu, got {first.dtype} on {first.device}")
        self.answer = Answer(model, softmax=softmax).eval()
        self.shape = (card["input_size"][0], *(img_size or card["input_size"][1:]))
        self.inputs = random_images(max(BATCHES), self.shape, count=len(self.answer.input_names))
        self.reference = Reference(self.answer, self.inputs)
        self.program = self._trace()

    def write(
        self,
        path: str | PathLike[str],
        *,
        format: str,
        opset: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Written:
        """Writes the program, loads it again as others would, and compares it with the model on two batch sizes.

        Args:
            path: file to write; an older one stays where the new one is wrong.
            format: "onnx" (standard operators alone) or "pt2" (`torch.export.save`, torch's operators alone).
            opset: of ONNX, at least 18; torch's own choice if None.
            metadata: text kept in the file: `metadata_props` of ONNX, `halonet.json` in a .pt2.

        Raises:
            ValueError: an unknown format or opset, or a program that answers otherwise than the model.
        """
        if format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
        if opset is not None and format != "onnx":
            raise ValueError(f"opset: has a meaning for onnx alone, got {opset} with {format}")
        notes = {**(metadata or {}), "input_size": json.dumps(self.shape), "output": self.answer.output_name}
        start = time.perf_counter()
        with replacing(path) as beside:
            if format == "onnx":
                save_onnx(self.program, beside, answer=self.answer, inputs=self.inputs, opset=opset, metadata=notes)
            else:
                save_pt2(self.program, beside, metadata=notes)
            seconds = time.perf_counter() - start
            run = run_onnx(beside, self.answer.input_names) if format == "onnx" else run_pt2(beside)
            comparisons = tuple(self.reference.compare(run))
            wrong = [item for item in comparisons if not item.passed]
            if wrong:
                raise ValueError(
                    f"{format}: the program differs from the model by {wrong[0].relative:.1e} of its answer for a "
                    f"batch of {wrong[0].batch}, expected at most {wrong[0].bound:.1e}; no file is left"
                )
            megabytes = beside.stat().st_size / 1e6
        return Written(Path(path), format, seconds, megabytes, comparisons)

    def _trace(self) -> Any:
        """The exported program. Backends that a program cannot carry refuse while it is traced."""
        free = {0: torch.export.Dim.DYNAMIC}
        with torch.no_grad(), quiet():
            program = torch.export.export(
                self.answer, tuple(self.inputs), dynamic_shapes={"images": tuple(free for _ in self.inputs)}
            )
        for node in program.graph.nodes:
            assert not str(node.target).startswith("halonet"), f"{node.target} needs halonet to run"
            node.meta.pop("stack_trace", None)  # where the sources lie on this machine is nobody's business
        return program


def save_pt2(program: Any, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Writes an exported program by torch's own means, with text in it."""
    with quiet():
        torch.export.save(program, path, extra_files={METADATA_FILE: json.dumps(dict(metadata))})


def run_pt2(path: Path) -> Run:
    """The program of a .pt2."""
    with quiet():
        module = torch.export.load(path).module()
    return lambda inputs: module(*inputs)


def save_onnx(
    program: Any,
    path: Path,
    *,
    answer: Answer,
    inputs: Sequence[Tensor],
    opset: int | None,
    metadata: Mapping[str, str],
) -> None:
    """Writes an exported program as one ONNX file, weights inside, the batch free and named so."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not LEAST_OPSET <= opset <= newest:
        raise ValueError(f"opset must be from {LEAST_OPSET} to {newest}, got {opset}")
    # Without gradients, as it was traced: attention is laid out otherwise where they are recorded. The optimizer is
    # wanted for its folding of constants, and it repairs 3D convolutions without bias.
    with torch.no_grad(), quiet():
        made = torch.onnx.export(
            program,
            tuple(inputs),
            dynamo=True,
            optimize=True,
            verbose=False,
            opset_version=opset,
            input_names=answer.input_names,
            output_names=[answer.output_name],
            dynamic_shapes={"images": tuple({0: "batch"} for _ in inputs)},
        )
    assert made is not None
    made.model.producer_name = "halonet"
    made.model.metadata_props.update(metadata)
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()  # traces of the sources
    made.save(path, external_data=False)


def run_onnx(path: Path, input_names: Sequence[str]) -> Run:
    """The program of an ONNX file, by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> Tensor:
        named = {name: part.numpy() for name, part in zip(input_names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, named)[0])

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' warnings to their own developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
