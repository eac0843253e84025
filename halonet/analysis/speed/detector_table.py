"""Detectors beside torchvision's own: backbones, images a second, training steps, and the memory of their attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from halonet.analysis.speed.measuring import (
    describe,
    device_of,
    interleaved_times,
    print_setting,
    tell_networks,
)
from halonet.analysis.speed.memory import Meter, memory_meter
from halonet.analysis.speed.op_table import call_of, check
from halonet.analysis.speed.peers import PEERS
from halonet.analysis.speed.rows import MODES
from halonet.analysis.speed.shapes import OpShape, calls_of
from halonet.detection import DETECTORS, create_detector, detector_config
from halonet.detection.checkpoints import convert_torchvision
from halonet.models import create_model, list_models

TORCHVISION = "torchvision"  # its maskrcnn_resnet50_fpn, which everything is compared with
SAME = "maskrcnn_resnet50_torchvision"  # the row that is the same network
ROWS = (
    SAME,
    "maskrcnn_resnet50_1024",
    "maskrcnn_resnet50_se8_1024",
    "maskrcnn_resnet50_se8_halo_b8_1024",
    "maskrcnn_resnet50_se8_halo_b32_1024",
    "maskrcnn_botnet50_1024",
)
SIDES = (256,)
MEMORY_SIDES = (1024, 1280)
MEMORY_PEERS = ("halonet", "sdpa", "reference")
BATCH, OBJECTS = 1, 5
BACKBONE, INFERENCE, TRAINING, MEMORY = PARTS = ("backbone", "inference", "training", "memory")
CHECKED = 36  # side of the map on which attention is checked, with two blocks of 32
CLOSE = 1e-4  # of the largest value of an output: what two ways of adding up the same numbers may differ by
# Bytes that the reference needs for each query, key and head, forward and backward, as measured, rounded up.
_BYTES_A_PAIR = 16


@dataclass(frozen=True)
class _Setting:
    """What all measurements share."""

    batch: int
    dtype: torch.dtype
    device: torch.device
    rounds: int
    meter: Meter


def detector_table(
    sides: Sequence[int],
    *,
    rows: Sequence[str],
    batch: int,
    dtype: torch.dtype,
    device: str,
    rounds: int,
    parts: Sequence[str] = PARTS,
    limit_gib: float | None = None,
) -> dict[str, Any]:
    """Times and peak memory on square images, printed as they come; ratios are to the first of each group.

    First it is seen that the row "maskrcnn_resnet50_torchvision" finds what torchvision's model finds with the same
    weights, and that the attention of every row computes what the reference does on its maps. All detectors take
    images of the side, judge 1000 boxes and draw 100 masks in evaluation: nothing is left out. A training step is
    forward, losses, backward and an SGD step on five objects an image.

    Args:
        sides: of the images in pixels.
        rows: of DETECTORS, Mask R-CNNs, that stand beside torchvision's.
        dtype: of autocast; float32 for none.
        parts: of PARTS, what is measured.
        limit_gib: memory that an attention layer at 1024 and 1280 pixels may need by a rough estimate; 4 if None.

    Returns:
        "setting"; "entries", one a side with rows of "backbone", "inference" and "training"; "memory", a list of
        calls with the peak of each peer in MiB, forward and with backward.

    Raises:
        ValueError: a row that there is not or that is no Mask R-CNN, an unknown part, or a device that is not there.
        SystemExit: something else is computed; nothing is timed.
    """
    for name in rows:
        if name not in DETECTORS or DETECTORS[name].kind != "maskrcnn":
            raise ValueError(f"models must be Mask R-CNNs of list_detectors(), got {name!r}")
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"peers must be among {', '.join(PARTS)}, got {part!r}")
    on = device_of(device)
    told = {
        "torchvision": version("torchvision"),
        "boxes": "1000 an image, 100 masks",
        "objects": f"{OBJECTS} an image",
    }
    setting = describe(device=on, dtype=str(dtype).removeprefix("torch."), batch=batch, rounds=rounds, **told)
    print_setting(setting)
    check_parity(min(sides), on)
    pictures = (*sides, *(MEMORY_SIDES if MEMORY in parts else ()))
    _check_attention([shape for name in rows for side in pictures for shape in attention_of(name, side)], dtype, on)
    entries, memory = [], []
    with memory_meter(on) as meter:
        shared = _Setting(batch, dtype, on, rounds, meter)
        for side in sides:
            print(f"\nimages of {side} x {side}")
            kinds = [kind for kind in _MAKERS if kind in parts]
            entries.append({"side": side, **{kind: _times(kind, rows, side, shared) for kind in kinds}})
        if MEMORY in parts:
            memory = attention_memory(rows, shared, limit_gib=4.0 if limit_gib is None else limit_gib)
    return {"setting": setting, "entries": entries, "memory": memory}


def detector_of(name: str, side: int) -> nn.Module:
    """A detector of images of side x side with the same weights every time, that judges 1000 boxes and draws 100 masks.

    name: TORCHVISION or a row.
    """
    torch.manual_seed(0)
    # How many boxes overlap depends on the weights, which are random: here none is left out for it, nor for its score.
    sizes: dict[str, Any] = {"min_size": side, "max_size": side, "box_score_thresh": 0.0, "rpn_nms_thresh": 1.0}
    if name == TORCHVISION:
        # As maskrcnn_resnet50_fpn is with its weights: without them it would train all layers and its norms.
        parts: dict[str, Any] = {"norm_layer": FrozenBatchNorm2d, "trainable_layers": 3}
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, **parts)
        return MaskRCNN(backbone, num_classes=91, **sizes)
    options = dict(sizes)
    if detector_config(name).backbone in list_models():
        options["backbone_options"] = {"img_size": side}  # the length of position tables
    detector = create_detector(name, **options)
    if name == SAME:
        detector.load_state_dict(convert_torchvision(detector_of(TORCHVISION, side).state_dict()))
    return detector


def attention_of(name: str, side: int) -> list[OpShape]:
    """The different calls of a row's local attention on an image of side x side, strided and larger ones first."""
    config = detector_config(name)
    with torch.device("meta"):
        body = create_model(config.backbone, features_only=True, **{**config.backbone_options, "img_size": side})
    return calls_of(body, (side, side), label=name)


