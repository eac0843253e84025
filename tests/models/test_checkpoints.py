"""Weights in files: what comes back, what is resized or replaced, what is refused, and what a failure leaves behind."""

import json
import os

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import halonet
from halonet.models import checkpoints
from halonet.models.checkpoints import LoadReport, load_model, load_weights, save_weights

NANO = "halonet_nano_32"
HEAD = ["head.fc.bias", "head.fc.weight"]


def nano(**options):
    """The small model with statistics and tables that no other has."""
    model = halonet.create_model(NANO, **{"num_classes": 5, **options}).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1.0)
    return model


@pytest.fixture
def saved(tmp_path):
    """A model and the file of its weights."""
    model = nano()
    save_weights(model, tmp_path / "weights.safetensors", metadata={"classes": "a b c d e"})
    return model, tmp_path / "weights.safetensors"


def assert_same_state(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_round_trip(saved):
    model, path = saved
    other = nano()
    report = load_weights(other, path)
    assert_same_state(model, other)
    assert sorted(report.loaded) == sorted(model.state_dict())
    assert report.resized == report.replaced == []


@pytest.mark.parametrize("wanted", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(wanted, tmp_path):
    """A file keeps the dtype of the model; loading casts to that of the receiving one."""
    model = nano().to(wanted)
    save_weights(model, tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors")["stem.conv.conv.weight"].dtype == wanted
    other = nano()
    load_weights(other, tmp_path / "w.safetensors")
    assert_same_state(model.float(), other)


def test_channels_last_weights_are_saved(tmp_path):
    model = nano().to(memory_format=torch.channels_last)
    save_weights(model, tmp_path / "w.safetensors")
    other = nano()
    load_weights(other, tmp_path / "w.safetensors")
    assert_same_state(model, other)


def test_metadata(saved):
    with safe_open(str(saved[1]), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == NANO
    assert json.loads(metadata["arguments"])["num_classes"] == 5
    assert metadata["classes"] == "a b c d e"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_classes": 0},
        {"in_chans": 1, "img_size": 40, "relative": "absolute"},
        {"img_size": (24, 40), "relative": "absolute"},
        {"block_size": (4, 8), "halo_size": (1, 2)},
        {"block_size": [4, 8], "halo_size": [(1, 2), 3], "head_width": 12, "activation": "gelu"},
        {"stem": "conv7", "squeeze_excite": [0.0, 0.25], "window": 3, "global_pool": "max"},
    ],
    ids=str,
)
def test_load_model_rebuilds(options, tmp_path):
    """The model a file was written from, whatever options built it."""
    model = nano(**options)
    save_weights(model, tmp_path / "w.safetensors", metadata={"note": "kept"})
    rebuilt, metadata = load_model(tmp_path / "w.safetensors")
    assert metadata["note"] == "kept"
    assert [vars(stage) for stage in rebuilt.config.stages] == [vars(stage) for stage in model.config.stages]
    assert rebuilt.default_cfg == model.default_cfg
    assert_same_state(model, rebuilt)
    image = torch.randn(1, options.get("in_chans", 3), 33, 36)
    torch.testing.assert_close(rebuilt.eval()(image), model(image), rtol=0, atol=0)


def test_load_model_with_changes(saved):
    model, path = saved
    other, _ = load_model(path, num_classes=9, block_size=8)
    assert other.num_classes == 9
    assert other.stages[0][0].slot.block_size == (8, 8)
    assert torch.equal(other.stem.conv.conv.weight, model.stem.conv.conv.weight)
    features, _ = load_model(path, features_only=True)
    expected = model.forward_intermediates(torch.ones(1, 3, 32, 32), intermediates_only=True)
    torch.testing.assert_close(features.eval()(torch.ones(1, 3, 32, 32)), expected)


def test_load_model_after_reset_classifier(saved, tmp_path):
    model, _ = saved
    model.reset_classifier(3)
    save_weights(model, tmp_path / "three.safetensors")
    assert load_model(tmp_path / "three.safetensors")[0].num_classes == 3


@pytest.mark.parametrize("relative", ["split", "full"])
@pytest.mark.parametrize(("block", "halo"), [(8, 2), (4, 3), (2, 2), (4, 0)])
def test_relative_tables_are_interpolated(block, halo, relative, tmp_path):
    """2 * (4 + 2) - 1 = 11 rows to another length, checked by hand: linear, the ends and the middle kept."""
    model = nano(relative=relative)
    save_weights(model, tmp_path / "w.safetensors")
    other = nano(relative=relative, block_size=block, halo_size=halo)
    report = load_weights(other, tmp_path / "w.safetensors")
    tables = sorted(model.no_weight_decay())
    length = 2 * (block + halo) - 1
    for name in tables:
        table, resized = model.state_dict()[name], other.state_dict()[name]
        assert resized.shape == (length, table.shape[1])
        for row in range(length):
            place = row * 10 / (length - 1)
            below = min(int(place), 9)
            expected = table[below] + (place - below) * (table[below + 1] - table[below])
            torch.testing.assert_close(resized[row], expected, msg=f"{name} row {row}")
        torch.testing.assert_close(resized[length // 2], table[5])
    assert sorted(report.resized) == tables
    assert not set(report.resized) & set(report.loaded)


def test_absolute_tables_follow_the_image_size(tmp_path):
    model = nano(relative="absolute")
    save_weights(model, tmp_path / "w.safetensors")
    other, _ = load_model(tmp_path / "w.safetensors", img_size=(64, 32))
    table, resized = model.stages[1][1].slot.height_table, other.stages[1][1].slot.height_table
    assert (table.shape, resized.shape) == ((8, 32), (16, 32))
    torch.testing.assert_close(resized[[0, -1]], table[[0, -1]])
    torch.testing.assert_close(resized[1], table[0] + 7 / 15 * (table[1] - table[0]))
    assert torch.equal(model.stages[1][1].slot.width_table, other.stages[1][1].slot.width_table)


@pytest.mark.parametrize("classes", [2, 7, 0])
def test_another_class_count_keeps_the_new_head(saved, classes):
    model, path = saved
    other = nano(num_classes=classes)
    before = [parameter.clone() for parameter in other.head.parameters()]
    report = load_weights(other, path)
    assert sorted(report.replaced) == HEAD
    assert all(torch.equal(a, b) for a, b in zip(before, other.head.parameters(), strict=True))
    assert torch.equal(other.stem.conv.conv.weight, model.stem.conv.conv.weight)


def test_a_file_without_head_leaves_the_new_one(tmp_path):
    save_weights(nano(num_classes=0), tmp_path / "w.safetensors")
    assert sorted(load_weights(nano(), tmp_path / "w.safetensors").replaced) == HEAD


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"slot": "conv"}, ["missing: .*slot.weight", "unexpected: .*slot.height_table"]),
        ({"in_chans": 1}, [r"1 of another shape: stem.conv.conv.weight \(32, 3, 3, 3\) instead of \(32, 1, 3, 3\)"]),
        ({"relative": "full"}, [r"8 of another shape: .*height_table \(11, 4\) instead of \(11, 8\)"]),
        ({"depth": 3}, ["missing: stages.0.2.reduce.conv.weight, .*, and [0-9]+ more"]),
        ({"depth": 1}, ["unexpected: stages.0.1."]),
        ({"head_width": 16}, ["missing: final_conv", "head.fc.weight"]),
    ],
    ids=str,
)
def test_weights_of_another_model(saved, options, parts):
    """An error that lists the keys, and a model left as it was."""
    other = nano(**options)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    for part in parts:
        with pytest.raises(ValueError, match=rf"weights.safetensors are not of this model; .*{part}"):
            load_weights(other, saved[1])
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_half_a_head_is_an_error(saved, tmp_path):
    state = load_file(saved[1])
    del state["head.fc.bias"]
    save_file(state, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"1 missing: head\.fc\.bias"):
        load_weights(nano(), tmp_path / "half.safetensors")


