"""Serving the page on this machine alone."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from halonet.explore.app import create_app
from halonet.explore.choices import Choice, of_name, of_weights
from halonet.explore.pictures import MOST_SIDE, add_sample
from halonet.explore.workbench import Workbench

HOST = "127.0.0.1"
PORT = 7861
_TRIED = 50  # ports after it, where none was asked for
FIRST_MODEL, FIRST_SAMPLE = "halonet_h0_256", "drawn scene"


def explore(
    image: Path | None = None,
    *,
    weights: Sequence[Path] = (),
    models: Sequence[str] = (),
    img_size: int | None = None,
    port: int | None = None,
    open_browser: bool = True,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        image: a picture to begin with; a drawn scene if None.
        weights: files that `halonet fit` wrote, offered first.
        models: names to offer next. The first of all is opened; `FIRST_MODEL` if there are none.
        img_size: side of the picture that a model reads at first; None: its own.
        port: of 127.0.0.1; None: 7861, or the next free one.
        open_browser: whether the page is shown at once.

    Raises:
        ValueError: a picture, file or name that is none, a side out of range, or a port that is taken.
    """
    if img_size is not None and not 1 <= img_size <= MOST_SIDE:
        raise ValueError(f"img_size must be from 1 to {MOST_SIDE} pixels, got {img_size}")
    choices = [*map(of_weights, weights), *map(of_name, models)]
    workbench = Workbench(choices)
    first = first_view(workbench, choices, image, img_size=img_size)
    with listen(port) as bound:
        port = bound.getsockname()[1]
        address = f"http://{HOST}:{port}/"
        print(f"halonet explore: {address}  (this machine alone; Ctrl-C ends it)", flush=True)
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        with suppress(KeyboardInterrupt):  # uvicorn tells Ctrl-C on, or returns where it came twice or early
            server_of(workbench, port=port, first=first).run(sockets=[bound])
        print("\nended", flush=True)


def first_view(
    workbench: Workbench, choices: Sequence[Choice], image: Path | None, *, img_size: int | None = None
) -> dict[str, Any]:
    """What the page opens with."""
    if image is None:
        picture = add_sample(workbench.pictures, FIRST_SAMPLE)
    else:
        try:
            data = image.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read image {image}: {error.strerror or error}") from error
        picture = workbench.pictures.read(data, image.name)
    workbench.pictures.lasting = picture.id  # the page opens with it whenever it is loaded
    key = choices[0].key if choices else FIRST_MODEL
    return {"key": key, "picture": picture.to_dict(), "side": img_size}


def server_of(workbench: Workbench, *, port: int, first: dict[str, Any] | None = None) -> uvicorn.Server:
    """A server whose `run` wants the socket of `listen`."""
    app = create_app(workbench, port=port, first=first)
    # That Ctrl-C waits for no answer is meant, and no error.
    logging.getLogger("uvicorn.error").addFilter(_is_no_end)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    return uvicorn.Server(config)


def _is_no_end(record: logging.LogRecord) -> bool:
    return "timeout graceful shutdown exceeded" not in str(record.msg)


def listen(port: int | None) -> socket.socket:
    """A socket at a port of 127.0.0.1. port: None: `PORT`, or the next that is free; 0: any.

    Raises:
        ValueError: the port is taken, or is none.
    """
    tried = [port] if port is not None else range(PORT, PORT + _TRIED)
    for candidate in tried:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((HOST, candidate))
            bound.listen(128)
        except (OSError, OverflowError) as error:
            bound.close()
            if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                told = error.strerror if isinstance(error, OSError) else "expected 0 to 65535"
                raise ValueError(f"port: {candidate}: {told}") from error
            continue
        return bound
    if port is not None:
        raise ValueError(f"port: {port} is taken: give another one by --port, or none for the next that is free")
    raise ValueError(f"port: {PORT} to {PORT + _TRIED - 1} are all taken: give another one by --port")
