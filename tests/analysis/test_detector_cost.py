"""Costs of detectors: held to torch's own counter on a real pass, to closed forms, and to what papers print."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import maskrcnn_resnet50_fpn

from halonet.analysis.cost import Count
from halonet.analysis.detector_cost import PARTS, detector_cost
from halonet.analysis.detector_rules import RULES, printed, ruled_cost
from halonet.detection import DETECTORS, create_detector
from halonet.detection.facts import QUANTITIES, DetectorFact, detector_facts

NANO = "maskrcnn_halo_nano_128"


@pytest.mark.parametrize("kind", ["maskrcnn", "fasterrcnn", "retinanet"])
def test_a_real_pass_does_what_is_counted(kind: str) -> None:
    """Boxes that the heads really get, and torch's count of the whole pass, at a size that is no multiple of 32."""
    torch.manual_seed(0)
    config = DETECTORS[NANO]
    options = {name: value for name, value in vars(config).items() if name not in ("kind", "backbone", "source")}
    options["backbone_options"] = {**config.backbone_options, "backend": "reference"}
    sizes = {"min_size": 70, "max_size": 100, "box_score_thresh": 0.0}
    detector = create_detector(f"{kind}/{config.backbone}", **{**options, **sizes}).eval()
    boxes = {"box_head": 1, "mask_head": 1}
    for name in boxes:
        part = getattr(getattr(detector, "roi_heads", None), name, None)
        if part is not None:
            part.register_forward_pre_hook(lambda _, inputs, name=name: boxes.update({name: len(inputs[0])}))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        detector([torch.rand(3, 70, 100)])
    cost = detector_cost(detector, image_size=(70, 100), proposals=boxes["box_head"], detections=boxes["mask_head"])
    assert cost.padded_size == (96, 128)
    assert cost.total.multiply_adds == counter.get_total_flops() / 2
    assert cost.total.parameters == sum(parameter.numel() for parameter in detector.parameters())
    if kind != "retinanet":
        assert boxes["box_head"] > 1, "or the head is not tested"
        assert cost.name in ("MaskRCNN", "FasterRCNN")


def test_torchvisions_mask_r_cnn_by_hand() -> None:
    """800 x 1333 is filled up to 800 x 1344; levels of stride 4 to 64; 91 classes."""
    with torch.device("meta"):
        model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    parts = detector_cost(model).parts
    assert [part for part in PARTS if part in parts] == [*parts]
    pixels = [200 * 336, 100 * 168, 50 * 84, 25 * 42, 13 * 21]
    widths = (256, 512, 1024, 2048)
    lateral = sum(count * width * 256 for count, width in zip(pixels, widths, strict=False))
    assert parts["pyramid"] == Count(
        sum(widths) * 256 + 4 * (256 + 9 * 256**2 + 256), lateral + sum(pixels[:4]) * 9 * 256**2
    )
    proposing = 9 * 256**2 + 256 * 15
    assert parts["proposals"] == Count(proposing + 256 + 15, sum(pixels) * proposing)
    dense = 256 * 49 * 1024 + 1024**2 + 1024 * 91 * 5
    assert parts["box head"] == Count(dense + 2 * 1024 + 91 * 5, 1000 * dense)
    drawing = 14 * 14 * (4 * 9 * 256**2 + 4 * 256**2) + 28 * 28 * 256 * 91
    assert parts["mask head"].multiply_adds == 100 * drawing
    assert parts["backbone"].parameters == 25_557_032 - 2049 * 1000


def test_more_boxes_cost_their_heads_alone() -> None:
    few, many = (detector_cost(NANO, image_size=(64, 96), proposals=n, detections=2 * n).parts for n in (10, 30))
    for part in PARTS:
        if part in few:
            times = 3 if part in ("box head", "mask head") else 1
            assert many[part] == Count(few[part].parameters, times * few[part].multiply_adds)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("maskrcnn_halo_nano", {}, "maskrcnn_halo_nano_128"),
        (nn.Linear(2, 2), {}, "model must be a detector of torchvision's kinds, got Linear"),
        (NANO, {"image_size": (0, 5)}, r"image_size must be \(height, width\), each positive, got \(0, 5\)"),
        (NANO, {"proposals": 0}, "proposals must be a positive int, got 0"),
        (NANO, {"detections": 1.5}, "detections must be a positive int, got 1.5"),
    ],
)
def test_what_a_user_got_wrong(model, options, said) -> None:
    with pytest.raises(ValueError, match=said):
        detector_cost(model, **options)


def test_an_unknown_rule() -> None:
    with pytest.raises(ValueError, match="rule must be one of botnet, mmdetection, vil, got 'ours'"):
        ruled_cost(NANO, "ours")


