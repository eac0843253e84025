"""`halonet bench`: the calls of models, peers that compute the same, floors by hand, tables, files; never a speed."""

import json
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halonet.analysis.speed import layer_table, measuring, memory_table, model_table, op_table, rows, vil_table
from halonet.analysis.speed.floor import Rates, layer_seconds, measure_rates, work_of
from halonet.analysis.speed.memory import memory_meter
from halonet.analysis.speed.peers import PEERS, Peer
from halonet.analysis.speed.shapes import OpShape, stages_of
from halonet.cli import main

TINY = OpShape("tiny", 9, 9, 2, 16, 16, (4, 4), (1, 1))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _threads_and_limits():
    threads, limit = torch.get_num_threads(), torch._dynamo.config.recompile_limit
    yield
    torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = limit


@pytest.fixture
def tiny(monkeypatch):
    """Models have one tiny stage, and the machine known rates."""
    monkeypatch.setattr("halonet.analysis.speed.run.stages_of", lambda name: [TINY])
    monkeypatch.setattr(op_table, "stages_of", lambda name: [TINY])
    monkeypatch.setattr(op_table, "measure_rates", lambda device, dtype: Rates(1e9, 1e9, 1e9))


def test_the_calls_of_h0():
    """Table A2: b = 8, h = 3, heads 4-8-8-8, 64 x 64 to 8 x 8 pixels at 256; three of its blocks stride."""
    shapes = stages_of("halonet_h0_256")
    plain = [shape for shape in shapes if shape.stride == 1]
    assert [(shape.height, shape.num_heads, shape.key_dim) for shape in plain] == [
        (64, 4, 16),
        (32, 8, 16),
        (16, 8, 32),
        (8, 8, 64),
    ]
    assert {(shape.block_size, shape.halo_size) for shape in shapes} == {((8, 8), (3, 3))}
    assert [shape.height for shape in shapes if shape.stride == 2] == [64, 32, 16]
    assert len({shape.label for shape in shapes}) == len(shapes) == 7


def test_a_model_without_attention_has_no_stages():
    with pytest.raises(ValueError, match="model must have attention, got 'resnet50_256'"):
        stages_of("resnet50_256")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.same and name != "flex"])
def test_peers_of_the_same_maths_agree_to_the_last_digits(name, stride):
    shape = replace(TINY, stride=stride, value_dim=20)
    for mode in rows.MODES:
        assert op_table.check(name, PEERS[name], shape, mode, dtype=torch.float32, device=CPU) < 1e-5


@pytest.mark.slow  # its kernel is compiled by a C++ compiler
def test_flex_attention_agrees():
    assert op_table.check("flex", PEERS["flex"], TINY, "forward", dtype=torch.float32, device=CPU) < 1e-5


def test_flex_attention_has_no_backward():
    assert "no backward" in PEERS["flex"].refusal(TINY, CPU, "forward+backward")


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_a_peer_that_computes_something_else_is_not_timed(wrong):
    peer = Peer("", lambda shape, tensors: wrong * PEERS["sdpa"].run(shape, tensors))
    with pytest.raises(SystemExit, match=r"differs from the reference by .*; nothing is timed"):
        op_table.check("wrong", peer, TINY, "forward", dtype=torch.float32, device=CPU)


def test_the_floor_counts_by_hand():
    """9 pixels are blocks of 4, 4 and 1 pixels, which meet 5, 6 and 2 keys of the map: 13 / 3 in the mean."""
    work = work_of(TINY, 2, "forward", 4)
    queries, keys = 2 * 81 * 2, (13 / 3) ** 2
    assert work.exponentials == pytest.approx(queries * keys)
    assert work.flops == pytest.approx(2 * queries * keys * 32 + 2 * queries * 12 * 16)
    assert work.bytes == 2 * queries * 32 * 4
    assert work_of(TINY, 2, "forward+backward", 4).exponentials == pytest.approx(2 * queries * keys)
    assert work.seconds(Rates(work.flops, work.exponentials / 3, work.bytes / 2)) == pytest.approx(3)


def test_the_floor_of_a_layer_has_its_projections():
    """Queries of 5 x 5 pixels (stride 2), keys and values of 9 x 9: 32 channels to 32 each, thrice with gradients."""
    shape = replace(TINY, stride=2)
    rates = Rates(1.0, 1e30, 1e30)
    projections = 2 * 3 * 32 * 32 * (25 + 2 * 81)
    for mode, times in (("forward", 1), ("forward+backward", 3)):
        least = work_of(shape, 3, mode, 4).flops + times * projections
        assert layer_seconds(shape, 3, mode, 4, rates) == pytest.approx(least)


