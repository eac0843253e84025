"""Detectors built of any backbone: they learn, and their parts are what the configuration says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList

import halonet
from halonet.detection import create_detector, detector_config
from halonet.detection.heads import make_anchors
from halonet.models import create_pyramid

NANO = "maskrcnn_halo_nano_128"
KINDS = {"maskrcnn": MaskRCNN, "fasterrcnn": FasterRCNN, "retinanet": RetinaNet}


def small(kind: str = "maskrcnn", **options: Any) -> Any:
    """A detector of the kind with all that the nano row has."""
    row = detector_config(NANO)
    same = (
        "backbone",
        "backbone_options",
        "fpn_channels",
        "fc_dim",
        "mask_channels",
        "mask_convs",
        "min_size",
        "max_size",
    )
    given = {name: getattr(row, name) for name in same}
    given["backbone_options"] = {**row.backbone_options, "backend": "reference"}
    return create_detector(kind, num_classes=4, **{**given, "rpn_post_nms_top_n_train": 50, **options})


def batch(sizes: list[tuple[int, int]]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images with two objects each, the last without any."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    targets = []
    for image in images:
        count = 0 if image is images[-1] else 2
        boxes = torch.tensor([[5.0, 8.0, 45.0, 50.0], [30.0, 20.0, 70.0, 90.0]])[:count]
        masks = torch.zeros(count, *image.shape[1:], dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        targets.append({"boxes": boxes, "labels": torch.arange(1, count + 1), "masks": masks})
    return images, targets


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: str, norm: str) -> None:
    """On images of odd and different sizes, one of them without objects; weights and norms change as they should."""
    torch.manual_seed(0)
    model = small(kind, norm=norm).train()
    assert type(model) is KINDS[kind]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    losses = model(*batch([(97, 121), (128, 99), (65, 70)]))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    same = [name for name, buffer in model.named_buffers() if name in buffers and torch.equal(buffer, buffers[name])]
    assert len(buffers) > 30
    assert same == (list(buffers) if norm == "frozen" else [])
    model.eval()
    answers = model(batch([(97, 121), (50, 128)])[0])
    assert [set(answer) >= {"boxes", "labels", "scores"} for answer in answers] == [True, True]
    if kind == "maskrcnn":
        assert answers[1]["masks"].shape[1:] == (1, 50, 128)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_any_object(kind: str) -> None:
    """Every parameter has a gradient, as processes that wait for each other need, and statistics stay numbers."""
    torch.manual_seed(0)
    model, (images, targets) = small(kind).train(), batch([(70, 80), (128, 96)])
    losses = model([images[1], images[1]], [targets[1], targets[1]])
    sum(losses.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers())


def test_low_precision_and_channels_last() -> None:
    torch.manual_seed(0)
    model, (images, targets) = small(), batch([(128, 96), (96, 96)])
    model.to(memory_format=torch.channels_last).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert model.backbone(torch.randn(1, 3, 64, 64))["fpn1"].shape == (1, model.config.fpn_channels, 16, 16)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_keep_their_precision_under_autocast(kind: str) -> None:
    """In bfloat16 all corners beyond 256 would be whole even numbers."""
    torch.manual_seed(0)
    model = small(kind, box_score_thresh=0.0, box_nms_thresh=1.0, max_size=512, min_size=512).eval()
    with torch.autocast("cpu", torch.bfloat16):
        (answer,) = model([torch.rand(3, 512, 384)])
    assert {value.dtype for name, value in answer.items() if name != "labels"} == {torch.float32}
    far = answer["boxes"][(answer["boxes"] > 256) & (answer["boxes"] < 380)]
    assert len(far) > 10
    assert not torch.equal(far, far.bfloat16().float())
    anchors = make_anchors(model.config, [64])(
        ImageList(torch.zeros(1), [(0, 0)]), [torch.zeros(1, 1, 9, 9).bfloat16()]
    )
    assert anchors[0].dtype == torch.float32


@torch.no_grad()
def test_a_retinanet_never_finds_the_background() -> None:
    """torchvision's scores class 0 as any other; what learns nothing of it may find it."""
    torch.manual_seed(0)
    model = small("retinanet", box_score_thresh=0.0).eval()
    model.head.classification_head.cls_logits.bias[0::4] = 5.0  # label 0 of each anchor
    (answer,) = model([torch.rand(3, 96, 96)])
    assert len(answer["labels"]) > 10
    assert answer["labels"].min() >= 1


