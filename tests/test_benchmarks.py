"""The benchmarks beside `halonet bench`: gates, one tiny round, tables and files. No speed is asserted."""

import json
import os
import subprocess

import pytest
import torch

from benchmarks import accelerate as accelerate_benchmark
from benchmarks import figure8, imagenet_recipe
from halonet import cli
from halonet.analysis.speed import model_table


@pytest.fixture(autouse=True)
def _threads():
    """The benchmark sets the number of threads of its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_accelerated_models_in_one_round(tmp_path, capsys):
    out = tmp_path / "figures.json"
    accelerate_benchmark.main(f"--models botnet26t_256 --batch 1 --threads 1 --rounds 1 --json {out}".split())
    entry = json.loads(out.read_text())["models"]["botnet26t_256"]
    assert entry["replaced"] == 3
    assert 0 < entry["errors"]["halonet"] <= 2 * entry["errors"]["timm"] + accelerate_benchmark.BAND
    printed = capsys.readouterr().out
    for mode in accelerate_benchmark.MODES:
        assert entry[mode].keys() == {"timm", "halonet"}
        assert all(f"{row['median_ms']:.1f} ms" in printed for row in entry[mode].values())


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_model_that_computes_something_else_is_not_timed(wrong):
    models, _ = accelerate_benchmark.models_of("botnet26t_256")
    models["halonet"].head.fc.bias.data[0] += wrong
    with pytest.raises(SystemExit, match="nothing is timed"):
        accelerate_benchmark.errors(models, torch.randn(1, 3, 256, 256))


def test_everything_for_a_gpu_is_asked_for_in_words_that_exist(tmp_path):
    """The script with a python that only notes what it is told: all commands are parsed, all models are there."""
    python, told = tmp_path / "python", tmp_path / "told.txt"
    python.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    done = subprocess.run(["bash", "benchmarks/gpu.sh", str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in told.read_text().splitlines()]
    assert lines[0][:3] == ["-m", "pytest", "tests/ops/test_local_attention_triton.py"]
    tables = [line[3:] for line in lines[1:]]
    assert {table[0] for table in tables} == {"op", "layer", "scaling", "memory", "factorized", "model", "detection"}
    names = set()
    for table in tables:
        options = cli.bench_parser().parse_args(table)
        assert options.device == "cuda"
        names |= set(options.models or ())
    for name in names:
        model_table.parts_of(name)
    for number in range(8):
        compared = [table for table in tables if any(name.startswith(f"halonet_h{number}_c12") for name in table)]
        assert [table[table.index("--models") + 1].split("@")[0] for table in compared] == [f"efficientnet_b{number}"]


def test_figure_8_is_drawn_from_tables(tmp_path, capsys):
    """A model 0.8 times as fast takes 1 / 0.8 of the time."""
    rows = {"efficientnet_b7@600": 1.0, "halonet_h7_600": 0.8, "halonet_h7_c12_600": 2.0}
    report = {
        "setting": {"device": "a GPU", "dtype": "bfloat16"},
        "training step": {name: {"times_as_fast": ratio} for name, ratio in rows.items()},
    }
    table, png = tmp_path / "models_h7_gpu.json", tmp_path / "figure8.png"
    table.write_text(json.dumps(report))
    assert figure8.main([str(table), "--png", str(png)]) == 0
    printed = capsys.readouterr().out
    assert "efficientnet_b7@600 = 1: attention in all stages 1.25, convolutions in 12 0.50" in printed
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_recipe_on_drawn_pictures(monkeypatch, capsys):
    """A small network in place of the recipe's, five classes: each step's loss and rate, and what was changed."""
    monkeypatch.setattr(imagenet_recipe, "CLASSES", 5)
    small = "--model.name halonet_nano_32 --data.num_workers 0 --data.img_size 32 --trainer.threads 1"
    words = f"--steps 3 --global-batch 4 --batch-size 4 -- {small}".split()
    assert imagenet_recipe.main(words) == 0
    printed = capsys.readouterr().out
    assert "15 JPEGs of 5 classes" in printed
    rates = [float(line.split()[-1]) for line in printed.splitlines() if line.startswith("step ")]
    assert rates == pytest.approx([1.6 * 4 / 4096 * step / 10 for step in (1, 2, 3)], abs=1e-6)
    for change in ("optim.global_batch: 4096 -> 4", "trainer.max_epochs: 350 -> 3", f"further: {small}"):
        assert change in printed