def test_rates_are_measured():
    rates = measure_rates(CPU, torch.float32)
    assert min(rates.flops, rates.exponentials, rates.bytes) > 1e6
    assert "GFLOP/s" in str(rates)


@pytest.mark.usefixtures("tiny")
def test_an_op_table(tmp_path, capsys):
    files = tmp_path / "op.json", tmp_path / "op.png"
    peers = ["halonet", "sdpa-bias", "dense", "natten"]
    status = main(
        f"bench op --batch 1 --rounds 2 --threads 1 --json {files[0]} --png {files[1]} --peers".split() + peers
    )
    assert status == 0
    report = json.loads(files[0].read_text())
    assert report["setting"]["device"].startswith("CPU")
    printed = capsys.readouterr().out
    (entry,) = report["entries"]
    for mode in rows.MODES:
        assert entry[mode]["natten"] == {"refused": "NATTEN is not installed"}
        floor = work_of(TINY, 1, mode, 4).seconds(Rates(1e9, 1e9, 1e9)) * 1e3
        for name in peers[:3]:
            row = entry[mode][name]
            assert 0 < row["fastest_ms"] <= row["median_ms"] <= row["slowest_ms"]
            assert row["of_floor"] == pytest.approx(row["median_ms"] / floor)
            assert f"{row['median_ms']:.3f} ms" in printed
    assert report["geometric_mean"]["all shapes"]["forward"]["halonet"]["times_as_fast"] == pytest.approx(1)
    assert files[1].read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("tiny")
def test_a_scaling_table(tmp_path):
    files = tmp_path / "scaling.json", tmp_path / "scaling.png"
    arguments = f"bench scaling --sides 5 9 --batch 2 --rounds 1 --threads 1 --json {files[0]} --png {files[1]}"
    assert main([*arguments.split(), "--peers", "halonet", "dense"]) == 0
    entries = json.loads(files[0].read_text())["entries"]
    assert [entry["shape"]["height"] for entry in entries] == [5, 9]
    row = entries[1]["forward"]["dense"]
    assert row["ns_per_pixel"] == pytest.approx(row["median_ms"] * 1e6 / (2 * 81))
    assert files[1].stat().st_size > 1000


def test_the_figures_of_vision_longformer(tmp_path, capsys):
    files = tmp_path / "vil.json", tmp_path / "vil.png"
    arguments = f"bench vil --sides 8 20 --batch 1 --rounds 1 --threads 1 --json {files[0]} --png {files[1]}"
    assert main(arguments.split()) == 0
    tables = json.loads(files[0].read_text())["tables"]
    assert tables.keys() == {"implementations", "maskings", "windows"}
    for title, names in (("implementations", vil_table.PEERS), ("maskings", ("chunk", "window", "cyclic"))):
        assert [entry["side"] for entry in tables[title]] == [8, 20]
        for entry in tables[title]:
            assert tuple(entry["rows"]) == tuple(names)
            assert all(row["median_ms"] > 0 and row["peak_mib"] >= 0 for row in entry["rows"].values())
    assert files[1].stat().st_size > 1000
    assert "not run" not in capsys.readouterr().out


def test_what_needs_too_much_memory_is_not_run(monkeypatch, capsys):
    monkeypatch.setattr(vil_table, "MOST", 1.0)
    report = vil_table.vil_table([16], peers=vil_table.PEERS, batch=1, dtype=torch.float32, device="cpu", rounds=1)
    rows_of = report["tables"]["implementations"][0]["rows"]
    assert {name for name, row in rows_of.items() if "refused" in row} == {"unfold", "full"}
    assert "not run: would need about" in capsys.readouterr().out


def test_an_implementation_that_computes_something_else_is_not_timed(monkeypatch):
    monkeypatch.setattr(vil_table.MaskedFullAttention, "_mask", lambda self, size, like: like.new_zeros(1, 1, 1))
    with pytest.raises(SystemExit, match="full differs from the reference by"):
        vil_table.check_peers(vil_table.PEERS)


