"""What the pages need to be a site: files from above docs/, and links that a forge follows and a site cannot.

mkdocs calls these functions by their names (mkdocs.yml, `hooks`).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Pages that lie above docs/, and their names in the site.
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# The lessons, each a page with its script, so that a reader of the site alone can read them.
LESSONS = {f"tutorials/{path.name}": f"tutorials/{path.stem}.md" for path in sorted((ROOT / "tutorials").glob("*.py"))}
# What else of the repository has a page.
ALSO = {"README.md": "index.md"}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
IMPORT = re.compile(r"^from (halonet[\w.]*) import (\(.*?\)|.*?)$", re.MULTILINE | re.DOTALL)
# A name that a page of the API documents, with its options.
DOCUMENTED = re.compile(r"^::: (\S+)\n((?: .*\n)*)", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Any, *, config: Any) -> Any:
    """Puts the pages from above docs/ beside the others."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        content = from_root((ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=content))
    for name, page in LESSONS.items():
        files.append(File.generated(config, page, content=lesson((ROOT / name).read_text(encoding="utf-8"), name)))
    return files


def lesson(source: str, name: str) -> str:
    """A script as a page, whole, headed by the first line of its docstring."""
    title = source.lstrip('"').split("\n", 1)[0].rstrip('."')
    about = f"[What it prints](../tutorials.md), on the digits and drawn pictures. The whole of `{name}`:"
    return f"# {title}\n\n{about}\n\n```python\n{source.rstrip()}\n```\n"


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    return for_site(markdown, page.file.src_uri)


def from_root(markdown: str) -> str:
    """A page that lies above docs/ as if it lay in it."""
    return each_link(markdown, lambda text, target: f"[{text}]({moved(target)})")


def moved(target: str) -> str:
    if "://" in target or target.startswith("#"):
        return target
    return target[len("docs/") :] if target.startswith("docs/") else f"../{target}"


def for_site(markdown: str, page: str) -> str:
    """A page of docs/ with its links out of docs/ led to the API's pages, or, where there are none, taken away."""

    def rewrite(text: str, target: str) -> str:
        name, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), name))
        if "://" in name or not name or path.startswith("docs/"):
            return f"[{text}]({target})"
        place = {**PAGES, **LESSONS, **ALSO}.get(path)
        if place is not None:
            up = posixpath.relpath(place, posixpath.dirname(page) or ".")
            return f"[{text}]({up}{'#' + anchor if anchor else ''})"
        documented = api_pages().get(path)
        if documented is not None:
            return f"[{text}]({posixpath.relpath(documented, posixpath.dirname(page) or '.')})"
        return text if path in text.replace("`", "") else f"{text} (`{path}`)"

    return each_link(markdown, rewrite)


def each_link(markdown: str, change: Callable[[str, str], str]) -> str:
    """The text with its links changed, those in blocks of code left alone."""
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(lambda match: change(match[1], match[2]), markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(lambda match: change(match[1], match[2]), markdown[end:])])


@cache
def api_pages() -> dict[str, str]:
    """Where each documented file of the package is told: `halonet/ops/local_attention/api.py` -> `api/ops.md#...`."""
    found = {}
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        for name, options in DOCUMENTED.findall(page.read_text(encoding="utf-8")):
            for file, anchor in files_of(name):
                headless = anchor == name and "show_root_heading: false" in options
                found.setdefault(file, f"api/{page.name}" + ("" if headless else f"#{anchor}"))
    return found


def files_of(name: str) -> Iterator[tuple[str, str]]:
    """The files that a documented name brings to its page, each with an anchor there.

    A package brings the files that its `__init__` takes names from, each at the first of these names.
    """
    path = ROOT.joinpath(*name.split("."))
    if path.with_suffix(".py").exists():
        yield relative(path.with_suffix(".py")), name
    elif (path / "__init__.py").exists():
        yield relative(path), name
        yield relative(path / "__init__.py"), name
        source = (path / "__init__.py").read_text(encoding="utf-8")
        for module, taken in IMPORT.findall(source):
            names = [one for one in re.findall(r"\w+", taken) if not one.isupper()]
            anchor = module.split(".")[-1] if module.split(".")[-1] in names else "".join(names[:1])
            if module.startswith(f"{name}.") and anchor:
                yield from ((file, f"{name}.{anchor}") for file, _ in files_of(module))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
