"""What tests do on the page."""

from __future__ import annotations

import base64
from typing import Any

# The page forbids the evaluation of strings, which playwright's waiting for functions needs: selectors are waited for.
DROP = """(given) => {
  const files = new DataTransfer();
  for (const [data, name, type] of given) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    files.items.add(new File([bytes], name, { type }));
  }
  document.getElementById("frame").dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true }));
}"""


def drop(page: Any, *files: tuple[bytes, str]) -> None:
    """Files with these bytes and names are dropped on the picture."""
    page.evaluate(DROP, [[base64.b64encode(data).decode(), name, "image/png"] for data, name in files])


def ready(page: Any) -> None:
    page.wait_for_selector("body[data-ready=yes]")
    settled(page)


def settled(page: Any) -> None:
    """Nothing is being done any more: the picture is read, and the model has answered."""
    page.wait_for_selector("#veil", state="hidden")
    page.wait_for_selector("#answer :not(:text('asking ...'))")
    page.wait_for_selector("#cost td")


def pick(page: Any, words: str) -> None:
    before = page.get_attribute("body", "data-record")
    page.click("#model")
    page.fill("#model", words)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"body:not([data-record='{before}'])")
    settled(page)