@pytest.mark.usefixtures("tiny")
def test_a_layer_table(tmp_path, capsys):
    out = tmp_path / "layer.json"
    arguments = f"bench layer --batch 1 --rounds 1 --threads 1 --json {out} --peers timm halonet halonet:reference"
    assert main(arguments.split()) == 0
    report = json.loads(out.read_text())
    (entry,) = report["entries"]
    assert entry["shape"]["height"] == entry["shape"]["width"] == 12  # whole blocks
    for mode in rows.MODES:
        assert entry[mode].keys() == {"timm", "halonet", "halonet:reference"}
        shape, measured = replace(TINY, height=12, width=12), Rates(**report["rates"])
        floor = layer_seconds(shape, 1, mode, 4, measured) * 1e3
        assert entry[mode]["halonet"]["of_floor"] == pytest.approx(entry[mode]["halonet"]["median_ms"] / floor)
    assert "geometric means over all shapes, timm = 1" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["timm", "halonet", "halonet:sdpa"])
def test_layers_have_the_weights_of_timms(name):
    shape, image = replace(TINY, value_dim=32, stride=2), torch.randn(1, 32, 8, 8)
    layer = layer_table.layer_of(name, shape, torch.float32, CPU)
    assert layer_table.check(name, layer, shape, image) < 1e-5
    layer.register_forward_hook(lambda module, inputs, output: output * 1.01)
    with pytest.raises(SystemExit, match=r"differs from timm in output by .*; nothing is timed"):
        layer_table.check(name, layer, shape, image)


@pytest.mark.parametrize("wrong", [2.0, float("nan")])
def test_a_layer_of_one_wrong_gradient_is_not_timed(wrong):
    layer = layer_table.layer_of("halonet", TINY, torch.float32, CPU)
    layer.pos_embed.height_rel.register_hook(lambda gradient: wrong * gradient)
    with pytest.raises(SystemExit, match=r"in the gradient of pos_embed\.height_rel"):
        layer_table.check("halonet", layer, TINY, torch.randn(1, 32, 8, 8))


def test_means_are_geometric_and_of_whoever_took_part_everywhere():
    def entry(stride, fast, memory):
        row = {"times_as_fast": fast, "peak_mib": memory}
        first = {"times_as_fast": 1.0, "peak_mib": 10.0}
        both = {"timm": first, "ours": row, "absent": row if stride == 1 else {"refused": "too wide"}}
        return {"shape": {"stride": stride}} | dict.fromkeys(rows.MODES, both)

    means = rows.geometric_means([entry(1, 2.0, 5.0), entry(2, 8.0, 0.8)], ["timm", "ours", "absent"])
    assert means["all shapes"]["forward"]["ours"] == pytest.approx({"times_as_fast": 4.0, "of_memory": 0.2})
    assert means["stride 1"]["forward"]["absent"] == pytest.approx({"times_as_fast": 2.0, "of_memory": 0.5})
    assert "absent" not in means["all shapes"]["forward"]


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its peak memory")


def keeps(mebibytes):
    """A call that fills that much memory, half of it at a time, and gives nothing back."""
    half = mebibytes * 2**18 // 2

    def call():
        for _ in range(2):
            torch.ones(half)

    return call


@ON_LINUX
def test_peak_memory_is_what_is_in_use_at_once():
    with memory_meter(CPU) as meter:
        assert meter(partial(keeps, 64)) == pytest.approx(32, abs=1)


@ON_LINUX
@pytest.mark.usefixtures("tiny")
def test_a_memory_table(tmp_path, capsys, monkeypatch):
    """No map but those of some size is measured, so that the files are seen to be written and the rows printed."""
    monkeypatch.setattr(memory_table, "stages_of", lambda name: [TINY])
    sizes = {"halonet": 100, "dense": 300}
    monkeypatch.setattr(memory_table, "_needed", lambda name, *rest: sizes[name] * rest[-1] ** 2 * 2**20)
    files = tmp_path / "memory.json", tmp_path / "memory.png"
    arguments = f"bench memory --limit 300 --threads 1 --json {files[0]} --png {files[1]} --peers halonet dense natten"
    assert main(arguments.split()) == 0
    report = json.loads(files[0].read_text())
    for mode in rows.MODES:
        assert {name: row.get("side") for name, row in report[mode].items()} == {
            "halonet": 52,  # 4 * 13 <= sqrt(300 * 1024 / 100) = 55.4
            "dense": 32,  # sqrt(300 * 1024 / 300) = 32
            "natten": None,
        }
    assert "not measured: NATTEN is not installed" in capsys.readouterr().out
    assert files[1].read_bytes().startswith(b"\x89PNG")


