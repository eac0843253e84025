"""Parameter groups and the schedule, against values worked out by hand."""

import math

import pytest
import torch
from torch import nn

import halonet
from halonet.detection import create_detector
from halonet.training.classification.module import mixing
from halonet.training.config import OptimConfig
from halonet.training.parameter_groups import freeze, layer_shares, parameter_groups
from halonet.training.schedule import WarmupCosine


def test_warmup_is_linear_and_ends_at_the_peak() -> None:
    schedule = WarmupCosine(warmup_steps=4, total_steps=10)
    assert [schedule(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_the_last_step_has_one_128th() -> None:
    """Appendix C.3: "we set the end of the cosine annealing to be 1/128 of the original learning rate"."""
    schedule = WarmupCosine(warmup_steps=4, total_steps=10)
    assert schedule(9) == pytest.approx(1 / 128)
    assert schedule(8) > schedule(9)
    assert schedule(500) == pytest.approx(1 / 128)


def test_halfway_down_is_the_mean_of_both_ends() -> None:
    """Peak at step 2, last step 8: step 5 is halfway."""
    assert WarmupCosine(warmup_steps=3, total_steps=9)(5) == pytest.approx((1 + 1 / 128) / 2)


def test_without_warmup_the_first_step_is_the_peak() -> None:
    schedule = WarmupCosine(warmup_steps=0, total_steps=5, final_ratio=0.0)
    expected = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(5)]
    assert [schedule(step) for step in range(5)] == pytest.approx(expected)


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(5, 5), (1, 1), (0, 1), (7, 3)])
def test_short_runs(warmup_steps: int, total_steps: int) -> None:
    values = [WarmupCosine(warmup_steps=warmup_steps, total_steps=total_steps)(step) for step in range(total_steps)]
    assert all(0 < value <= 1 for value in values)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 2)
        self.table = nn.Parameter(torch.zeros(5, 2))
        self.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)

    def no_weight_decay(self) -> set[str]:
        return {"table"}


def test_norms_biases_and_tables_are_not_decayed() -> None:
    model = Small()
    decayed, kept = parameter_groups(model, weight_decay=0.3)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert set(decayed["params"]) == {model.conv.weight, model.fc.weight}
    assert set(kept["params"]) == {model.conv.bias, model.norm.weight, model.norm.bias, model.fc.bias, model.table}


def test_a_halonet_decays_projections_and_convolutions_only() -> None:
    model = halonet.create_model("halonet_nano_32", num_classes=10, in_chans=1)
    decayed, kept = parameter_groups(model, weight_decay=0.1)
    ids = {id(parameter) for parameter in decayed["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in ids}
    assert names
    assert not [name for name in names if name.endswith(("_table", "bias"))]
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["maskrcnn_halo_nano_128", "maskrcnn_vil_tiny_800", "maskrcnn_vil_small_ape_vil_800"])
def test_detectors_decay_no_tables_of_their_backbones(name: str) -> None:
    with torch.device("meta"):
        model = create_detector(name)
    decayed, kept = parameter_groups(model, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    apart = [names[id(parameter)] for parameter in kept["params"] if parameter.ndim > 1]
    assert apart
    assert {part.rsplit(".", 1)[-1].rsplit("_", 1)[-1] for part in apart} <= {"table", "tokens", "bias"}
    assert not [names[id(parameter)] for parameter in decayed["params"] if "_table" in names[id(parameter)]]


def test_a_model_without_norms_has_one_group() -> None:
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), weight_decay=0.1)) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0),
        ("weight_decay", -1.0),
        ("warmup_epochs", -1.0),
        ("momentum", 1.0),
        ("label_smoothing", 1.0),
        ("final_lr_ratio", 1.5),
    ],
)
def test_bad_settings_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"optim\.{name}: expected .*got {value}"):
        OptimConfig(**{name: value})  # type: ignore[arg-type]


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValueError, match=r"optim\.momentum: Nesterov"):
        OptimConfig(momentum=0.0)


def test_mixup_blends_images_and_labels_alike() -> None:
    mix = mixing(mixup=0.8, cutmix=0.0, num_classes=3)
    assert mix is not None
    images, labels = torch.eye(4).view(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])
    blended, shares = mix(images, labels)
    assert shares.shape == (4, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    share = blended.flatten(1).diagonal()[0]  # of the own image, the same in the whole batch
    torch.testing.assert_close(blended, share * images + (1 - share) * images.roll(1, 0))
    expected = share * nn.functional.one_hot(labels, 3) + (1 - share) * nn.functional.one_hot(labels.roll(1), 3)
    torch.testing.assert_close(shares, expected)


def test_cutmix_shares_are_the_areas() -> None:
    mix = mixing(mixup=0.0, cutmix=1.0, num_classes=2)
    assert mix is not None
    images, labels = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 8, 8), torch.tensor([0, 1])
    for _ in range(5):
        pasted, shares = mix(images, labels)
        torch.testing.assert_close(shares[1, 1], pasted[1].mean())
        torch.testing.assert_close(shares[0, 1], pasted[0].mean())


def test_one_of_both_is_drawn_from_torchs_generator() -> None:
    mix = mixing(mixup=0.8, cutmix=1.0, num_classes=2)
    assert mix is not None
    assert mixing(mixup=0.0, cutmix=0.0, num_classes=2) is None
    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append([mix(images, labels)[0] for _ in range(12)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    whole = [((image == images) | (image == images.roll(1, 0))).all().item() for image in runs[0]]
    assert True in whole  # cutmix takes pixels as they are
    assert False in whole


def test_shares_of_the_learning_rate_fall_from_the_classifier_to_the_stem() -> None:
    """halonet_nano_32: stem, two stages of two blocks, classifier: six layers, so 1, 1/2, ... 1/32."""
    model = halonet.create_model("halonet_nano_32", num_classes=3)
    shares = layer_shares(model, 0.5)
    assert shares.keys() == dict(model.named_parameters()).keys()
    expected = {"head.fc.bias": 0, "stages.1.1": 1, "stages.1.0": 2, "stages.0.1": 3, "stages.0.0": 4, "stem": 5}
    for start, layer in expected.items():
        assert {share for name, share in shares.items() if name.startswith(start)} == {0.5**layer}
    groups = parameter_groups(model, weight_decay=0.1, shares=shares)
    assert [group["share"] for group in groups] == [0.5 ** (place // 2) for place in range(12)]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0] * 6
    assert sum(len(group["params"]) for group in groups) == len(shares)


def test_at_share_0_the_classifier_alone_learns() -> None:
    model = halonet.create_model("vil_nano_32", num_classes=3)
    freeze(model)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {"head.fc.weight", "head.fc.bias"}


def test_a_model_that_does_not_tell_its_layers() -> None:
    with pytest.raises(ValueError, match=r"optim.layer_decay: Small does not tell its layers"):
        layer_shares(Small(), 0.5)
