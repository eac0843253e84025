"""`halonet models`: counts that are those of today's models, sorting, and a table that fits its columns."""

from __future__ import annotations

import json

import pytest

import halonet
from benchmarks import count_rows
from halonet.analysis import row_counts
from halonet.analysis.row_counts import committed_counts, count_row, row_count, row_size
from halonet.analysis.zoo_table import COLUMNS, render, sort_keys, sort_rows, zoo_rows
from halonet.detection import list_detectors

NAMES = {
    "classification": halonet.list_models(),
    "stereo": halonet.list_models(task="stereo"),
    "detection": list_detectors(),
}
# A row of every skeleton, the cheapest that there are.
SAMPLE = [
    *(("classification", name) for name in ("halonet_h0_256", "botnet_s1_50_se_224", "resnet50_224", "vil_tiny_224")),
    *(("classification", name) for name in ("msvit_tiny_1_10_1_224", "halonet_h0_c12_256", "evit_tiny_224")),
    ("stereo", "fa_psmnet_nano"),
    ("detection", "maskrcnn_halo_nano_128"),
]


def test_every_row_is_counted() -> None:
    """If this fails: python -m benchmarks.count_rows."""
    assert {task: list(rows) for task, rows in committed_counts().items()} == NAMES


@pytest.mark.parametrize(("task", "name"), SAMPLE)
def test_counts_are_todays(task: str, name: str) -> None:
    """If this fails: python -m benchmarks.count_rows --all."""
    assert count_row(name, task=task) == row_count(name, task=task)


@pytest.mark.slow
@pytest.mark.parametrize("task", NAMES)
def test_all_counts_are_todays(task: str) -> None:
    assert [name for name in NAMES[task] if count_row(name, task=task) != row_count(name, task=task)] == []


def test_a_row_that_the_table_has_not_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    known = row_count("halonet_nano_32")
    monkeypatch.setattr(row_counts, "committed_counts", dict)
    assert row_count("halonet_nano_32") == known


def test_the_table_is_made_by_its_script(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(count_rows, "list_models", lambda task=None: [] if task else ["vil_nano_32", "halonet_nano_32"])
    monkeypatch.setattr(count_rows, "list_detectors", list)
    out = tmp_path / "counts.json"
    out.write_text(json.dumps({"classification": {"vil_nano_32": [1, 2]}}))
    assert count_rows.main(["--out", str(out)]) == 0
    counted = list(committed_counts()["classification"]["halonet_nano_32"])
    assert json.loads(out.read_text()) == {
        "classification": {"vil_nano_32": [1, 2], "halonet_nano_32": counted},
        "stereo": {},
        "detection": {},
    }
    assert capsys.readouterr().out.split() == ["halonet_nano_32", *map(str, counted)]


def test_sorting_by_hand() -> None:
    rows = [{"name": name, "top1": value} for name, value in (("b", 80.0), ("d", None), ("c", 77.5), ("a", 80.0))]
    rows.append({"name": "0", "top1": None})
    assert [row["name"] for row in sort_rows(rows, "top1")] == ["c", "a", "b", "0", "d"]
    assert [row["name"] for row in sort_rows(rows, "top1", reverse=True)] == ["a", "b", "c", "0", "d"]
    assert [row["name"] for row in sort_rows(rows, "name", reverse=True)] == ["d", "c", "b", "a", "0"]
    with pytest.raises(ValueError, match=r"sort: expected one of name, top1, got 'top'; did you mean top1"):
        sort_rows(rows, "top")


@pytest.mark.parametrize("task", NAMES)
def test_the_table_fits(task: str) -> None:
    rows = zoo_rows(NAMES[task], task=task)
    table, below = render(rows, task=task).split("\n\n")
    lines = table.splitlines()
    assert max(map(len, [*lines, *below.splitlines()])) <= (125 if task == "detection" else 110)
    assert len(lines) == 2 + len(rows)
    assert "published, none is ours" in below
    assert f"{len(rows)} rows." in below
    ends = {line.index(head) + len(head) for line in lines[:1] for head in ("parameters", "multiply-adds", "image")}
    for line in lines[2:]:  # numbers end below the end of their heading
        assert all(line[end - 1] != " " and line[end] == " " for end in ends), line
    assert sort_keys(task) == ("name", *(column.key for column in COLUMNS[task]))
    for row in rows:
        assert set(sort_keys(task)) <= set(row)
        figures = [row[column.key] for column in COLUMNS[task][3:-1]]
        assert (row["source"] is None) == (figures[0] is None)
        assert row["source"] is None or row["published"]


def test_boxes_and_masks_are_of_one_line() -> None:
    """Factorized Attention's Table 5 prints 45.9 boxes without masks, its Table 4 prints 44.9 with 39.5."""
    (row,) = zoo_rows(["maskrcnn_resnext101_32x8d_fpn_fa_fpn_all_res34"], task="detection")
    assert (row["box_ap"], row["mask_ap"], row["source"]) == (44.9, 39.5, "Factorized Attention, Table 4")


def test_a_line_by_hand() -> None:
    """README has 67.39 M, reference counts 110.14 G with queries filled up to blocks, Table 4 has 84.9 %."""
    (row,) = zoo_rows(["halonet_h7_600"])
    assert row["image_size"] == [600, 600]
    assert row["top1"] == 84.9
    assert f"{row['parameters'] / 1e6:.2f}" == "67.39"
    line = render([row]).splitlines()[2]
    assert line.split() == ["halonet_h7_600", "67.39", "110.16", "600", "84.9", "HaloNet,", "Table", "4"]
    (row,) = zoo_rows(["vil_base_384"])
    assert row["source"] == "Vision Longformer, Table 5 (21k)"
    assert [size["published"] for size in row["published_sizes"]] == [55.7, 43.7]


def test_detectors_and_stereo_by_hand() -> None:
    (row,) = zoo_rows(["maskrcnn_botnet200_1280"], task="detection")
    assert (row["box_ap"], row["mask_ap"], row["source"]) == (49.7, 44.4, "BoTNet, Table 9")
    (row,) = zoo_rows(["fa_psmnet"], task="stereo")
    assert (row["epe"], row["source"], row["image_size"]) == (0.477, "Factorized Attention, Table 6", [256, 512])
    assert row_size("maskrcnn_vil_tiny_800", task="detection") == (800, 1333)