@ON_LINUX
def test_memory_counts_what_a_call_is_given_and_makes():
    """256 x 256 pixels of 32 channels are 8 MiB a map: three given, one made."""
    shape = replace(TINY, block_size=(8, 8), halo_size=(0, 0))
    with memory_meter(CPU) as meter:
        needed = memory_table._needed("halonet", shape, "forward", 1, torch.float32, CPU, meter, 256)
    assert 31 <= needed / 2**20 < 40


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3000), st.sampled_from([1, 4, 8]))
def test_the_largest_side_is_found(true, step):
    row = memory_table.largest(lambda side: float(side), true, step=step)
    assert row["side"] <= true
    assert row["side"] % step == 0
    assert true - row["side"] <= max(2 * step, true // memory_table.CLOSE + step)


def test_a_side_that_is_refused_is_the_end():
    row = memory_table.largest(lambda side: "too long" if side > 100 else 1.0, 10, step=8)
    assert row["side"] == 96
    assert row["stopped_by"] == "too long"


def test_a_model_table(tmp_path, capsys):
    files = tmp_path / "model.json", tmp_path / "model.png"
    arguments = f"bench model --batch 1 --rounds 1 --threads 1 --json {files[0]} --png {files[1]} --models"
    assert main([*arguments.split(), "halonet_nano_32", "resnet18@40", "halonet_nano_32:reference"]) == 0
    report = json.loads(files[0].read_text())
    for mode in model_table.MODES:
        assert report[mode].keys() == {"halonet_nano_32", "resnet18@40", "halonet_nano_32:reference"}
        assert all(row["images_per_second"] > 0 for row in report[mode].values())
    assert "images/s" in capsys.readouterr().out
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_models_one_after_the_other_in_processor_time(tmp_path, capsys):
    files = tmp_path / "model.json", tmp_path / "model.png"
    arguments = "bench model --apart --processor-time --modes inference --batch 1 --rounds 2 --threads 1"
    arguments += f" --json {files[0]} --png {files[1]} --models halonet_nano_32 vil_nano_32"
    assert main(arguments.split()) == 0
    report = json.loads(files[0].read_text())
    assert set(report) == {"setting", "inference"}
    assert report["setting"]["clock"] == "processor time"
    assert {name: row["peak_mib"] for name, row in report["inference"].items()} == {
        "halonet_nano_32": None,
        "vil_nano_32": None,
    }
    assert "MiB" not in capsys.readouterr().out


def test_the_clock_is_the_one_that_is_given():
    ticks = iter(range(1000))
    times = measuring.interleaved_times({"call": lambda: None}, 2, clock=lambda: float(next(ticks)))
    assert times == {"call": [1000.0, 1000.0]}  # a second a call, whatever it took


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("op --models resnet18", "models must be names that `halonet models` lists, got 'resnet18'"),
        ("op --peers nobody", "peers must be among halonet, reference"),
        ("layer --peers nobody", "peers must be among timm, timm-compiled"),
        ("layer --peers halonet:magic", "reference, unfold, sliding_chunk, got 'halonet:magic'"),
        ("layer --peers halonet:magic", "or halonet:BACKEND with one of triton, numba, sdpa, reference"),
        ("model --models nothing", "models must be names of timm's registry, got 'nothing'"),
        ("model --models resnet18@x", "models must be NAME or NAME@PIXELS, got 'resnet18@x'"),
        ("model --models halonet_nano_32:magic", "models must be NAME:BACKEND with one of triton, numba"),
        ("model --models resnet18:sdpa --rounds 1", "must be nets of this library with attention, got 'resnet18:sdpa'"),
        ("op --batch 0", "expected a positive int, got '0'"),
        ("vil --peers nobody", "peers must be among halonet, sliding_chunk, unfold, full, got 'nobody'"),
        ("speed", "invalid choice: 'speed'"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(arguments, said, capsys):
    assert main(["bench", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("kind", ["op", "layer", "model", "scaling", "memory"])
def test_a_gpu_that_is_not_there(kind, capsys):
    assert main(["bench", kind, "--device", "cuda"]) == 2
    assert "device must be there, got 'cuda', and torch finds no GPU" in capsys.readouterr().err


def test_times_are_interleaved_and_end_with_the_device(monkeypatch):
    order, waits = [], []
    monkeypatch.setattr(measuring, "SHORTEST", 0)
    monkeypatch.setattr(measuring, "wait_for", waits.append)
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = measuring.interleaved_times(calls, 2, "cuda")
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    assert order[-4:] == ["a", "b", "b", "a"]
    assert len(waits) == len(order)