def check_parity(side: int, device: torch.device) -> float:
    """Holds our torchvision row, with torchvision's weights, to what torchvision's model finds in one image.

    Returns:
        The largest difference of boxes, scores and masks, as a share of the largest value.

    Raises:
        SystemExit: other boxes, labels or masks.
    """
    theirs, ours = (detector_of(name, side).to(device).eval() for name in (TORCHVISION, SAME))
    images, _ = _data(1, side, device)
    with torch.no_grad():
        expected, got = theirs(images)[0], ours(images)[0]
    worst = 0.0
    for key, one in expected.items():
        other = got[key]
        same = other.shape == one.shape and len(one) > 0
        difference = (other.double() - one.double()).abs().max() if same else torch.tensor(torch.inf)
        worst = max(worst, float(difference / one.double().abs().max().clamp(min=1e-12)))
    if not worst <= CLOSE:
        raise SystemExit(f"{SAME} differs from torchvision's model by {worst:.1e}; nothing is timed")
    print(f"{SAME} finds what torchvision's model finds with the same weights, to {worst:.1e}")
    return worst


def _check_attention(shapes: Sequence[OpShape], dtype: torch.dtype, device: torch.device) -> None:
    """Every call held to the reference, output and gradients, on a map of CHECKED pixels at most."""
    seen: set[OpShape] = set()
    for shape in shapes:
        # All of a map of 80 x 80 in float64 takes too long.
        sizes = {"height": min(shape.height, CHECKED), "width": min(shape.width, CHECKED)}
        whole = {"block_size": (sizes["height"], sizes["width"])} if shape.is_global else {}
        small = replace(shape, label="", **sizes, **whole)  # type: ignore[arg-type]
        if small not in seen:
            check("halonet", PEERS["halonet"], small, MODES[1], dtype=dtype, device=device)
        seen.add(small)
    if seen:
        print(f"attention computes what the reference does, in {len(seen)} calls of different shape")


