"""Photographs pages of `halonet report` in a real browser, for docs/report.md.

python docs/draw_report.py RUN STUDY [FOLDER]        (default: docs/images)

RUN is the folder of `halonet fit` without options, STUDY of `halonet study halonet_appendix_f`, whatever its length.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from halonet.report import write_report  # noqa: E402
from tests.browser import chromium  # noqa: E402

WIDTH, HEIGHT = 1080, 1230  # pixels of the window; a phone is 400 wide


def main() -> None:
    run, study, *rest = map(Path, sys.argv[1:])
    out = rest[0] if rest else ROOT / "docs" / "images"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        of_run = write_report([run], Path(folder) / "run.html")
        of_study = write_report([study], Path(folder) / "study.html")
        page = opened(browser, of_run, scheme="light")
        page.screenshot(path=out / "report_digits.png")
        page = opened(browser, of_run, scheme="dark")
        boxes = [page.locator(f"#{name}").bounding_box() for name in ("samples", "confusion")]
        top, bottom = boxes[0]["y"] - 14, boxes[1]["y"] + boxes[1]["height"] + 14
        clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top}
        page.screenshot(path=out / "report_digits_dark.png", full_page=True, clip=clip)
        page = opened(browser, of_study, scheme="light")
        page.screenshot(path=out / "report_study.png")


def opened(browser: Any, path: Path, *, scheme: str) -> Any:
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
    page.goto(path.as_uri())
    return page


if __name__ == "__main__":
    main()
