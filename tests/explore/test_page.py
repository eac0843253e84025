"""The page in a real browser: what one does on it, and that nothing leaves this machine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.explore.paging import drop, pick, settled
from tests.explore.serving import Serving, picture, png_of
from tests.explore.test_server import key_of

SUM = """() => {
  const canvas = document.getElementById("canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 0;
  for (let place = 0; place < pixels.length; place += 1) sum = (sum * 31 + pixels[place]) % 1000003;
  return sum;
}"""


def number_of(page: Any) -> int:
    """Of the record that is shown."""
    return int(page.get_attribute("body", "data-record"))


def told_by(page: Any, query: str) -> Any:
    """The answer about a pixel as the server gives it, asked from within the page."""
    return page.evaluate(
        """async (query) => {
          const { attention } = await import("/static/server.js");
          const { values, ...told } = await attention(query.record, query.question);
          return told;
        }""",
        query,
    )


def test_drop_hover_and_pin(page: Any, served: Serving) -> None:
    """A dropped picture, a layer, a head, the mouse: the canvas changes, the figures are the record's."""
    file = png_of(picture(64, 64))
    drop(page, (file, "mine.png"))
    page.wait_for_selector("#picture-name:text('mine.png: 64 x 64')")
    settled(page)
    page.select_option("#layer", index=1)
    page.select_option("#head", "2")
    box = page.locator("#canvas").bounding_box()
    assert box["width"] == pytest.approx(box["height"], abs=2)
    sums = []
    for share in (0.2, 0.7):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.4 * box["height"])
        page.wait_for_selector(f"#pixel:text('row 12, column {int(share * 32)}')")
        sums.append(page.evaluate(SUM))
    assert sums[0] != sums[1]
    number = number_of(page)
    layer = list(served.workbench.looked(number).record.layers.values())[1]  # type: ignore[union-attr]
    question = {"layer": layer.name, "row": 12, "column": 22, "head": 2, "page": "test"}
    told = told_by(page, {"record": number, "question": question})
    assert page.text_content("#figure-distance") == f"{told['shown']['distance']:.1f} px"
    assert page.text_content("#figure-entropy") == f"{told['shown']['entropy']:.2f} nats"
    assert page.text_content("#figure-beside_block") == f"{100 * told['shown']['beside_block']:.1f} %"
    assert page.locator("#bars .bar").count() == layer.num_heads
    assert page.text_content("#bars .chosen span:first-child") == "3"
    rows = layer.at([(12, 22)])
    assert told["shown"]["padding"] == pytest.approx(float(rows.outside[0, 2]), abs=1e-6)

    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#pixel:text('kept')")
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.wait_for_timeout(200)
    assert page.text_content("#pixel") == "row 12, column 22, kept"
    page.keyboard.press("Escape")
    page.mouse.move(box["x"] + 6, box["y"] + 6)
    page.wait_for_selector("#pixel:text-is('row 0, column 0')")


def test_keyboard_and_names(page: Any) -> None:
    """Everything has a name, the picture is reached and moved over by keys."""
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, select, button")].filter((one) =>
          one.type !== "radio" && !one.labels?.length && !one.getAttribute("aria-label") && !one.textContent.trim()
        ).map((one) => one.id)"""
    )
    assert nameless == []
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#pixel:text-is('row 16, column 18')")  # a pixel of the map is two of the picture
    page.keyboard.press("Shift+ArrowUp")
    page.wait_for_selector("#pixel:text-is('row 8, column 18')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#pixel:text('kept')")
    page.wait_for_selector("#spoken:text('Row 8, column 18, kept: mean distance')", state="attached")


def test_block_and_halo_change_cost_and_frames(page: Any, served: Serving) -> None:
    cells = page.locator("#cost tbody tr")
    assert cells.last.locator("td").all_text_contents() == ["64", "64"]
    before = page.evaluate(SUM)
    page.fill("#block_size-field", "8")
    page.fill("#halo_size-field", "4")
    page.wait_for_selector("#cost tbody tr:last-child td:text-is('256')")
    while served.workbench.looked(number_of(page)).subject.changes != {"block_size": 8, "halo_size": 4}:
        page.wait_for_timeout(50)
    settled(page)
    assert page.input_value("#block_size-range") == "8"
    assert page.evaluate(SUM) != before
    assert page.locator("#cost td.more").count() >= 3
    page.click("#undo")
    page.wait_for_selector("#cost tbody tr:last-child td:nth-child(3):text-is('64')")
    assert page.locator("#cost td.more").count() == 0


def test_a_dial_is_dragged_on_after_a_pause(page: Any) -> None:
    """What was looked at meanwhile leaves the slider in one's hand."""
    slider = page.locator("#block_size-range")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    height = box["y"] + box["height"] / 2
    record = page.get_attribute("body", "data-record")
    page.mouse.move(box["x"] + 0.24 * box["width"], height)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4 * box["width"], height, steps=3)
    page.wait_for_selector(f"body:not([data-record='{record}'])")
    settled(page)
    before = int(slider.input_value())
    page.mouse.move(box["x"] + 0.8 * box["width"], height, steps=3)
    assert int(slider.input_value()) > before
    page.mouse.up()