def test_pretrained_path(saved):
    model, path = saved
    assert_same_state(model, halonet.create_model(NANO, num_classes=5, pretrained_path=path))
    with pytest.raises(ValueError, match="are not of this model"):
        halonet.create_model(NANO, num_classes=5, slot="conv", pretrained_path=path)


@pytest.mark.parametrize("load", [load_model, lambda path: load_weights(nano(), path)], ids=["model", "weights"])
@pytest.mark.parametrize("kept", [0, 5, 100, -1], ids=["empty", "no-header", "in-header", "one-byte-short"])
def test_truncated_file(saved, load, kept):
    _, path = saved
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"weights.safetensors is not a readable safetensors file"):
        load(path)


@pytest.mark.parametrize("load", [load_model, lambda path: load_weights(nano(), path)], ids=["model", "weights"])
def test_absent_file(load, tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ValueError, match=f"no weights file at {path}"):
            load(path)


def test_other_formats(tmp_path):
    """A pickle is never opened."""
    torch.save({"weight": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_weights(nano(), tmp_path / "w.pth")


def test_a_file_that_does_not_say_its_model(tmp_path):
    save_file({"weight": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="does not say which model it holds"):
        load_model(tmp_path / "w.safetensors")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_killed_while_writing(saved, monkeypatch, failure):
    """Half of the new file is on disk when it happens: the old one is intact and nothing else remains."""
    _, path = saved
    old = path.read_bytes()

    def half_written(state, target, metadata):
        target.write_bytes(old[: len(old) // 2])
        raise failure

    monkeypatch.setattr(checkpoints, "save_file", half_written)
    with pytest.raises(failure):
        save_weights(nano(), path)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]
    load_weights(nano(), path)


def test_a_full_disk_is_an_os_error(saved, monkeypatch):
    _, path = saved
    old = path.read_bytes()

    def full(*_, **__):
        raise checkpoints.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match=r"cannot write .*weights.safetensors.*No space left on device"):
        save_weights(nano(), path)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


def test_load_report_starts_empty():
    assert LoadReport() == LoadReport([], [], [])


def test_timm_checkpoint_path(saved):
    model, path = saved
    assert_same_state(model, timm.create_model(NANO, num_classes=5, checkpoint_path=str(path)))


@pytest.mark.parametrize("options", [{}, {"num_classes": 7}, {"num_classes": 0}, {"block_size": 8}], ids=str)
def test_timm_pretrained_file(saved, options):
    """`pretrained_cfg_overlay` as timm's users give a file of their own; tables are resized there too."""
    model, path = saved
    overlay = {"file": str(path), "num_classes": 5}
    options = {"num_classes": 5, **options}
    other = timm.create_model(NANO, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    expected = halonet.create_model(NANO, **options)
    load_weights(expected, path)
    for name, tensor in other.state_dict().items():
        assert name.startswith("head") or torch.equal(tensor, expected.state_dict()[name]), name
    if options["num_classes"] == 5:
        assert torch.equal(other.head.fc.weight, model.head.fc.weight)


def test_timm_adapts_the_first_convolution_to_grey_images(saved):
    model, path = saved
    overlay = {"file": str(path), "num_classes": 5}
    grey = timm.create_model(NANO, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5, in_chans=1)
    torch.testing.assert_close(grey.stem.conv.conv.weight, model.stem.conv.conv.weight.sum(1, keepdim=True))


def test_timm_features_of_a_pretrained_file(saved):
    model, path = saved
    overlay = {"file": str(path), "num_classes": 5}
    features = timm.create_model(NANO, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True).eval()
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(features(image), model.forward_intermediates(image, intermediates_only=True))


def test_weights_of_another_row_name_both(saved):
    with pytest.raises(ValueError, match=r"\(of halonet_nano_32, not halonet_h0_256\) are not of this model"):
        load_weights(halonet.create_model("halonet_h0_256"), saved[1])
