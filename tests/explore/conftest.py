"""One server for all tests of its routes and its page: models are small, but opening them takes longer than asking."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from halonet.explore.choices import of_name, of_weights
from tests.browser import chromium
from tests.explore.paging import ready
from tests.explore.serving import Serving, serving, write_classifier, write_detector


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("explore")
    files = [write_classifier(folder / "animals.safetensors"), write_detector(folder / "shapes.safetensors")]
    with serving([*map(of_weights, files), of_name("fa_psmnet_nano"), of_name("vil_nano_32")]) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def complaints() -> list[str]:
    """What the browser found wrong with the page."""
    return []


@pytest.fixture
def page(browser: Any, served: Serving, complaints: list[str]) -> Iterator[Any]:
    """An opened page; afterwards, that nothing was wrong with it and that it asked nobody but its server."""
    asked: list[str] = []
    page = browser.new_page(viewport={"width": 1100, "height": 640})
    page.set_default_timeout(60_000)
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served.address)
    ready(page)
    yield page
    page.close()
    assert complaints == []
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {f"127.0.0.1:{served.port}"}
