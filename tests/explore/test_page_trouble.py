"""The page where things go wrong, and by finger and keys alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from halonet.explore.choices import of_name
from tests.explore.paging import drop, pick, ready, settled
from tests.explore.serving import Serving, picture, png_of, serving
from tests.explore.test_server import key_of


@pytest.fixture
def phone(browser: Any, served: Serving) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(served.address)
    ready(page)
    yield page
    context.close()


class Finger:
    """One that is put on the page, drawn along and lifted."""

    def __init__(self, page: Any) -> None:
        self.session = page.context.new_cdp_session(page)

    def at(self, kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": x, "y": y} for x, y in points]
        self.session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": touches})


def test_a_finger_shows_attention(phone: Any) -> None:
    """Where it is put, and along its way; the page below it does not scroll meanwhile."""
    box, finger = phone.locator("#canvas").bounding_box(), Finger(phone)
    places = [(box["x"] + share * box["width"], box["y"] + share * box["height"]) for share in (0.2, 0.45, 0.7)]
    finger.at("Start", places[0])
    phone.wait_for_selector("#pixel:text('row 6, column 6')")
    finger.at("Move", places[1])
    phone.wait_for_selector("#pixel:text('row 14, column 14')")
    finger.at("Move", places[2])
    phone.wait_for_selector("#pixel:text('row 22, column 22')")
    finger.at("End")
    phone.wait_for_timeout(100)
    assert phone.text_content("#pixel") == "row 22, column 22, kept"
    assert phone.evaluate("scrollY") == 0


def test_a_finger_scrolls_the_models(phone: Any) -> None:
    """It takes none of them; a tap does."""
    record = phone.get_attribute("body", "data-record")
    phone.tap("#model")
    phone.locator("#model-list").scroll_into_view_if_needed()
    box, finger = phone.locator("#model-list").bounding_box(), Finger(phone)
    x, y = box["x"] + 60, box["y"] + 0.8 * box["height"]
    finger.at("Start", (x, y))
    for step in range(1, 9):
        finger.at("Move", (x, y - 20 * step))
        phone.wait_for_timeout(16)
    finger.at("End")
    phone.wait_for_timeout(400)
    assert phone.evaluate("document.getElementById('model-list').scrollTop") > 50
    assert phone.get_attribute("body", "data-record") == record
    assert phone.locator("#doing").text_content() == ""
    phone.evaluate("document.getElementById('model-list').scrollTop = 0")
    phone.tap("#model-list li:has-text('vil_nano_32')")
    phone.wait_for_selector(f"body:not([data-record='{record}'])")
    assert phone.input_value("#model") == "vil_nano_32"


def test_keys_in_the_list_of_models(page: Any, served: Serving) -> None:
    title = page.input_value("#model")
    assert "/" in title  # as a pair KIND/BACKBONE has it, which may be typed
    record = page.get_attribute("body", "data-record")
    page.focus("#model")
    page.keyboard.press("Enter")  # the list is closed
    page.fill("#model", "no such model")
    for key in ("ArrowDown", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    page.wait_for_timeout(200)
    assert page.input_value("#model") == title
    assert not page.is_visible("#error")
    assert page.get_attribute("body", "data-record") == record
    page.keyboard.press("ArrowDown")  # opens the list at the one that is shown
    page.keyboard.press("ArrowUp")  # before the first is the last
    names = [model["name"] for model in served.workbench.catalog]
    assert page.text_content(f"#{page.get_attribute('#model', 'aria-activedescendant')}").startswith(names[-1])
    page.keyboard.press("Escape")


def test_what_is_dropped_and_no_single_picture(page: Any) -> None:
    name = page.text_content("#picture-name")
    one, other = ((png_of(picture(seed=seed)), f"{seed}.png") for seed in (1, 2))
    drop(page, one, other)
    page.wait_for_selector("#error:text('2 files were dropped: one picture at a time')")
    drop(page)
    page.wait_for_selector("#error:text('no file was dropped')")
    assert page.text_content("#picture-name") == name
    drop(page, other)
    page.wait_for_selector("#picture-name:text('2.png: 48 x 40')")
    page.wait_for_selector("#error", state="hidden")
    settled(page)


def test_files_that_cannot_be_sent(page: Any) -> None:
    """Told without the server: it would end the connection of a file that is too large while it is sent."""
    told = page.evaluate(
        """async () => {
          const { sendPicture } = await import("/static/server.js");
          const gone = { name: "folder", size: 4096, arrayBuffer: () => Promise.reject(new DOMException("gone")) };
          const files = [[new File([new Uint8Array(2 ** 20 + 1)], "large.png"), 2 ** 20], [gone, 2 ** 20]];
          return Promise.all(files.map((given) => sendPicture(...given).catch((error) => error.message)));
        }"""
    )
    assert told[0] == "large.png: a picture may have 1 MiB at most"
    assert told[1] == "cannot read folder: a folder, or a file that is no longer there"


def test_the_picture_given_last_is_shown(page: Any) -> None:
    """Also where one given before it takes longer to arrive."""
    held: list[Any] = []
    page.route("**/api/pictures", lambda route: route.continue_() if held else held.append(route))
    drop(page, (png_of(picture(90, 80)), "large.png"))
    while not held:
        page.wait_for_timeout(20)
    drop(page, (png_of(picture(20, 30)), "small.png"))
    page.wait_for_selector("#picture-name:text('small.png')")
    with page.expect_response("**/api/pictures"):
        held[0].continue_()
    page.wait_for_timeout(200)
    settled(page)
    assert page.text_content("#picture-name") == "small.png: 30 x 20"
    page.unroute("**/api/pictures")


def test_what_cannot_be_read_is_not_mixed_up_with_what_was(page: Any, complaints: list[str]) -> None:
    """No figures of the picture before under the name of one that the model does not read."""
    page.fill("#side", "512")
    page.keyboard.press("Tab")
    settled(page)
    drop(page, (png_of(picture(1, 2048)), "strip.png"))
    page.wait_for_selector("#veil:text('not read: picture: 2048 x 1 pixels are too narrow')")
    assert page.is_visible("#error")
    assert not page.is_visible(".told")
    assert page.is_disabled("#layer")
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    page.fill("#side", "32")
    page.keyboard.press("Tab")
    settled(page)
    assert page.is_visible(".told")
    assert not page.is_visible("#error")
    assert page.is_enabled("#layer")
    assert [complaint.split(":")[0] for complaint in complaints] == ["Failed to load resource"]
    complaints.clear()


def test_a_dial_and_then_another_model(page: Any, served: Serving) -> None:
    """Nothing is asked of the new model about the old one's dials or channels: that would be a complaint."""
    page.fill("#block_size-field", "8")
    pick(page, "vil_nano_32")
    page.wait_for_timeout(500)
    settled(page)
    assert page.locator("#dials input[type=number]").count() == 1
    pick(page, key_of(served, "animals"))
    assert page.input_value("#block_size-field") == "4"
    page.fill("#block_size-field", "99")
    page.keyboard.press("Tab")
    page.wait_for_selector("#error:text('block: expected 2 to 32 in steps of 2 pixels')")
    assert page.input_value("#block_size-field") == "4"