def _data(batch: int, side: int, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Random images, and five objects on each, boxes with masks that fill them."""
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for _ in range(batch):
        images.append(torch.rand(3, side, side, generator=generator).to(device))
        corners = torch.randint(0, side // 2, (OBJECTS, 2), generator=generator)
        sizes = torch.randint(side // 8, side // 2, (OBJECTS, 2), generator=generator)
        boxes = torch.cat([corners, corners + sizes], dim=1)
        masks = torch.zeros(OBJECTS, side, side, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        target = {"boxes": boxes.float(), "labels": torch.arange(1, OBJECTS + 1), "masks": masks}
        targets.append({name: tensor.to(device) for name, tensor in target.items()})
    return images, targets


def _lowered(dtype: torch.dtype, device: torch.device) -> Any:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def _backbone_call(name: str, side: int, batch: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """A pass of the backbone alone, without its pyramid."""
    pyramid: Any = detector_of(name, side).backbone
    body = (pyramid.body if name == TORCHVISION else pyramid.backbone).to(device).eval()
    return _evaluation(body, torch.stack(_data(batch, side, device)[0]), dtype, device)


def _inference_call(name: str, side: int, batch: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    return _evaluation(detector_of(name, side).to(device).eval(), _data(batch, side, device)[0], dtype, device)


def _evaluation(network: nn.Module, images: Any, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    def infer() -> object:
        with torch.no_grad(), _lowered(dtype, device):
            return network(images)

    return infer


def _training_call(name: str, side: int, batch: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    model = detector_of(name, side).to(device).train()
    images, targets = _data(batch, side, device)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-5, momentum=0.9)

    def step() -> object:
        with _lowered(dtype, device):
            loss = sum(model(images, targets).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return None

    return step


_MAKERS = {BACKBONE: _backbone_call, INFERENCE: _inference_call, TRAINING: _training_call}


def _times(kind: str, names: Sequence[str], side: int, shared: _Setting) -> dict[str, dict[str, Any]]:
    """Rows of torchvision's model and ours."""
    options = (side, shared.batch, shared.dtype, shared.device)
    make = _MAKERS[kind]
    everyone = (TORCHVISION, *names)
    peaks = {name: shared.meter(partial(make, name, *options)) for name in everyone}
    calls = {name: make(name, *options) for name in everyone}
    times = interleaved_times(calls, shared.rounds, shared.device)
    return tell_networks(kind, times, TORCHVISION, batch=shared.batch, peaks=peaks)


def attention_memory(rows: Sequence[str], shared: _Setting, *, limit_gib: float) -> list[dict[str, Any]]:
    """The most memory that each different call of the rows' attention needs at once, at images of MEMORY_SIDES.

    limit_gib: what a call may need by the estimate; what needs more is not run.
    """
    found: list[dict[str, Any]] = []
    for side in MEMORY_SIDES:
        print(f"\nattention of the rows at images of {side} x {side}, memory forward and with backward")
        for shape in dict.fromkeys(shape for name in rows for shape in attention_of(name, side)):
            print(f"  {shape}")
            entry: dict[str, Any] = {"side": side, "shape": asdict(shape), **{mode: {} for mode in MODES}}
            for name in MEMORY_PEERS:
                for mode in MODES:
                    entry[mode][name] = _peak(name, shape, mode, shared, limit_gib)
                told = ", ".join(_told(entry[mode][name]) for mode in MODES)
                print(f"    {name:12} {told}", flush=True)
            found.append(entry)
    return found


def _peak(name: str, shape: OpShape, mode: str, shared: _Setting, limit_gib: float) -> dict[str, Any]:
    reason = PEERS[name].refusal(shape, shared.device, mode)
    needed = shared.batch * estimate(shape) / 2**30 if name == "reference" else 0.0
    if reason is None and needed > limit_gib:
        reason = f"would need about {needed:.0f} GiB"
    if reason is not None:
        return {"refused": reason}
    options = (shape, mode, shared.batch, shared.dtype, shared.device)
    try:
        return {"peak_mib": shared.meter(partial(call_of, name, *options))}
    except torch.OutOfMemoryError:
        return {"refused": "out of memory"}


def estimate(shape: OpShape) -> float:
    """Bytes that the reference needs for one image, roughly."""
    keys = 1.0
    for block, halo in zip(shape.block_size, shape.halo_size, strict=True):
        keys *= block + 2 * halo
    return _BYTES_A_PAIR * shape.height * shape.width / shape.stride**2 * keys * shape.num_heads


def _told(row: Mapping[str, Any]) -> str:
    if "refused" in row:
        return f"not measured: {row['refused']}"
    return "not told" if row["peak_mib"] is None else f"{row['peak_mib']:9.1f} MiB"
