"""The authors' weights: their names and shapes written down, and their network written out over those names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from halonet.models.checkpoints import read_state_dict
from halonet.models.psmnet import PSMNet
from halonet.models.psmnet_config import PsmnetConfig
from halonet.models.psmnet_rows import PSMNETS
from halonet.models.psmnet_weights import convert_psmnet, our_psmnet_name

Layout = Iterator[tuple[str, tuple[int, ...]]]
HEADS = {"hourglass": "psmnet", "basic": "psmnet_basic"}


def pair(name: str, shape: tuple[int, ...], channels: int | None = None) -> Layout:
    """A convolution, or a transposed one with its outgoing channels given, and its norm."""
    channels = channels or shape[0]
    yield f"{name}.0.weight", shape
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.1.{part}", (channels,)
    yield f"{name}.1.num_batches_tracked", ()


def feature_layout() -> Layout:
    top = "feature_extraction"
    for index, channels in ((0, 3), (2, 32), (4, 32)):
        yield from pair(f"{top}.firstconv.{index}", (32, channels, 3, 3))
    before = 32
    for layer, (blocks, channels) in enumerate([(3, 32), (16, 64), (3, 128), (3, 128)], start=1):
        for block in range(blocks):
            yield from pair(f"{top}.layer{layer}.{block}.conv1.0", (channels, before, 3, 3))
            yield from pair(f"{top}.layer{layer}.{block}.conv2", (channels, channels, 3, 3))
            if before != channels:
                yield from pair(f"{top}.layer{layer}.{block}.downsample", (channels, before, 1, 1))
            before = channels
    for branch in range(1, 5):
        yield from pair(f"{top}.branch{branch}.1", (32, 128, 1, 1))
    yield from pair(f"{top}.lastconv.0", (128, 320, 3, 3))
    yield f"{top}.lastconv.2.weight", (32, 128, 1, 1)


def volume_layout(head: str) -> Layout:
    cube = (3, 3, 3)
    yield from pair("dres0.0", (32, 64, *cube))
    yield from pair("dres0.2", (32, 32, *cube))
    hourglasses = (2, 3, 4) if head == "hourglass" else ()
    for number in range(1, 5):
        if number not in hourglasses:
            yield from pair(f"dres{number}.0", (32, 32, *cube))
            yield from pair(f"dres{number}.2", (32, 32, *cube))
            continue
        yield from pair(f"dres{number}.conv1.0", (64, 32, *cube))
        for part in ("conv2", "conv3.0", "conv4.0"):
            yield from pair(f"dres{number}.{part}", (64, 64, *cube))
        yield from pair(f"dres{number}.conv5", (64, 64, *cube))
        yield from pair(f"dres{number}.conv6", (64, 32, *cube), 32)
    for name in ("classif1", "classif2", "classif3") if hourglasses else ("classify",):
        yield from pair(f"{name}.0", (32, 32, *cube))
        yield f"{name}.2.weight", (1, 32, *cube)


def layout(head: str) -> dict[str, tuple[int, ...]]:
    return {**dict(feature_layout()), **dict(volume_layout(head))}


def weights(head: str) -> dict[str, Tensor]:
    """Numbers that keep the maps at about their size, with norms that differ from each other."""
    state = {}
    for name, shape in layout(head).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            state[name] = (
                torch.randn(shape, dtype=torch.float64) * (2 / (shape[1] * shape[2] ** (len(shape) - 2))) ** 0.5
            )
        elif name.endswith(("running_var", "1.weight")):
            state[name] = 0.5 + torch.rand(shape, dtype=torch.float64)
        else:
            state[name] = 0.1 * torch.randn(shape, dtype=torch.float64)
    return state


class Theirs:
    """The authors' forward pass in evaluation mode, by the names of their weights."""

    def __init__(self, state: dict[str, Tensor], *, align_corners: bool) -> None:
        self.state, self.align_corners = state, align_corners

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            self.state[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias)

    def conv(self, name: str, x: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = self.state[f"{name}.0.weight"]
        function = F.conv2d if x.ndim == 4 else F.conv3d
        padding = dilation if weight.shape[-1] == 3 else 0
        return self.norm(name, function(x, weight, stride=stride, padding=padding, dilation=dilation))

    def up(self, name: str, x: Tensor) -> Tensor:
        weight = self.state[f"{name}.0.weight"]
        return self.norm(name, F.conv_transpose3d(x, weight, stride=2, padding=1, output_padding=1))

    def features(self, x: Tensor) -> Tensor:
        top = "feature_extraction"
        for index, stride in ((0, 2), (2, 1), (4, 1)):
            x = self.conv(f"{top}.firstconv.{index}", x, stride=stride).relu()
        raw = x
        for layer, blocks, stride, dilation in ((1, 3, 1, 1), (2, 16, 2, 1), (3, 3, 1, 1), (4, 3, 1, 2)):
            for block in range(blocks):
                name, step = f"{top}.layer{layer}.{block}", stride if block == 0 else 1
                y = self.conv(f"{name}.conv1.0", x, stride=step, dilation=dilation).relu()
                y = self.conv(f"{name}.conv2", y, dilation=dilation)
                shortcut = f"{name}.downsample"
                x = y + (self.conv(shortcut, x, stride=step) if f"{shortcut}.0.weight" in self.state else x)
            raw = x if layer == 2 else raw
        parts = [raw, x]
        for branch, side in ((4, 8), (3, 16), (2, 32), (1, 64)):
            pooled = self.conv(f"{top}.branch{branch}.1", F.avg_pool2d(x, side, side)).relu()
            parts.append(self.resized(pooled, x.shape[2:], "bilinear"))
        x = self.conv(f"{top}.lastconv.0", torch.cat(parts, 1)).relu()
        return F.conv2d(x, self.state[f"{top}.lastconv.2.weight"])

    def resized(self, x: Tensor, size: torch.Size | tuple[int, ...], mode: str) -> Tensor:
        return F.interpolate(x, size, mode=mode, align_corners=self.align_corners)

    def pair_of(self, name: str, x: Tensor) -> Tensor:
        return self.conv(f"{name}.2", self.conv(f"{name}.0", x).relu())

    def hourglass(
        self, name: str, x: Tensor, presqu: Tensor | None, postsqu: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        pre = self.conv(f"{name}.conv2", self.conv(f"{name}.conv1.0", x, stride=2).relu())
        pre = (pre if postsqu is None else pre + postsqu).relu()
        low = self.conv(f"{name}.conv4.0", self.conv(f"{name}.conv3.0", pre, stride=2).relu()).relu()
        post = (self.up(f"{name}.conv5", low) + (pre if presqu is None else presqu)).relu()
        return self.up(f"{name}.conv6", post), pre, post

    def score(self, name: str, x: Tensor) -> Tensor:
        return F.conv3d(self.conv(f"{name}.0", x).relu(), self.state[f"{name}.2.weight"], padding=1)

    def forward(self, left: Tensor, right: Tensor, max_disparity: int) -> list[Tensor]:
        one, other = self.features(left), self.features(right)
        slices = []
        for d in range(max_disparity // 4):
            moved = [one[..., d:], other[..., : other.shape[3] - d]]
            slices.append(F.pad(torch.cat(moved, 1), (d, 0)))
        volume = self.pair_of("dres0", torch.stack(slices, 2)).relu()
        volume = self.pair_of("dres1", volume) + volume
        if "classify.2.weight" in self.state:
            for number in (2, 3, 4):
                volume = self.pair_of(f"dres{number}", volume) + volume
            scores = [self.score("classify", volume)]
        else:
            first, pre, post = self.hourglass("dres2", volume, None, None)
            second, _, post = self.hourglass("dres3", first + volume, pre, post)
            third, _, _ = self.hourglass("dres4", second + volume, pre, post)
            scores = []
            for number, out in enumerate((first, second, third), start=1):
                score = self.score(f"classif{number}", out + volume)
                scores.append(score + scores[-1] if scores else score)
        size = (max_disparity, *left.shape[2:])
        shares = [self.resized(score, size, "trilinear")[:, 0].softmax(1) for score in scores]
        return [(share * torch.arange(max_disparity)[:, None, None]).sum(1) for share in shares]


@torch.no_grad()
@pytest.mark.parametrize(("head", "align_corners"), [("hourglass", False), ("basic", True)])
def test_the_authors_network_computes_the_same(head: str, align_corners: bool) -> None:
    state = weights(head)
    config = replace(PSMNETS[HEADS[head]], max_disparity=16, align_corners=align_corners)
    model = PSMNet(config).double().eval()
    model.load_state_dict(convert_psmnet(state))
    left, right = torch.randn(2, 1, 3, 256, 256, dtype=torch.float64)
    expected = Theirs(state, align_corners=align_corners).forward(left, right, 16)
    assert expected[-1].std() > 0.1
    model.train()  # for every output, with norms as in evaluation
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.eval()
    outputs = model(left, right)
    assert len(outputs) == len(expected)
    for got, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("head", HEADS)
def test_conversion_covers_the_network(head: str) -> None:
    with torch.device("meta"):
        own = PSMNet(PSMNETS[HEADS[head]]).state_dict()
    converted = convert_psmnet({name: torch.zeros(shape) for name, shape in layout(head).items()})
    assert {name: tensor.shape for name, tensor in converted.items()} == {n: tensor.shape for n, tensor in own.items()}


def test_names_of_wrapped_networks_and_files_without_counts() -> None:
    state = weights("basic")
    bare = {f"module.{name}": tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    converted, expected = convert_psmnet(bare), convert_psmnet(state)
    assert converted.keys() == expected.keys()
    for name, tensor in converted.items():
        if name.endswith("num_batches_tracked"):
            assert (tensor, expected[name]) == (0, 7)
        else:
            assert tensor is expected[name]


def test_a_network_with_attention_begins_from_them() -> None:
    model = PSMNet(PSMNETS["fa_psmnet"])
    state = {name: torch.zeros(shape) for name, shape in layout("hourglass").items()}
    report = model.load_state_dict(convert_psmnet(state, config=model.config), strict=False)
    assert not report.unexpected_keys
    assert {name.split(".")[1] for name in report.missing_keys} == {"attention"}


def test_what_does_not_fit_is_listed() -> None:
    state = {name: torch.zeros(shape) for name, shape in layout("basic").items()}
    del state["dres4.2.0.weight"]
    with pytest.raises(ValueError, match=r"PSMNet \(basic\); 1 missing: residuals\.3\.1\.conv\.weight$"):
        convert_psmnet(state)
    state["dres4.2.0.weight"], state["dres4.3.0.weight"] = torch.zeros(1), torch.zeros(1)
    said = r"1 unexpected: dres4\.3\.0\.weight; 1 of another shape: residuals\.3\.1\.conv\.weight \(1,\) instead of"
    with pytest.raises(ValueError, match=said):
        convert_psmnet(state)
    with pytest.raises(ValueError, match=r"\(hourglass\); \d+ missing: .*, and \d+ more; 1 unexpected: fc\.weight$"):
        convert_psmnet({"fc.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"\(hourglass\); \d+ missing: .*; \d+ unexpected: dres2\.0\.0\.weight, "):
        convert_psmnet({name: torch.zeros(shape) for name, shape in layout("basic").items()}, config=PSMNETS["psmnet"])


def test_names() -> None:
    assert our_psmnet_name("feature_extraction.layer2.11.conv1.0.1.bias") == (
        "feature_network.clusters.1.11.conv1.norm.bias"
    )
    assert our_psmnet_name("dres3.conv6.0.weight") == "hourglasses.1.up2.conv.weight"
    assert our_psmnet_name("classif2.2.weight") == "heads.1.1.weight"
    assert our_psmnet_name("feature_extraction.layer5.0.conv2.0.weight") is None


@pytest.mark.parametrize("wrapped", [True, False])
def test_files(wrapped: bool, tmp_path: Path) -> None:
    state = {"module.dres0.0.0.weight": torch.randn(2, 3)}
    path = tmp_path / "pretrained.tar"
    torch.save({"epoch": 1, "state_dict": state, "train_loss": 0.5} if wrapped else state, path)
    read = read_state_dict(path)
    assert read.keys() == state.keys()
    assert torch.equal(read["module.dres0.0.0.weight"], state["module.dres0.0.0.weight"])


class Anything:
    """What only an unsafe load would build."""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"no weights file at .*weights\.pth$"),
        (b"PK nonsense", r"weights\.pth is not a readable file of weights: [^\n]+$"),
        (Anything(), r"weights\.pth is not a readable file of weights: [^\n]+$"),
        ([1, 2], r"weights\.pth must hold a state dict of tensors, got list$"),
        ({"state_dict": {"a": 1}}, r"weights\.pth must hold a state dict of tensors, got dict$"),
        ({}, r"weights\.pth must hold a state dict of tensors, got dict$"),
    ],
)
def test_files_that_are_none_are_told_in_one_line(content: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=said) as raised:
        read_state_dict(path)
    assert re.search(r"\n", str(raised.value)) is None


def test_another_width_and_other_depths_convert_too() -> None:
    small = PsmnetConfig(width=32, depths=(1, 2, 1, 1))
    kept = {
        name: torch.zeros(shape)
        for name, shape in layout("hourglass").items()
        if not re.search(r"layer1\.[12]\.|layer2\.([2-9]|1\d)\.|layer[34]\.[12]\.", name)
    }
    with torch.device("meta"):
        own = PSMNet(small).state_dict()
    converted = convert_psmnet(kept, config=small)
    assert {name: tensor.shape for name, tensor in converted.items()} == {name: own[name].shape for name in own}
