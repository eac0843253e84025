"""A real browser for the tests that look at pages, and where to find it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Of a machine without a screen and without a network: nothing is asked of anyone but the page.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


ROOT = Path(__file__).parents[1]


@contextmanager
def exploring(words: Sequence[str], *, viewport: Any) -> Iterator[tuple[Any, str]]:
    """An empty page of a browser, and the address of `halonet explore WORDS`, which ends with the block."""
    command = [sys.executable, "-m", "halonet", "explore", "--no-open", "--port", "0", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    try:
        address = server.stdout.readline().split()[2]
        with chromium() as browser:
            page = browser.new_page(viewport=viewport)
            page.set_default_timeout(300_000)
            yield page, address
    finally:
        server.terminate()
        server.wait()


@contextmanager
def chromium() -> Iterator[Any]:
    """A started Chromium as a playwright `Browser`; skips, saying why, where there is none.

    With HALONET_BROWSER=required in the environment, as in CI, a missing one fails.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), None) or playwright.chromium.executable_path
        if not os.path.exists(found):
            missing = "no Chromium was found; `make browser` installs one"
            pytest.fail(missing) if os.environ.get("HALONET_BROWSER") == "required" else pytest.skip(missing)
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield browser
        browser.close()
