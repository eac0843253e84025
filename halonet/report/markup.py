"""Pieces of a page. Whatever is no `Markup` is text, and is escaped where it is put in."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

# No page may ask anyone for anything, whatever it holds: the browser itself refuses.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"

VOID = ("br", "img")  # elements that have no end


class Markup(str):
    """HTML that stands as it is."""

    __slots__ = ()


def text(value: Any) -> Markup:
    """A value as HTML: `Markup` as it is, anything else as escaped text."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def joined(parts: Iterable[Any], separator: str = "\n") -> Markup:
    """Parts one after the other, empty ones left out."""
    return Markup(separator.join(text(part) for part in parts if part is not None and part != ""))


def element(tag: str, *content: Any, **attributes: Any) -> Markup:
    """`<tag ...>content</tag>`. An attribute that is None is left out; `class_` is class, and _ stands for a dash."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    told = "".join(f' {name}="{html.escape(str(value))}"' for name, value in named.items())
    end = "" if tag in VOID else f"</{tag}>"
    return Markup(f"<{tag}{told}>{joined(content, '')}{end}")


def paragraph(*content: Any, class_: str | None = None) -> Markup:
    """A paragraph."""
    return element("p", *content, class_=class_)


def fold(title: Any, *content: Any) -> Markup:
    """Content that is shown by a click on its title; without JavaScript too."""
    return element("details", element("summary", title), *content)


def bullets(items: Iterable[Any]) -> Markup:
    """A list; nothing for no items."""
    lines = [element("li", item) for item in items]
    return element("ul", *lines) if lines else Markup("")


def facts(rows: Iterable[tuple[Any, Any]]) -> Markup:
    """Names and values, in two columns where there is room."""
    lines = [
        element("div", element("dt", name), element("dd", value)) for name, value in rows if value not in (None, "")
    ]
    return element("dl", *lines, class_="facts") if lines else Markup("")


@dataclass(frozen=True)
class Number:
    """A cell that is sorted by `value` and reads `shown`; None sorts last."""

    value: float | None
    shown: Any


def table(headings: Sequence[Any], rows: Iterable[Sequence[Any]], *, sortable: bool = False) -> Markup:
    """A table that scrolls by itself where the page is narrower. A `Number` is set to the right, as its heading is.

    sortable: a click on a heading sorts by it.
    """
    body = [list(row) for row in rows]
    right = [any(isinstance(row[column], Number) for row in body) for column in range(len(headings))]
    head = [
        element("th", heading, class_="number" if is_right else None, scope="col")
        for heading, is_right in zip(headings, right, strict=True)
    ]
    lines = [
        element("tr", *(_cell(cell, right=is_right) for cell, is_right in zip(row, right, strict=True))) for row in body
    ]
    whole = element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", joined(lines)),
        class_="sortable" if sortable else None,
    )
    return element("div", whole, class_="scroll", tabindex="0")


def _cell(cell: Any, *, right: bool) -> Markup:
    if not isinstance(cell, Number):
        return element("td", cell, class_="number" if right else None)
    finite = cell.value is not None and math.isfinite(cell.value)
    return element("td", cell.shown, class_="number", data_value=repr(float(cell.value or 0)) if finite else None)


def bar(value: float, *, low: float | None = None, high: float | None = None) -> Markup:
    """A share 0 to 1 as a bar, with a thin line over its interval."""
    span = ""
    if low is not None and high is not None:
        span = element("i", style=f"left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%")
    return element("span", element("b", style=f"width:{100 * value:.1f}%"), span, class_="bar", aria_hidden="true")


@dataclass(frozen=True)
class Section:
    """A part of a page. anchor: its name in links; title: its heading."""

    anchor: str
    title: str
    content: Markup

    def render(self) -> Markup:
        return element("section", element("h2", self.title), self.content, id=self.anchor)


def page(title: str, *, head: Markup, sections: Sequence[Section], foot: Markup) -> str:
    """The whole page; sections without content are left out."""
    told = [section for section in sections if section.content]
    links = [element("a", section.title, href=f"#{section.anchor}") for section in told]
    here = resources.files("halonet.report")
    style, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"{element('title', title)}\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{element('header', head)}\n{element('nav', joined(links, ' '), aria_label='Sections')}\n"
        f"{element('main', joined(section.render() for section in told))}\n{element('footer', foot)}\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )
