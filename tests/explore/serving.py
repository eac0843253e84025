"""A server of the page for tests, and what they ask it."""

from __future__ import annotations

import io
import json
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import halonet
from halonet.detection import create_detector, save_detector
from halonet.explore.choices import Choice
from halonet.explore.server import first_view, listen, server_of
from halonet.explore.workbench import Workbench
from halonet.models.checkpoints import save_weights

ANIMALS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")
SHAPES = ("ellipse", "cross")


@dataclass
class Serving:
    """A running server. port: of 127.0.0.1."""

    port: int
    workbench: Workbench

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, path: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers. body: bytes, or what JSON can say; one makes it a POST from the page itself."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        own = {"content-type": "application/json"} if data is not None else {}
        if data is not None or method == "POST":
            own["origin"] = self.address
        request = urllib.request.Request(
            self.address + path, data=data, method=method, headers={**own, **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read(), dict(reply.headers)
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read(), dict(refused.headers)

    def told(self, path: str, body: Any = None, **options: Any) -> Any:
        """The JSON of an answer that is not refused."""
        status, data, _ = self.ask(path, body, **options)
        assert status == 200, (status, data)
        return json.loads(data)

    def refused(self, path: str, body: Any = None, *, status: int = 400, **options: Any) -> str:
        """The plain message of one that is."""
        found, data, _ = self.ask(path, body, **options)
        assert found == status, (found, data)
        message = json.loads(data)["error"]
        assert "\n" not in message
        assert "Traceback" not in message
        return message


@contextmanager
def serving(choices: Sequence[Choice] = (), image: Path | None = None, *, port: int = 0) -> Iterator[Serving]:
    """A server on a free port, or that one, ended with the block."""
    workbench = Workbench(choices)
    first = first_view(workbench, choices, image)
    with listen(port) as bound:
        port = bound.getsockname()[1]
        server = server_of(workbench, port=port, first=first)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
            assert thread.is_alive()
        yield Serving(port, workbench)
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive()


def attention_of(data: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """The header of an answer of attention, and the bytes of its box as an array."""
    (length,) = struct.unpack_from("<I", data)
    told = json.loads(data[4 : 4 + length])
    return told, np.frombuffer(data, np.uint8, offset=4 + length).reshape(told["box"][2:])


def png_of(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def picture(height: int = 40, width: int = 48, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: smooth colours, different everywhere."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def write_classifier(path: Path, *, broken: bool = False) -> Path:
    """Weights of a small HaloNet of seven classes, not trained, as `halonet fit` writes them; broken: all NaN."""
    torch.manual_seed(1)
    model = halonet.create_model("halonet_nano_32", num_classes=len(ANIMALS), in_chans=1)
    if broken:
        for parameter in model.parameters():
            parameter.data.fill_(torch.nan)
    metadata = {"class_names": json.dumps(ANIMALS), "img_size": "32", "in_chans": "1", "mean": "[0.5]", "std": "[0.25]"}
    save_weights(model, path, metadata={**metadata, "crop_pct": "1.0"})
    return path


def write_detector(path: Path) -> Path:
    """The same of a small Mask R-CNN of two categories."""
    torch.manual_seed(1)
    model = create_detector("maskrcnn_halo_nano_128", num_classes=1 + len(SHAPES), min_size=64, max_size=64)
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES, 1)]
    save_detector(model, path, metadata={"categories": json.dumps(categories)})
    return path
