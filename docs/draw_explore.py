"""Draws the pictures of docs/explore.md: the page of `halonet explore` in a real browser.

python docs/draw_explore.py --digits FILE --detector FILE --stereo FILE [--out FOLDER]        (default: docs/images)

The files are what `halonet fit`, `halonet fit --task detection` and `halonet fit --task stereo` wrote.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser import exploring  # noqa: E402 (a script finds the tests' browser only now)

DESKTOP, NARROW = {"width": 1280, "height": 800}, {"width": 800, "height": 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("digits", "detector", "stereo"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", metavar="FOLDER")
    values = parser.parse_args()
    files = [str(getattr(values, name)) for name in ("digits", "detector", "stereo")]  # as given: they are shown
    with exploring(["--weights", *files], viewport=DESKTOP) as (page, address):
        page.goto(address)
        draw(page, files, values.out)


def draw(page: Any, files: list[str], out: Path) -> None:
    """All pictures, one after the other."""
    page.wait_for_selector("body[data-ready=yes]")
    digits, detector, stereo = files

    for _ in range(3):
        choose(page, lambda: page.click("#samples button:text('drawn scene')"))
    pick(page, "halonet_h0_256")
    page.select_option("#head", "1")
    hover(page, 0.62, 0.42)
    page.screenshot(path=out / "explore_attention.png")

    choose(page, lambda: page.click("#samples button:text('digit')"))
    pick(page, digits)
    page.select_option("#layer", index=2)
    hover(page, 0.45, 0.4)
    choose(page, lambda: page.fill("#halo_size-field", "1"))
    page.select_option("#measure", "beside_block")
    hover(page, 0.46, 0.4)
    page.screenshot(path=out / "explore_halo.png")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size(NARROW)
    hover(page, 0.45, 0.41)
    page.screenshot(path=out / "explore_narrow.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(DESKTOP)

    for _ in range(4):
        choose(page, lambda: page.click("#samples button:text('drawn scene')"))
    pick(page, detector)
    page.check("input[value=answer]")
    page.focus("#threshold")
    for _ in range(4):  # to 30 %
        page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(1000)
    page.screenshot(path=out / "explore_detections.png")

    choose(page, lambda: page.click("#samples button:text('stereo pair')"))
    pick(page, stereo)
    page.check("input[value=answer]")
    page.wait_for_timeout(1000)
    page.screenshot(path=out / "explore_disparity.png")


def choose(page: Any, act: Any) -> None:
    """Do something that makes the model read a picture, and wait until it has answered."""
    before = page.get_attribute("body", "data-record")
    act()
    page.wait_for_selector(f"body:not([data-record='{before}'])")
    page.wait_for_selector("#veil", state="hidden")
    page.wait_for_selector("#answer :not(:text('asking ...'))")
    page.wait_for_selector("#doing:empty", state="attached")


def pick(page: Any, key: str) -> None:
    """Open a model."""

    def act() -> None:
        page.click("#model")
        page.fill("#model", key)
        page.keyboard.press("Enter")

    choose(page, act)


def hover(page: Any, across: float, down: float) -> None:
    """Move over the picture, and wait for the attention."""
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
    page.wait_for_timeout(800)


if __name__ == "__main__":
    main()
