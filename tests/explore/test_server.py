"""The routes of the page, asked as a browser asks them."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import halonet
from halonet.analysis.attention import record_attention
from halonet.analysis.cost import count_costs
from halonet.cli import main
from halonet.explore.choices import of_weights
from halonet.explore.server import PORT, listen
from tests.explore.serving import ANIMALS, SHAPES, Serving, attention_of, picture, png_of, write_classifier

ROOT = Path(__file__).parents[2]


def key_of(served: Serving, file: str) -> str:
    return next(key for key in served.workbench.choices if key.endswith(f"{file}.safetensors"))


def look(served: Serving, key: str, image: np.ndarray, **wish: Any) -> dict[str, Any]:
    sent = served.told("/api/pictures", png_of(image), headers={"x-name": "a%20picture.png"})
    return served.told("/api/look", {"key": key, "picture": sent["id"], **wish})


def test_page_and_its_files(served: Serving) -> None:
    status, page, headers = served.ask("/")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert b"//" not in page.split(b"<body>")[1]  # nothing of it comes from elsewhere
    for name, kind in (("style.css", "text/css"), ("main.js", "text/javascript")):
        status, _, headers = served.ask(f"/static/{name}")
        assert (status, headers["content-type"].split(";")[0]) == (200, kind)
    assert served.ask("/static/../app.py")[0] == 404
    assert served.ask("/static/index.html")[0] == 404


def test_start_lists_what_was_given_first(served: Serving) -> None:
    told = served.told("/api/start")
    names = [model["name"] for model in told["models"]]
    assert names[:4] == ["halonet_nano_32", "maskrcnn_halo_nano_128", "fa_psmnet_nano", "vil_nano_32"]
    assert {"halonet_h0_256", "maskrcnn_botnet50_1024", "psmnet"} <= set(names)
    assert told["first"]["key"] == told["models"][0]["key"]
    assert told["samples"] == ["digit", "drawn scene", "stereo pair"]


def test_attention_is_that_of_the_record(served: Serving) -> None:
    """Weights and figures of the answer, worked out anew from the model and the picture."""
    image = picture(32, 32)
    told = look(served, key_of(served, "animals"), image)
    assert told["view"] == told["input"][1:] == [32, 32]
    assert told["layers"][0]["label"] == "stage 1, block 1"
    name, row, column, head = told["layers"][0]["name"], 9, 20, 2
    query = f"layer={name}&row={row}&column={column}&head={head}"
    status, data, headers = served.ask(f"/api/attention/{told['record']}?{query}")
    assert status == 200
    assert float(headers["x-milliseconds"]) > 0
    header, values = attention_of(data)

    model = served.workbench._subjects[key_of(served, "animals")].model
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32) / 255
    layer = record_attention(model, torch.from_numpy((grey - 0.5) / 0.25)[None, None]).layers[name]
    rows, frames = layer.at([(row, column)]), layer.frames((row, column))
    weights = rows.weights[0, head].numpy()
    top, left, height, width = header["box"]
    drawn = np.zeros(layer.map_size)
    drawn[top : top + height, left : left + width] = values * (header["largest"] / 255)
    np.testing.assert_allclose(drawn, weights, atol=header["largest"] / 255)
    assert header["largest"] == pytest.approx(float(weights.max()), rel=1e-4)
    assert frames is not None
    assert header["frames"]["block"] == [list(corner) for corner in frames.block]
    assert header["frames"]["seen"] == [list(corner) for corner in frames.seen]
    # The query of a map of 16 x 16 that answers stands at its pixel (4, 10), the map's pixels are 2 wide.
    down, across = np.mgrid[:16, :16]
    distance = (weights * 2 * np.hypot(down - 4, across - 10)).sum() / weights.sum()
    shares = weights.astype(float).ravel() / weights.sum()
    entropy = -sum(share * np.log(share) for share in shares if share > 0)
    shown = header["shown"]
    assert shown == header["heads"][head]
    assert shown["distance"] == pytest.approx(distance, rel=1e-4)
    assert shown["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert rows.in_block is not None
    assert shown["beside_block"] == pytest.approx(float(weights.sum() - rows.in_block[0, head]), abs=1e-5)
    assert shown["padding"] == pytest.approx(float(rows.outside[0, head]), abs=1e-6)
    assert shown["tokens"] is None


def test_mean_of_heads_and_tokens(served: Serving) -> None:
    told = look(served, "vil_nano_32", picture(32, 32))
    layer = told["layers"][0]
    assert layer["tokens"] > 0
    _, data, _ = served.ask(f"/api/attention/{told['record']}?layer={layer['name']}&row=3&column=3")
    header, _ = attention_of(data)
    assert len(header["heads"]) == layer["heads"]
    for name in ("distance", "tokens", "beside_block"):
        assert header["shown"][name] == pytest.approx(np.mean([head[name] for head in header["heads"]]))
    assert 0 < header["shown"]["tokens"] < 1


def test_late_questions_are_not_answered(served: Serving) -> None:
    told = look(served, key_of(served, "animals"), picture(32, 32))
    path = f"/api/attention/{told['record']}?layer={told['layers'][0]['name']}&row=1&column=1&page=late"
    assert served.ask(f"{path}&number=7")[0] == 200
    assert served.ask(f"{path}&number=6")[0] == 204
    assert served.ask(f"{path}&number=8")[0] == 200


def test_changed_block_and_halo(served: Serving) -> None:
    """Weights stay, tables are interpolated, frames and cost follow."""
    key, image = key_of(served, "animals"), picture(64, 64)
    before = look(served, key, image)
    after = look(served, key, image, changes={"block_size": 8, "halo_size": 1})
    assert [(dial["name"], dial["own"][0]) for dial in before["dials"]] == [("block_size", 4), ("halo_size", 2)]
    frames = {}
    for told in (before, after):
        layer = told["layers"][0]["name"]
        _, data, _ = served.ask(f"/api/attention/{told['record']}?layer={layer}&row=30&column=30")
        frames[told["record"]] = attention_of(data)[0]["frames"]
    # Pixels of the map are 2 wide: blocks of 4 are 8 pixels with 4 around, blocks of 8 are 16 with 2 around.
    assert frames[before["record"]] == {"block": [[24, 24], [32, 32]], "seen": [[20, 20], [32, 32]]}
    assert frames[after["record"]] == {"block": [[16, 16], [32, 32]], "seen": [[14, 14], [32, 32]]}

    subject = served.workbench.looked(after["record"]).subject
    own = served.workbench.looked(before["record"]).subject.model.state_dict()
    for name, tensor in subject.model.state_dict().items():
        if "_table" not in name:
            torch.testing.assert_close(tensor, own[name], rtol=0, atol=0)
    cost = served.told("/api/cost", {"key": key, "changes": after["changes"], "input": after["input"]})
    options = {"num_classes": len(ANIMALS), "in_chans": 1}
    for told, changes in ((cost["before"], {}), (cost["after"], {"block_size": 8, "halo_size": 1})):
        model = halonet.create_model("halonet_nano_32", **options, **changes)
        total = count_costs(model, input_size=(1, 32, 32)).total()
        assert (told["parameters"], told["multiply_adds"]) == (total.parameters, total.multiply_adds)
    first = before["layers"][0]["name"]
    assert (cost["before"]["keys"][first], cost["after"]["keys"][first]) == (8**2, 10**2)
    assert 0 < cost["before"]["attention"] < cost["after"]["attention"] < cost["after"]["multiply_adds"]


def test_classes(served: Serving) -> None:
    told = look(served, key_of(served, "animals"), picture(32, 32))
    classes = served.told(f"/api/ask?record={told['record']}", method="POST")["classes"]
    assert len(classes) == 5
    assert {one["name"] for one in classes} < set(ANIMALS)
    assert sorted((one["probability"] for one in classes), reverse=True) == [one["probability"] for one in classes]


def test_objects(served: Serving) -> None:
    image = picture(50, 70)
    told = look(served, key_of(served, "shapes"), image)
    assert told["view"] == [50, 70]
    # The longer side to 64: 45 x 64, filled up to 64 x 64.
    assert told["input"] == [3, 64, 64]
    assert told["scale"] == pytest.approx([45 / 50, 64 / 70])
    assert served.refused(f"/api/answer/{told['record']}").startswith("picture")
    found = served.told(f"/api/ask?record={told['record']}", method="POST")["objects"]
    assert found
    for one in found:
        x0, y0, x1, y1 = one["box"]
        assert one["name"] in SHAPES
        assert 0 <= x0 <= x1 <= 70
        assert 0 <= y0 <= y1 <= 50
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True)
    drawings = []
    for threshold in (0, 1):
        _, data, _ = served.ask(f"/api/answer/{told['record']}?threshold={threshold}")
        drawings.append(np.asarray(Image.open(io.BytesIO(data))))
    assert drawings[0].shape[:2] == (8 * 50, 8 * 70)
    np.testing.assert_array_equal(drawings[1], image.repeat(8, 0).repeat(8, 1))
    assert (drawings[0] != drawings[1]).any()
    assert "threshold" in served.refused(f"/api/answer/{told['record']}?threshold=2")


def test_disparity_of_a_sample(served: Serving) -> None:
    left = served.told("/api/samples", {"name": "stereo pair", "index": 3})
    wish = {"key": "fa_psmnet_nano", "picture": left["id"], "right": left["right"], "side": 64}
    told = served.told("/api/look", wish)
    assert told["view"] == [64, 128]
    assert [layer["mechanism"] for layer in told["layers"]] == ["factorized"]
    span = served.told(f"/api/ask?record={told['record']}", method="POST")["disparity"]
    assert 0 <= span["least"] <= span["mean"] <= span["most"] < 32
    _, data, _ = served.ask(f"/api/answer/{told['record']}")
    assert Image.open(io.BytesIO(data)).size == (128, 64)
    other = served.told("/api/pictures", png_of(picture(20, 20)))
    assert "one size" in served.refused("/api/look", {**wish, "right": other["id"]})


def test_networks_without_attention_still_answer(served: Serving) -> None:
    told = look(served, "psmnet_nano", picture(32, 48))
    assert told["layers"] == []
    assert "without any" in told["why"]
    assert "disparity" in served.told(f"/api/ask?record={told['record']}", method="POST")


def test_sides_and_whole_pictures(served: Serving) -> None:
    key, image = key_of(served, "animals"), picture(60, 90)
    assert look(served, key, image)["view"] == [32, 32]
    assert look(served, key, image, side=48)["view"] == [48, 48]
    assert look(served, key, image, side=40, whole=True)["view"] == [40, 60]
    sent = served.told("/api/pictures", png_of(np.zeros((1024, 4096, 3), np.uint8)))
    assert (sent["width"], sent["height"], sent["given"]) == (2048, 512, [4096, 1024])


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/api/pictures", b"not a picture", "not an image"),
        ("/api/pictures", b"", "the file is empty"),
        ("/api/samples", {"name": "photo"}, "expected one of digit"),
        ("/api/samples", {"name": "digit", "index": -1}, "at least 0"),
        ("/api/look", {"key": "halonet_nano_23", "picture": 1}, "did you mean"),
        ("/api/look", {"key": "halonet_nano_32", "picture": "x"}, "picture"),
        ("/api/look", {"key": "file /etc/passwd", "picture": 1}, "unknown model"),
        ("/api/cost", {"key": "halonet_nano_32", "changes": {"block_size": 99}, "input": [3, 32, 32]}, "2 to 32"),
        ("/api/cost", {"key": "halonet_nano_32", "changes": {"block_size": 5}, "input": [3, 32, 32]}, "in steps of 2"),
        ("/api/cost", {"key": "halonet_nano_32", "input": [3, 1000000000, 32]}, "1 to 65536"),
        ("/api/cost", {"key": "halonet_nano_32", "input": [1, 32, 32]}, "input: halonet_nano_32 reads 3 channels"),
        ("/api/cost", {"key": "fasterrcnn/resnet50", "input": [4, 32, 32]}, "input: fasterrcnn/resnet50 reads 3"),
        ("/api/cost", {"key": "psmnet_nano", "input": [1, 32, 32]}, "reads 3 channels, height and width, got (1, 32"),
        ("/api/cost", {"key": "vil_nano_32", "changes": {"block_size": 4}, "input": [3, 32, 32]}, "has window"),
        ("/api/cost", {"key": "psmnet_nano", "changes": {"halo_size": 1}, "input": [3, 32, 32]}, "has nothing"),
    ],
)
def test_mistakes_are_told_plainly(
    served: Serving, path: str, body: Any, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if path == "/api/look" and body["picture"] == 1:
        body = {**body, "picture": served.told("/api/samples", {"name": "drawn scene"})["id"]}
    assert told in served.refused(path, body)
    assert capfd.readouterr().err == ""  # none of them is a defect, whose traceback the terminal shows


def test_layers_pixels_heads_and_records_that_there_are_not(served: Serving) -> None:
    told = look(served, key_of(served, "animals"), picture(32, 32))
    path, layer = f"/api/attention/{told['record']}", told["layers"][0]["name"]
    assert "layer" in served.refused(f"{path}?layer=head.fc&row=1&column=1")
    assert "inside 32 x 32" in served.refused(f"{path}?layer={layer}&row=32&column=1")
    assert "head" in served.refused(f"{path}?layer={layer}&row=1&column=1&head=4")
    assert "no longer" in served.refused(f"/api/attention/999999?layer={layer}&row=1&column=1", status=410)


def test_paths_methods_and_bodies_that_there_are_not(served: Serving) -> None:
    assert served.refused("/api/nothing", status=404) == "Not Found"
    assert served.refused("/api/look", status=405) == "Method Not Allowed"
    assert served.refused("/api/look", b"\xff\xfe") == "body: JSON decode error"
    assert served.refused("/api/look", [1]).startswith("body: ")


def test_a_strip_too_narrow_for_a_square(served: Serving) -> None:
    strip = picture(1, 2048)
    sent = served.told("/api/pictures", png_of(strip))
    message = served.refused("/api/look", {"key": "halonet_nano_32", "picture": sent["id"], "side": 512})
    assert message.startswith("picture: 2048 x 1 pixels are too narrow for a square of 512 pixels")


def test_answers_that_are_no_numbers(served: Serving, tmp_path: Path) -> None:
    """Weights of a training that diverged."""
    choice = of_weights(write_classifier(tmp_path / "lost.safetensors", broken=True))
    served.workbench.choices[choice.key] = choice
    told = look(served, choice.key, picture(32, 32))
    assert "finite numbers" in served.refused(f"/api/ask?record={told['record']}", method="POST")
    where = f"layer={told['layers'][-1]['name']}&row=1&column=1"
    assert "finite numbers" in served.refused(f"/api/attention/{told['record']}?{where}")


def test_defects_are_not_shown(
    served: Serving, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret details")

    monkeypatch.setattr(served.workbench, "look", broken)
    message = served.refused("/api/look", {"key": "halonet_nano_32", "picture": 1})
    assert "inside halonet (RuntimeError)" in message
    assert "secret" not in message
    assert "secret details" in capfd.readouterr().err
    assert served.told("/api/doing") == {"doing": ""}


def test_ports() -> None:
    with listen(0) as bound:
        port = bound.getsockname()[1]
        assert bound.getsockname()[0] == "127.0.0.1"
        with pytest.raises(ValueError, match=f"port: {port} is taken"):
            listen(port)
    with pytest.raises(ValueError, match="expected 0 to 65535"):
        listen(70000)
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", PORT))
            taken.listen()
        except OSError:
            pass  # somebody has it already, which is the case that is meant
        with listen(None) as following:
            assert PORT < following.getsockname()[1] < PORT + 50


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the address, answers, and ends with Ctrl-C, also within a model; what is wrong is one line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "halonet", "explore", "--no-open", "--port"]
    process = subprocess.Popen(
        [*command, "0", "--model", "halonet_nano_32"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    address = line.split()[2]
    assert address.startswith("http://127.0.0.1:")
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    asking = Serving(port, None)  # type: ignore[arg-type]
    told = asking.told("/api/start")
    assert told["first"]["key"] == "halonet_nano_32"
    assert main(["explore", "--no-open", "--port", str(port)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"halonet: error: port: {port} is taken: give another one by --port, or none for the next that is free"
    ]
    wish = {"key": "halonet_nano_32", "picture": told["first"]["picture"]["id"], "side": 2048}

    def ask() -> None:
        with suppress(OSError):  # it may be cut off
            asking.ask("/api/look", wish)

    threading.Thread(target=ask, daemon=True).start()
    while not asking.told("/api/doing")["doing"].startswith("running"):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest.split(), errors) == (0, ["ended"], "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing.png"], "cannot read image missing.png"),
        (["--weights", "missing.safetensors"], "no weights file"),
        (["--model", "halonet_h99"], "unknown model 'halonet_h99'; did you mean halonet_h"),
        (["--img-size", "2049"], "img_size must be from 1 to 2048 pixels, got 2049"),
        (["--port", "x"], "invalid int value"),
        (["--host", "0.0.0.0"], "unrecognized arguments"),
    ],
)
def test_command_line_mistakes(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "--no-open", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_foreign_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", metadata={"note": json.dumps("none of ours")})
    assert main(["explore", "--no-open", "--weights", str(tmp_path / "other.safetensors")]) == 2
    assert "does not say which model it holds" in capsys.readouterr().err