@pytest.mark.parametrize("size", [(3, 400), (400, 1), (1, 1)])
def test_narrow_images(size: tuple[int, int]) -> None:
    """At 128 pixels one side would be less than a pixel."""
    torch.manual_seed(0)
    model = small(box_score_thresh=0.0)
    target = {
        "boxes": torch.tensor([[0.0, 0.0, size[1], size[0]]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, *size, dtype=torch.uint8),
    }
    losses = model.train()([torch.rand(3, *size)], [target])
    assert all(torch.isfinite(loss) for loss in losses.values())
    _, (resized,) = model.transform.eval()([torch.rand(3, *size)], [target])
    assert resized["boxes"][0].tolist() == [0.0, 0.0, resized["masks"].shape[2], resized["masks"].shape[1]]
    with torch.no_grad():
        (answer,) = model.eval()([torch.rand(3, *size)])
    assert answer["masks"].shape[2:] == size


@torch.no_grad()
def test_a_detector_all_of_bfloat16_answers() -> None:
    model = small().eval().bfloat16()
    assert model([torch.rand(3, 96, 96).bfloat16()])[0]["boxes"].dtype == torch.float32


@pytest.mark.slow
@torch.no_grad()
def test_a_backbone_compiles() -> None:
    backbone = small().eval().backbone
    image = torch.randn(1, 3, 96, 128)
    for one, other in zip(torch.compile(backbone)(image).values(), backbone(image).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_batch_norms_as_in_botnet_can_be_synchronized() -> None:
    with torch.device("meta"):
        model = create_detector("fasterrcnn", "resnet50_224")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, round(norm.momentum or 0, 9)) for norm in norms} == {(1e-4, 0.003)}
    inside = {name: sum(isinstance(m, nn.BatchNorm2d) for m in part.modules()) for name, part in parts(model).items()}
    assert inside == {"body": 53, "pyramid": 8, "rpn": 5 * 2, "box": 4}
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    found = [module for module in synchronized.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert {(norm.eps, round(norm.momentum or 0, 9)) for norm in found} == {(1e-4, 0.003)}
    assert len(found) == len(norms)


def parts(model: Any) -> dict[str, nn.Module]:
    return {
        "body": model.backbone.backbone,
        "pyramid": model.backbone.pyramid,
        "rpn": model.rpn,
        "box": model.roi_heads.box_head,
    }


def test_frozen_norms_leave_zero_and_inserted_ones_learn() -> None:
    with torch.device("meta"):
        model = create_detector("fasterrcnn/resnet50_nonlocal_c4_1024", norm="frozen")
    learning = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert learning == ["backbone.backbone.stages_2.nonlocal_after_5.norm"]
    body = small("fasterrcnn", norm="frozen").backbone.backbone
    assert body.stages_0[0].expand.norm.weight.eq(1).all()


@pytest.mark.parametrize(
    ("backbone", "count", "frozen"),
    [
        ("resnet50_224", 0, set()),
        ("resnet50_224", 1, {"stem"}),
        ("resnet50_224", 2, {"stem", "stages_0"}),
        ("halonet_h4_base128_patch4_256", 2, {"stem", "stages_0"}),
        ("timm/resnet18", 2, {"conv1", "layer1"}),
        ("timm/efficientnet_b0", 2, {"conv_stem", "blocks.0", "blocks.1"}),
        ("timm/mobilenetv3_small_100", 2, {"conv_stem", "blocks.0"}),
        ("vil_tiny_224", 1, {"model.stages.0.embedding"}),
        ("vil_tiny_224", 2, {f"model.stages.0.{part}" for part in ("embedding", "blocks", "global_tokens")}),
    ],
)
def test_parts_that_do_not_learn(backbone: str, count: int, frozen: set[str]) -> None:
    with torch.device("meta"):
        model = create_detector("fasterrcnn", backbone, frozen_stages=count)
    body: Any = model.backbone.backbone
    depth = 4 if backbone.startswith("vil") else 2 if "net_b0" in backbone or "mobile" in backbone else 1
    still = {
        ".".join(name.split(".")[:depth]).removesuffix(".weight")
        for name, p in body.named_parameters()
        if not p.requires_grad
    }
    assert still == frozen  # their norms are constants, no parameters
    norms = {
        ".".join(name.split(".")[: min(depth, 2)])
        for name, module in body.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    assert not norms & (frozen | {"bn1"} if backbone.startswith("timm/") else frozen)
    assert norms or backbone.startswith("vil")


@pytest.mark.parametrize(
    ("backbone", "kind", "sizes"),
    [
        ("msvit_tiny_2_9_1_224", "fasterrcnn", {"fpn2": 16, "fpn3": 8, "fpn4": 4, "fpn5": 2}),
        ("evit_tiny_224", "fasterrcnn", {"fpn3": 8, "fpn4": 4, "fpn5": 2}),
        ("evit_tiny_224", "retinanet", {"fpn3": 8, "fpn4": 4, "fpn5": 2}),
        ("botnet_s1_50_224", "fasterrcnn", {"fpn1": 32, "fpn2": 16, "fpn3": 8, "fpn4": 4, "fpn5": 2}),
        ("resnet50_fpn_fa_fpn_all", "retinanet", {"fpn2": 16, "fpn3": 8, "fpn4": 4, "fpn5": 2, "fpn6": 1}),
        ("timm/swin_s3_tiny_224", "fasterrcnn", {"fpn1": 32, "fpn2": 16, "fpn3": 8, "fpn4": 4, "fpn5": 2}),
    ],
)
def test_levels_of_other_backbones(backbone: str, kind: str, sizes: dict[str, int]) -> None:
    """On images of 128 x 128; what takes one size alone is made for it, and gets no other."""
    options: dict[str, Any] = {}
    if "swin" in backbone:
        options = {"backbone_options": {"img_size": 128, "window_size": 4}, "size_divisible": 128, "max_size": 128}
    with torch.device("meta"):
        model, image = create_detector(kind, backbone, **options), torch.empty(1, 3, 128, 128)
    levels = model.backbone.eval()(image)
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        name: (1, 256, size, size) for name, size in sizes.items()
    }
    if kind == "fasterrcnn":
        first = model.roi_heads.box_roi_pool
        assert first.scales == [size / 128 for name, size in sizes.items() if name in first.featmap_names]


def test_a_pyramid_is_a_backbone_with_all_of_its_attention() -> None:
    with torch.device("meta"):
        pyramid = create_pyramid("resnet50_fpn_fa_fpn_all_res34").state_dict()
        model = create_detector("maskrcnn_resnet50_fpn_fa_fpn_all_res34", norm="none", frozen_stages=0)
    assert {name: tensor.shape for name, tensor in model.backbone.state_dict().items()} == {
        name: tensor.shape for name, tensor in pyramid.items()
    }


def test_anchors_stand_by_their_strides() -> None:
    """Where torchvision's do not: 800 pixels are 12.5 steps of 64, and 800 // 13 is 61."""
    images = ImageList(torch.empty(1, 3, 800, 1344), [(800, 1333)])
    maps = [torch.empty(1, 1, -(-800 // stride), 1344 // stride) for stride in (32, 64)]
    for exact, step in ((True, 64.0), (False, 61.0)):
        config = detector_config("fasterrcnn/resnet50_224", exact_strides=exact)
        anchors = make_anchors(config, [32, 64])(images, maps)[0]
        coarse = anchors[3 * 25 * 42 :].unflatten(0, (13, 21, 3))
        assert coarse.shape == (13, 21, 3, 4)
        assert (coarse[1:, 0, 0] - coarse[:-1, 0, 0])[:, 1].tolist() == [step] * 12
        assert coarse[0, 0, 1].tolist() == [-256.0, -256.0, 256.0, 256.0]


def test_a_retinanet_has_three_anchor_sizes_a_level_as_published() -> None:
    with torch.device("meta"):
        sizes = create_detector("retinanet", "resnet50_224").anchor_generator.sizes  # type: ignore[union-attr]
    assert sizes[0] == (32, 40, 50)
    assert sizes[-1] == (512, 645, 812)


def test_images_are_scaled_as_the_backbone_wants_them() -> None:
    with torch.device("meta"):
        model = create_detector("fasterrcnn", "timm/inception_next_atto", image_std=(1.0, 1.0, 1.0))
    described = model.backbone.backbone.default_cfg  # type: ignore[union-attr]
    assert model.transform.image_mean == list(described["mean"])
    assert model.transform.image_std == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"kind": "maskrcn", "backbone": "resnet50_224"},
            "kind must be maskrcnn, .*, got 'maskrcn'; did you mean maskrcnn",
        ),
        (
            {"kind": NANO, "backbone": "resnet50_224"},
            "backbone must not be given with the row 'maskrcnn_halo_nano_128'",
        ),
        ({"kind": "maskrcnn"}, "backbone must be named for 'maskrcnn'"),
        ({"kind": "maskrcnn_botnet50_102"}, "got 'maskrcnn_botnet50_102'; did you mean maskrcnn_botnet50_1024"),
        ({"kind": "retinanet", "backbone": "botnet50_22"}, "unknown backbone 'botnet50_22'; did you mean botnet50_224"),
        ({"kind": "retinanet", "backbone": "timm/resnet19"}, "unknown backbone 'timm/resnet19'; did you mean resnet18"),
        ({"kind": NANO, "box_conv": 2}, "unknown detector option 'box_conv'; did you mean box_convs?"),
        ({"kind": NANO, "backbone_options": {"blok_size": 2}}, "unknown model option 'blok_size'; .* block_size"),
        ({"kind": NANO, "num_classes": 1}, "num_classes must be an int of at least 2, background included, got 1"),
        ({"kind": NANO, "norm": "group"}, "norm must be one of batch, frozen, none, got 'group'"),
        ({"kind": NANO, "frozen_stages": 6}, "frozen_stages must be from 0 to 5, got 6"),
        ({"kind": NANO, "min_size": ()}, "min_size must be positive numbers"),
        ({"kind": NANO, "rpn_nms_thresh": 2}, "rpn_nms_thresh must be a number from 0 to 1, got 2"),
        ({"kind": "fasterrcnn", "backbone": "botnet_s1_nano_32"}, "maps of stride 4, 8, 16 or 32, .* has 2, 2"),
        (
            {"kind": "fasterrcnn", "backbone": "hrnet_w18_small", "frozen_stages": 1},
            "frozen_stages must be from 0 to 0",
        ),
        (
            {"kind": "fasterrcnn", "backbone": "vit_tiny_patch16_224"},
            r"128 x 160 pixels \(Input height .*size_divisible",
        ),
        ({"kind": "fasterrcnn", "backbone": "halonet26t"}, "halonet26t does not take images of 128 x 160 pixels"),
    ],
)
def test_what_does_not_fit_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        create_detector(**arguments)


def test_every_network_of_the_zoo_can_be_named() -> None:
    """The same name with a slash: what a settings file has one field for."""
    with torch.device("meta"):
        model = create_detector("retinanet/vil_nano_32", num_classes=3)
    assert model.model_name == "retinanet/vil_nano_32"
    assert "vil_nano_32" in halonet.list_models()
