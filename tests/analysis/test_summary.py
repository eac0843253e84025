"""The page about a model says what the model does and what was published."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import halonet
from halonet.analysis import summary
from halonet.analysis.cost import Count

ALL = "all"


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        # the first layer of a stage reads the larger map; reference geometry of the paper's models
        ("halonet_h0_256", [[(64, 14)], [(64, 14), (32, 14)], [(32, 14), (16, 11)], [(16, 11), (8, ALL)]]),
        ("halonet_h6_512", [[(128, 16)], [(128, 16), (64, 16)], [(64, 16), (32, 16)], [(32, 16), (16, 12)]]),
        ("halonet_h7_600", [[(150, 16)], [(150, 16), (75, 16)], [(75, 16), (38, 16)], [(38, 16), (19, 13)]]),
        ("sasa50_256", [[(64, 7)], [(64, 7), (32, 7)], [(32, 7), (16, 7)], [(16, 7), (8, 7)]]),
        ("resnet50_se8_halo_512", [[], [], [], [(32, 14), (16, 11)]]),
    ],
)
def test_what_attention_sees(name, seen):
    stages = [stage for stage in summary(name).stages if stage.name.startswith("stage ")]
    told = [[(view.map_size[0], ALL if view.is_global else view.seen[0]) for view in stage.views] for stage in stages]
    assert told == seen
    assert all(sum(view.layers for view in stage.views) in (0, stage.blocks) for stage in stages)


def test_rectangles_and_circles():
    wide = summary("halonet_nano_32", img_size=(64, 16), block_size=(8, 4), halo_size=(1, 2), border="circular")
    assert [(view.map_size, view.seen, view.is_global) for view in wide.stages[1].views] == [((32, 8), (10, 8), False)]
    assert wide.stages[1].neighborhood == (10, 8)
    assert "64x16 pixels" in wide.render()


def test_a_circular_neighbourhood_sees_no_pixel_twice():
    page = summary("halonet_nano_32", img_size=16, block_size=8, halo_size=5, border="circular")
    assert [(view.seen, view.is_global) for view in page.stages[1].views] == [((8, 8), True)]


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (5, 90)])
def test_output_sizes_are_those_of_the_maps(size):
    model = halonet.create_model("halonet_nano_32", features_only=True).eval()
    with torch.no_grad():
        maps = model(torch.zeros(1, 3, *size))
    stages = [stage for stage in summary("halonet_nano_32", img_size=size).stages if stage.name.startswith("stage ")]
    assert [(stage.channels, *stage.output_size) for stage in stages] == [tuple(map_.shape[1:]) for map_ in maps]


@pytest.mark.parametrize("name", ["halonet_h3_320", "senet50_224", "halonet_h4_base128_c12_256"])
def test_stages_add_up(name):
    page = summary(name)
    assert sum((Count(s.parameters, s.multiply_adds) for s in page.stages), Count()) == page.total


def test_text_of_h0():
    lines = summary("halonet_h0_256").render().splitlines()
    assert lines[0] == "halonet_h0_256: images of 256x256 pixels, 3 channels"
    stage_4 = next(line for line in lines if line.startswith("stage 4"))
    assert " ".join(stage_4.split()) == "stage 4 8x8 halo 3 8 3 14: 11 of 16, then all 8 8 256 3.125 0.354"
    assert any(line.split() == ["total", "5.485", "2.308"] for line in lines)
    published = next(line for line in lines if line.startswith("parameters"))
    assert published.split("  ")[-1] == "HaloNet, Table A2"
    assert all(figure in published for figure in ("5.485 M", "5.488 M", "5.5 M"))


@pytest.mark.parametrize("name", ["halonet_h5_448", "halonet_h7_c123_600", "resnet152_224", "senet350_320"])
def test_text_fits_a_page(name):
    assert max(len(line) for line in summary(name).render().splitlines()) <= 112


@pytest.mark.parametrize(
    ("name", "size", "note"),
    [
        ("halonet_h3_320", None, "d_f = 1280"),
        ("halonet_h7_c123_600", None, "0.298"),
        ("senet350_320", 384, "repeats its row"),
        ("resnet50_256", 224, "first 1x1"),
    ],
)
def test_contradictions_are_told(name, size, note):
    page = summary(name, img_size=size)
    text = page.render()
    assert note in text
    assert ("NOT MET" in text) == any(figure.contradicted for figure in page.published)


def test_published_multiply_adds_belong_to_their_image_size():
    def sizes(**options) -> list[int]:
        page = summary("resnet50_256", **options)
        return [figure.image_size for figure in page.published if figure.quantity == "multiply_adds"]

    assert sizes() == [256]
    assert sizes(img_size=1024) == [1024]
    assert sizes(img_size=(1024, 512)) == []


def test_no_published_figures_beside_another_model():
    page = summary("halonet_h0_256", num_classes=10)
    assert page.published == ()
    assert page.stages[-1].channels == 10
    assert "halonet_h0_256, num_classes=10:" in page.render()
    assert "5.5 M" not in page.render()


def test_json_holds_it_all():
    page = summary("halonet_h7_600", img_size=256)
    told = json.loads(page.to_json())
    assert told["input_size"] == [3, 256, 256]
    assert told["total"] == {"parameters": page.total.parameters, "multiply_adds": page.total.multiply_adds}
    assert told["stages"][1]["views"] == [
        {"layers": 3, "map_size": [64, 64], "seen": [16, 16], "is_global": False},
    ]
    assert [figure["published"] for figure in told["published"]] == [67]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("halonet_h0", {}, "unknown model 'halonet_h0'"),
        ("halonet_h0_256", {"blocksize": 4}, "did you mean block_size"),
        ("halonet_h0_256", {"img_size": 0}, "img_size must be positive, got 0"),
        ("halonet_h0_256", {"img_size": (8, -1)}, "img_size must be positive"),
        ("halonet_h0_256", {"features_only": True}, "features_only"),
    ],
)
def test_bad_input(name, options, message):
    with pytest.raises(ValueError, match=message):
        summary(name, **options)


def test_a_stereo_network_is_told_part_by_part():
    told = summary("fa_psmnet_nano")
    names = [stage.name for stage in told.stages]
    assert names[:2] == ["stem", "cluster 1"]
    assert {"attention", "pyramid", "entry", "hourglasses", "heads"} <= set(names)
    assert sum(stage.parameters for stage in told.stages) == told.total.parameters
    assert sum(stage.multiply_adds for stage in told.stages) == told.total.multiply_adds
    assert "factorized" in told.render()


def test_multiply_adds_of_a_stereo_network_are_what_torch_counts():
    """Both images, convolutions of two and three dimensions, transposed ones too."""
    model = halonet.create_model("fa_psmnet_nano").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 64, 128), torch.zeros(1, 3, 64, 128))
    assert 2 * summary("fa_psmnet_nano").total.multiply_adds == counter.get_total_flops()


def test_inserted_attention_is_named():
    stages = {stage.name: stage for stage in summary("resnet50_224", attention_at="res3").stages}
    assert stages["stage 3"].slot == "conv+factorized"
    assert stages["stage 4"].slot == "conv"
