"""The files a study leaves: results.json, results.md, results.png."""

from pathlib import Path

from halonet.files import replacing
from halonet.studies.plot import plot_results
from halonet.studies.report import to_json, to_markdown, to_text
from halonet.studies.results import Results

JSON, MARKDOWN, PICTURE = "results.json", "results.md", "results.png"
SMALL = "small_"  # before the names of the small form's files


def write_results(results: Results, out: Path, *, draw: bool = True) -> tuple[str, list[Path]]:
    """Write the files below OUT/STUDY, each beside its name and renamed, and return the terminal's text and the paths.

    The small form and the paper's have files of their own names. draw: the picture too, which takes a second.
    """
    folder = out / results.study.name
    prefix = SMALL if results.small else ""
    picture = folder / f"{prefix}{PICTURE}"
    if draw:
        plot_results(results, picture)
    paths = [folder / f"{prefix}{JSON}", folder / f"{prefix}{MARKDOWN}"]
    drawn = picture.name if picture.is_file() else None
    for path, text in zip(paths, (to_json(results), to_markdown(results, picture=drawn)), strict=True):
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")
    return to_text(results), [*paths, *([picture] if drawn else [])]