def test_classes_objects_and_disparity(page: Any, served: Serving) -> None:
    assert page.locator("#answer .answer-row").count() == 5
    assert "weights of" in page.text_content("#weights")
    assert page.locator("#answer .random").count() == 0

    pick(page, "shapes.safetensors")
    page.check("input[value=answer]")
    page.focus("#threshold")
    page.keyboard.press("Home")
    page.wait_for_selector("#answer .swatch", state="attached")
    page.wait_for_selector(f"body[data-drawn='{number_of(page)} 0.05']")
    drawn = page.evaluate(SUM)
    page.check("input[value=plain]")
    assert page.evaluate(SUM) != drawn
    assert "surer than 5 %" in page.text_content("#answer")

    pick(page, "fa_psmnet_nano")
    before = number_of(page)
    page.fill("#side", "64")
    page.keyboard.press("Tab")
    page.wait_for_selector(f"body:not([data-record='{before}'])")
    before = number_of(page)
    page.click("#samples button:text('stereo pair')")
    page.wait_for_selector("#right-name:text('the right picture is there')")
    page.wait_for_selector(f"body:not([data-record='{before}'])")
    page.wait_for_selector(f"body[data-drawn='{number_of(page)} 0.05']")
    assert "disparity" in page.text_content("#answer")
    assert page.locator("#answer .random").count() == 1
    page.check("input[value=answer]")
    shown = page.evaluate(SUM)
    page.check("input[value=plain]")
    assert page.evaluate(SUM) != shown


def test_mistakes_are_told(page: Any, complaints: list[str]) -> None:
    drop(page, (b"words, no pixels", "letter.txt"))
    page.wait_for_selector("#error:text('cannot read image letter.txt: not an image')")
    page.click("#samples button:text('digit')")
    page.wait_for_selector("#error", state="hidden")
    assert [complaint.split(":")[0] for complaint in complaints] == ["Failed to load resource"]
    complaints.clear()


def test_narrow_pages_have_no_overlaps(page: Any) -> None:
    for width in (1280, 800, 400):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(150)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        boxes = page.evaluate(
            """() => [...document.querySelectorAll("fieldset, .stage, .card")].filter((one) => one.offsetParent)
              .map((one) => one.getBoundingClientRect()).map((box) => [box.top, box.left, box.bottom, box.right])"""
        )
        for place, (top, left, bottom, right) in enumerate(boxes):
            for other in boxes[place + 1 :]:
                apart = other[0] >= bottom or other[2] <= top or other[1] >= right or other[3] <= left
                assert apart, (width, place)


def test_a_page_of_another_site_gets_nothing(browser: Any, served: Serving) -> None:
    """The same server by a name of somebody else's, and a script of another origin."""
    page = browser.new_page()
    page.goto(served.address.replace("127.0.0.1", "localhost"))
    page.wait_for_selector("body[data-ready=yes]")
    refused = page.evaluate(
        """async (address) => {
          try { return (await fetch(`${address}/api/start`)).status; } catch (error) { return error.name; }
        }""",
        served.address,
    )
    assert refused == "TypeError"
    page.close()


def test_weights_of_the_first_model_are_told(page: Any, served: Serving) -> None:
    assert key_of(served, "animals").removeprefix("file ") in page.text_content("#weights")
    pick(page, "vil_nano_32")
    assert "random" in page.text_content("#weights")
    assert "global tokens" in page.text_content("#mechanism")
    assert page.locator("#figure-tokens").count() == 1