# Of these the everyday suite counts all figures; they have each rule, each attention and each exception once.
QUICK = {
    "maskrcnn_botnet50_1024",
    "retinanet_resnet18_800",
    "retinanet_resnet50_800",
    "maskrcnn_resnet50_800",
    "retinanet_vil_tiny_800",
    *(f"maskrcnn_vil_small_ape_{name}_800" for name in ("sra32", "global", "performer")),
}


def _ruled_facts() -> list:
    facts = [fact for fact in detector_facts() if fact.rule]
    slow = pytest.mark.slow
    return [
        pytest.param(fact, id=f"{fact.source}, {fact.label}", marks=[] if fact.row in QUICK else [slow])
        for fact in facts
    ]


@pytest.mark.parametrize("fact", _ruled_facts())
def test_published_sizes_are_reproduced_to_the_printed_digit(fact: DetectorFact) -> None:
    """But for those that are said not to be."""
    count = ruled_cost(fact.row, fact.rule)
    for quantity, unit in (("parameters", 1e6), ("multiply_adds", 1e9)):
        if quantity in fact.figures:
            value = fact.figures[quantity]
            cuts = RULES[fact.rule].cuts and quantity == "multiply_adds"
            ours = printed(getattr(count, quantity) / unit, value, cuts=cuts)
            assert (ours == value) is (quantity not in fact.unmet), (quantity, value, getattr(count, quantity))


def test_printed() -> None:
    assert printed(102.989, 102.98) == 102.99
    assert printed(102.989, 102.98, cuts=True) == 102.98
    assert printed(179.96, 180.0) == 180.0
    assert printed(120.6, 121) == 121


def test_facts_are_of_rows_that_there_are() -> None:
    facts = detector_facts()
    assert {fact.row for fact in facts} <= DETECTORS.keys()
    for fact in facts:
        assert fact.figures.keys() <= QUANTITIES.keys()
        assert set(fact.unmet) <= fact.figures.keys()
        assert all(value > 0 for value in fact.figures.values())
        assert not fact.rule or fact.rule in RULES
    lines = [(fact.row, fact.source, fact.setting) for fact in facts]
    assert len(lines) == len(set(lines)), "a line stands there once"


def test_rows_without_a_published_line() -> None:
    """Those of no paper, of experiments that it says failed, and what its tables leave out."""
    without = DETECTORS.keys() - {fact.row for fact in detector_facts()}
    nonlocals = {name for name in DETECTORS if "_fpn_nl_" in name}  # of figure 6, which prints no numbers
    torchvision = {f"{kind}_resnet50_torchvision" for kind in ("maskrcnn", "fasterrcnn", "retinanet")}
    failed = {"maskrcnn_resnet50_fpn_fa_res1", "maskrcnn_resnet50_fpn_fa_res2"}
    assert without == {NANO, "maskrcnn_resnet152_1280", *nonlocals, *torchvision, *failed}


def test_every_table_is_there() -> None:
    sources = {fact.source for fact in detector_facts()}
    botnet = {f"BoTNet, Table {number}" for number in (*range(1, 10), 16, 17)} | {"BoTNet, footnote 10"}
    vil, shen = (
        {f"{paper}, Table {n}" for n in numbers}
        for paper, numbers in (("Vision Longformer", (6, 7, 8)), ("Factorized Attention", range(1, 6)))
    )
    assert sources == {"HaloNet, Table 5", *botnet, *vil, *shen}


def test_cells_by_hand() -> None:
    """From the papers' pages: one line of each, and of shuffled columns."""
    (halo,) = detector_facts("maskrcnn_resnet50_se8_halo_b32_1024")
    assert (halo.figures["box_ap_small"], halo.figures["mask_ap_large"], halo.figures["backbone_ms"]) == (
        25.9,
        58.8,
        613,
    )
    (shuffled,) = detector_facts("maskrcnn_botnet50_c5_100_1024")
    assert shuffled.figures["mask_ap"] == 38.9
    assert shuffled.figures["box_ap_small"] == 23.9
    sizes, first, second = detector_facts("retinanet_vil_base_800")
    assert sizes.figures == {"parameters": 66.74, "multiply_adds": 420.9}
    assert (first.figures["box_ap"], second.figures["box_ap_large"]) == (47.8, 61.9)
    gain, other = detector_facts("maskrcnn_resnext101_32x8d_fpn_fa_fpn_all_res34")
    assert gain.figures == {"box_ap": 44.9, "mask_ap": 39.5}
    assert (other.source, other.figures) == ("Factorized Attention, Table 5", {"box_ap": 45.9})
