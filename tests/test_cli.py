"""The command line itself: what it offers, how it reads settings, what it says to mistakes. Runs: tests/training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import halonet
from halonet.cli import COMMANDS, fit_settings, main, recipe_names, setting_names
from halonet.cli.words import exit_status
from halonet.detection import list_detectors
from halonet.training.config import RunConfig

Capture = pytest.CaptureFixture[str]
HEADER = ("Source", "Command", "Hardware", "Hours", "Published")


def error_line(capsys: Capture, *arguments: str) -> str:
    status = main(arguments)
    error = capsys.readouterr().err.strip()
    assert status == 2, error
    assert len(error.splitlines()) == 1, error
    return error


def test_the_options_are_these() -> None:
    """A new one is a decision: the command line is kept small. Model and data sets grow by rows and recipes instead."""
    expected = """
        task
        model.name model.weights model.zero_head model.grad_checkpointing model.drop_rate model.drop_path_rate
        model.random_shift model.redraw_features model.overrides
        data.root data.dataset data.streaming data.shuffle_buffer data.class_map data.on_error data.max_error_fraction
        data.batch_size data.num_workers data.img_size data.in_chans data.val_fraction data.test_fraction
        data.split_seed data.augment data.crop_pct data.randaugment data.crop_scale data.random_erasing data.mixup
        data.cutmix data.repeats
        stereo.dataset stereo.render stereo.crop_size stereo.drawn_size stereo.drawn_pairs stereo.drawn_disparity
        stereo.loss_weights
        detection.dataset detection.annotations detection.images detection.scale_jitter detection.crop_size
        detection.flip detection.drawn_size detection.drawn_images detection.backbone_weights detection.max_bad
        optim.name optim.lr optim.momentum optim.nesterov optim.weight_decay
        optim.warmup_epochs optim.warmup_steps optim.warmup_start optim.final_lr_ratio
        optim.drop_epochs optim.drop_steps optim.drop_ratio
        optim.layer_decay optim.label_smoothing optim.global_batch optim.ema_decay
        trainer.max_epochs trainer.max_steps trainer.accelerator trainer.devices trainer.num_nodes trainer.strategy
        trainer.sync_batchnorm trainer.compile trainer.threads
        trainer.precision trainer.accumulate_grad_batches trainer.gradient_clip_val trainer.limit_train_batches
        trainer.limit_val_batches trainer.limit_test_batches trainer.save_every_steps
        trainer.save_every_minutes trainer.keep_last trainer.progress
        seed out name
    """
    assert setting_names() == tuple(expected.split())


def test_the_commands_of_training_are_there() -> None:
    assert {"fit", "validate", "test", "predict", "summary", "models"} <= set(COMMANDS)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_overview_names_every_command(arguments: tuple[str, ...], capsys: Capture) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"{name} " in text
        assert command.help in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: halonet {command}" in capsys.readouterr().out


def test_the_help_of_fit_explains_every_setting(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    text = capsys.readouterr().out
    for name in setting_names():
        explained = text.split(f"\n  --{name} ", 1)[1].split("\n  --")[0]
        assert len(explained.split("(type:")[0].split()) > 2, name


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"halonet {halonet.__version__}"


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "halonet", "--version"], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == f"halonet {halonet.__version__}"


def test_help_and_lists_need_no_lightning() -> None:
    script = (
        "import sys; from halonet.cli import main; main(['--help']); main(['models']);"
        "main(['summary', 'halonet_nano_32']);"
        "print('loaded:', *sorted({'lightning', 'torchmetrics', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_models(capsys: Capture) -> None:
    assert main(["models", "halonet_h?_[34]*", "--names"]) == 0
    listed = capsys.readouterr().out.split()
    assert listed == halonet.list_models("halonet_h?_[34]*")
    assert "halonet_h4_384" in listed
    assert main(["models", "halonet_h?_[34]*", "--sort", "parameters", "--reverse"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["halonet_h5_448", "halonet_h4_384", "halonet_h3_320"]
    assert "published" in lines[1] + lines[0]
    assert "none is ours" in lines[-2]
    assert main(["models", "--sort", "top1", "--reverse", "--names"]) == 0
    listed = capsys.readouterr().out.split()
    assert listed[0] == "vil_base_384"
    assert sorted(listed) == halonet.list_models()
    assert main(["models", "halonet_h7_600", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["top1"], row["source"]) == ("halonet_h7_600", 84.9, "HaloNet, Table 4")


def test_models_of_a_task(capsys: Capture) -> None:
    assert main(["models", "--task", "stereo", "*nano", "--names"]) == 0
    assert capsys.readouterr().out.split() == ["fa_psmnet_nano", "nl_psmnet_nano", "psmnet_nano"]
    assert "no stereo model matches 'halonet*'" in error_line(capsys, "models", "--task", "stereo", "halonet*")
    assert main(["models", "--task", "detection", "maskrcnn_halo_nano*"]) == 0
    assert "maskrcnn_halo_nano_128" in capsys.readouterr().out.split()
    wrong = error_line(capsys, "models", "--task", "detection", "maskrcn_halo_nano_128")
    assert "no detection model matches 'maskrcn_halo_nano_128', did you mean maskrcnn_halo_nano_128" in wrong


@pytest.mark.parametrize(
    ("arguments", "model", "pairs"),
    [
        (("--task", "stereo"), "psmnet_nano", 2560),
        (("--task=stereo", "--config", "smoke"), "psmnet_nano", 2560),
        (("--task", "stereo", "--config", "psmnet_scene_flow"), "psmnet", 256),
        (("--config", "stereo_drawn", "--model.name", "fa_psmnet_nano"), "fa_psmnet_nano", 2560),
    ],
)
def test_a_task_begins_with_its_recipe(arguments: tuple[str, ...], model: str, pairs: int, capsys: Capture) -> None:
    """Unless one that is given says the task itself."""
    config = merged(capsys, *arguments)
    assert (config.task, config.model.name, config.stereo.drawn_pairs) == ("stereo", model, pairs)


def test_detection_begins_with_its_recipe(capsys: Capture) -> None:
    assert merged(capsys, "--task", "detection") == merged(capsys, "--config", "detection_drawn")
    config = merged(capsys, "--task=detection", "--config=botnet_1x_coco", "--detection.images.val", "b")
    assert (config.model.name, config.trainer.max_steps) == ("maskrcnn_botnet50_1024", 22500)
    assert config.detection.images == {"val": "b"}
    assert merged(capsys, "--config=botnet_1x_coco", "--config=smoke").trainer.max_steps is None


def test_no_such_model_in_the_list(capsys: Capture) -> None:
    assert "did you mean halonet_h0_256" in error_line(capsys, "models", "halonet_h0_25")


def test_summary(capsys: Capture) -> None:
    assert main(["summary", "halonet_nano_32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["summary", "halonet_nano_32", "--img-size", "48"]) == 0
    assert "halonet_nano_32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("fitt",), "no command 'fitt', did you mean fit"),
        (("nonsense",), "halonet --help lists them"),
        (("fit", "--optim.lrr", "1"), "no setting 'optim.lrr', did you mean optim.lr"),
        (("fit", "--lr", "1"), "no setting 'lr', did you mean optim.lr?"),
        (("fit", "--data.batchsize=1"), "no setting 'data.batchsize', did you mean data.batch_size"),
        (("fit", "--optim.l", "1"), "no setting 'optim.l'"),
        (("fit", "stray"), "unrecognized arguments: stray"),
        (("fit", "--seed", "many"), "seed: expected int, got many"),
        (("fit", "--optim.lr"), "--optim.lr: expected one argument"),
        (("fit", "--optim.name", "lion"), "optim.name: expected one of ['sgd', 'adamw'], got lion"),
        (("fit", "--optim.lr", "-1"), "optim.lr: expected more than 0, got -1.0"),
        (("fit", "--data.img_size", "big"), "data.img_size: expected int or null, got big"),
        (("fit", "--data.in_chans", "2"), "data.in_chans: expected one of [1, 3] or null, got 2"),
        (("fit", "--trainer.limit_val_batches", "1.5"), "trainer.limit_val_batches: expected a whole number"),
        (("fit", "--model.drop_rate", "1"), "model.drop_rate: expected at least 0 and less than 1 or null, got 1.0"),
        (("fit", "--config", "halonet_imagnet"), "no recipe 'halonet_imagnet', did you mean halonet_imagenet"),
        (("fit", "--trainer.max_steps", "0"), "trainer.max_steps: expected at least 1 or null, got 0"),
        (
            ("fit", "--detection.anotations", "a"),
            "no setting 'detection.anotations', did you mean detection.annotations",
        ),
        (("fit", "--ckpt_path", "gone.ckpt"), "no checkpoint at gone.ckpt"),
        (("test",), "expected --weights or --ckpt_path, got neither"),
        (("test", "--weights", "a", "--ckpt_path", "b"), "expected --weights or --ckpt_path, got both"),
        (("test", "--weights", "gone"), "no weights file at gone"),
        (("predict", "--weights", "w"), "required: IMAGE"),
        (("predict", "picture.png"), "required: --weights"),
        (("predict", "--weights", "gone", "picture.png"), "no weights file at gone"),
        (("predict", "--weights", "w", "--top", "0", "picture.png"), "top: expected at least 1, got 0"),
        (("predict", "--weights", "w", "--tpo", "3", "picture.png"), "unrecognized arguments: --tpo"),
        (("summary",), "required: NAME"),
        (("summary", "halonet_h0_265"), "halonet_h0_256"),
        (("summary", "maskrcnn_halo_nano_128"), "detector: halonet analyse detectors maskrcnn_halo_nano_128 tells"),
        (("study", "maskrcnn_botnet50_1024"), "detector: halonet analyse detectors maskrcnn_botnet50_1024 sets"),
        (("study", "vil_table2", "--model.name", "retinanet_resnet18_800"), "is a detector"),
        (
            ("export", "maskrcnn_halo_nano_128", "--format", "onnx", "--out", "a.onnx"),
            "is a detector: its weights stay",
        ),
        (("fit", "--model.name", "maskrcnn_halo_nano_128"), "is a detector, which --task detection trains"),
        (("models", "maskrcnn_*"), "detectors are listed by --task detection"),
        (("models", "--sort", "top"), "sort: expected one of name, parameters, multiply_adds, image_size, top1"),
        (("models", "--sort", "epe"), "got 'epe'"),
        (("models", "--json", "--names"), "not allowed with argument --json"),
        (("plot",), "required: WHAT"),
        (("plot", "pareto", "--out", "a.txt"), "--out: expected a file that ends in .png or .svg, got 'a.txt'"),
        (("plot", "pareto", "--figure", "botnet_figure6"), "got 'botnet_figure6'; did you mean botnet_figure"),
    ],
)
def test_mistakes_in_one_line(arguments: tuple[str, ...], told: str, capsys: Capture) -> None:
    assert told in error_line(capsys, *arguments)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optim:\n  lrr: 1\n", "no setting 'optim.lrr', did you mean optim.lr"),
        ("lr: 1\n", "no setting 'lr', did you mean optim.lr?"),
        ("model: halonet_h0_256\n", "model expects settings, got 'halonet_h0_256'"),
        ("- 1\n", "holds no settings"),
        ("model: [\n", "is no YAML"),
        ("seed: many\n", "seed: expected int, got many"),
    ],
)
def test_mistakes_in_a_recipe(text: str, told: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert told in error_line(capsys, "fit", "--config", str(path))


def test_an_extra_that_is_not_installed() -> None:
    """In a process of its own: modules that were imported with the extra must not be left behind."""
    script = "import sys; sys.modules['lightning'] = None; from halonet.cli import main; sys.exit(main(['fit']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    expected = "halonet: error: this command needs lightning, which is not installed: pip install 'halonet[train]'"
    assert (done.returncode, done.stderr.strip()) == (2, expected)


def test_defects_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pattern: str, *, task: str) -> list[str]:
        raise RuntimeError("a defect")

    monkeypatch.setattr(halonet, "list_models", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["models"])


def test_users_errors_show_theirs_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALONET_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no command"):
        main(["nonsense"])


def merged(capsys: Capture, *arguments: str) -> RunConfig:
    """The settings that `halonet fit ARGUMENTS` would run with."""
    with pytest.raises(SystemExit):
        main(["fit", *arguments, "--print_config"])
    return RunConfig.from_dict(yaml.safe_load(capsys.readouterr().out))


def test_without_arguments_the_defaults_of_the_classes(capsys: Capture) -> None:
    assert merged(capsys) == RunConfig()


def test_later_beats_earlier(capsys: Capture) -> None:
    config = merged(
        capsys, "--config", "halonet_imagenet", "--config", "smoke", "--data.batch_size", "2",
        "--model.overrides.block_size", "12",
    )  # fmt: skip
    assert config.optim.lr == 1.6
    assert config.trainer.max_epochs == 1
    assert config.data.batch_size == 2
    assert config.model.overrides == {"block_size": 12}


@pytest.mark.parametrize("name", recipe_names())
def test_recipes(name: str, capsys: Capture) -> None:
    """Each parses, holds differences only, names a model that exists with its options, and tells its source."""
    config = merged(capsys, "--config", name)
    assert config != RunConfig()
    path = Path(halonet.__file__).parent / "recipes" / f"{name}.yaml"
    flat = lambda values: {  # noqa: E731
        (section, key): value
        for section in ("data", "stereo", "detection", "optim", "trainer")
        for key, value in values.get(section, {}).items()
    }
    defaults = flat(RunConfig().to_dict())
    if name != "smoke":  # an overlay also takes things back to the default
        repeated = [key for key, value in flat(yaml.safe_load(path.read_text())).items() if defaults[key] == value]
        assert not repeated
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for entry in HEADER:
        assert any(line.startswith(f"# {entry}:") for line in header), entry
    if config.task == "detection":  # a build on the meta device: tests/training/test_coco_recipes.py
        assert config.model.name in list_detectors()
        return
    assert config.model.name in halonet.list_models(task=config.task)
    with torch.device("meta"):
        options = {} if config.task == "stereo" else {"num_classes": 10}
        halonet.create_model(config.model.name, **options, **config.model.overrides)


def test_there_are_recipes() -> None:
    assert {"halonet_imagenet", "halonet50_imagenet", "smoke"} <= set(recipe_names())


def test_settings_of_fit_from_python() -> None:
    """The task's recipe and all defaults but what is given; mistakes as on the command line."""
    config = fit_settings(["--task", "detection", "--optim.lr", "0.5", "--detection.annotations.train", "here.json"])
    assert (config.model.name, config.optim.name, config.optim.lr) == ("maskrcnn_halo_nano_128", "adamw", 0.5)
    assert config.detection.annotations == {"train": "here.json"}
    assert fit_settings([]) == RunConfig()
    with pytest.raises(ValueError, match=r"no setting 'lr', did you mean optim\.lr"):
        fit_settings(["--lr", "1"])


class Stopped(Exception):
    """As a training that a signal ended."""

    status = 143


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("size: expected 1,\ngot 2"), 2, "lesson.py: error: size: expected 1, got 2\n"),
        (KeyboardInterrupt(), 130, "\nlesson.py: interrupted\n"),
        (Stopped("stopped; go on with this"), 143, "\nstopped; go on with this\n"),
    ],
)
def test_exit_status_of_any_program(error: BaseException, status: int, line: str, capsys: Capture) -> None:
    def run() -> int:
        raise error

    assert exit_status(run, prog="lesson.py") == status
    assert capsys.readouterr().err == line
    assert exit_status(lambda: 7, prog="lesson.py") == 7
