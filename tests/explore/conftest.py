"""One server for all tests of its routes and its page: models are small, but opening them takes longer than asking."""

from collections.abc import Iterator

import pytest

from halonet.explore.choices import of_name, of_weights
from tests.explore.serving import Serving, serving, write_classifier, write_detector


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("explore")
    files = [write_classifier(folder / "animals.safetensors"), write_detector(folder / "shapes.safetensors")]
    with serving([*map(of_weights, files), of_name("fa_psmnet_nano"), of_name("vil_nano_32")]) as running:
        yield running