def test_a_server_that_ends_and_comes_back(browser: Any) -> None:
    """The page says so, and goes on by itself with its own picture."""
    nano = [of_name("halonet_nano_32")]
    page = browser.new_page(viewport={"width": 1100, "height": 640})
    page.set_default_timeout(30_000)
    try:
        with serving(nano) as first:
            page.goto(first.address)
            ready(page)
            drop(page, (png_of(picture(50, 50)), "mine.png"))
            page.wait_for_selector("#picture-name:text('mine.png')")
            settled(page)
            before = page.get_attribute("body", "data-record")
            seen = first.workbench.looked(int(before)).reading.view.tobytes()
        box = page.locator("#canvas").bounding_box()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
        page.wait_for_selector("#error:text('no longer answers')")
        with serving([*nano, of_name("vil_nano_32")], port=first.port) as second:
            page.wait_for_selector(f"body:not([data-record='{before}'])")
            settled(page)
            assert not page.is_visible("#error")
            assert page.text_content("#picture-name") == "mine.png: 50 x 50"
            looked = second.workbench.looked(int(page.get_attribute("body", "data-record")))
            assert looked.reading.view.tobytes() == seen
            page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.3 * box["height"])
            page.wait_for_selector("#pixel:text('column 22')")
    finally:
        page.close()


def test_a_server_that_ends_while_it_reads_a_picture(page: Any, complaints: list[str]) -> None:
    """It still answers, but not with what was asked."""
    before = page.get_attribute("body", "data-record")
    page.route("**/api/look?*", lambda route: route.fulfill(status=503, json={"error": "ended"}), times=1)
    page.check("#whole")
    page.wait_for_selector("#veil:text('waiting for halonet explore')")
    page.wait_for_selector("#error:text('no longer answers')")
    page.wait_for_selector(f"body:not([data-record='{before}'])")
    settled(page)
    assert not page.is_visible("#error")
    assert [complaint.split(":")[0] for complaint in complaints] == ["Failed to load resource"]
    complaints.clear()
