"""`halonet data`: what is told of a set, and shards that hold its files byte for byte."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from halonet.cli import main
from halonet.data import DataConfig, SplitItems, StreamItems, open_source, shard_writer
from halonet.data.source import Encoded
from tests.data.making import ORDER, class_files, write_folders, write_original

Capture = pytest.CaptureFixture[str]


def run(*arguments: object) -> int:
    return main(["data", *map(str, arguments)])


def images(root: Path, part: str) -> list[tuple[bytes, str]]:
    """(image file, class) of a part, in its order."""
    source = open_source(DataConfig(root=str(root)))
    items = source.splits[part]  # type: ignore[index]
    if isinstance(items, StreamItems):
        samples = [sample for number in range(len(items.shards)) for _, sample in items.shards.read(number, None)]
        return [(sample.data, source.class_names[items.label_of(sample)]) for sample in samples]
    assert isinstance(items, SplitItems)
    files = [item.read() if isinstance(item, Encoded) else Path(str(item)).read_bytes() for item in items.items]
    return [(data, source.class_names[label]) for data, label in zip(files, items.labels, strict=True)]


def test_list(tmp_path: Path, capsys: Capture) -> None:
    write_original(tmp_path / "imagenet")
    assert run("list", tmp_path / "imagenet") == 0
    assert capsys.readouterr().out.splitlines() == [
        "imagenet: imagenet",
        "images: 12 train, 6 val, 6 test",
        "there is no test part of its own: the validation images serve twice",
        "classes: 4",
        "     0  n01440764 tench, Tinca tinca",
        "     1  n02012849 crane (n02012849)",
        "     2  n02119789 kit fox, Vulpes macrotis",
        "     3  n03126707 crane (n03126707)",
    ]
    assert run("list", tmp_path / "imagenet", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["images"] == {"train": 12, "val": 6, "test": 6}
    assert facts["classes"][2] == {"number": 2, "id": "n02119789", "name": "kit fox, Vulpes macrotis"}


@pytest.mark.parametrize("write", [write_original, lambda root: write_folders(root, class_files(5))])
def test_shards_hold_the_same_files(tmp_path: Path, write, capsys: Capture) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write(data)
    assert run("shard", data, out, "--images-per-shard", 5, "--dataset", "auto") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    index = json.loads((out / "index.json").read_text())
    before, after = open_source(DataConfig(root=str(data))), open_source(DataConfig(root=str(out)))
    assert index["complete"]
    assert (after.form, after.name) == ("webdataset", "data")
    assert (after.class_names, after.class_ids) == (before.class_names, before.class_ids)
    assert (after.counts, after.test_is_val) == (before.counts, before.test_is_val)
    for part in before.splits:
        assert sorted(images(out, part)) == sorted(images(data, part))
    assert images(out, "train") != images(data, "train"), "shuffled"
    with tarfile.open(out / "train-000000.tar") as tar:
        assert {name.rsplit(".", 1)[1] for name in tar.getnames()} == {"jpg", "cls"}
        assert len(tar.getnames()) <= 10
    assert all(sum(count for _, count in rows) == after.counts[part] for part, rows in index["parts"].items())


def test_the_seed_alone_decides_the_bytes(tmp_path: Path) -> None:
    write_folders(tmp_path / "data", class_files(5))
    files = []
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run("shard", tmp_path / "data", tmp_path / out, "--seed", seed) == 0
        files.append((tmp_path / out / "train-000000.tar").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """No half file has a name that counts, the set says it is not finished, and whole files are not written again."""
    data, out = tmp_path / "data", tmp_path / "out"
    write_folders(data, class_files(5))
    original = shard_writer._file_of
    written = []

    def stopping(item: Path) -> tuple[bytes, str]:
        written.append(item)
        if len(written) == 8:
            raise KeyboardInterrupt
        return original(item)

    arguments = ("shard", data, out, "--images-per-shard", 3)
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "_file_of", stopping)
        assert run(*arguments) == 130
    assert sorted(path.name for path in out.iterdir()) == ["index.json", "train-000000.tar", "train-000001.tar"]
    assert run("list", out) == 2
    assert "not finished: run halonet data shard again" in capsys.readouterr().err
    kept = (out / "train-000000.tar").stat().st_mtime_ns
    assert run(*arguments[:-1], 4) == 2
    assert "images_per_shard, parts differ" in capsys.readouterr().err
    assert run(*arguments) == 0
    assert "2 of 8 shards are there already" in capsys.readouterr().out
    assert (out / "train-000000.tar").stat().st_mtime_ns == kept
    assert sorted(images(out, "train")) == sorted(images(data, "train"))
    assert {name for _, name in images(out, "train")} == set(ORDER)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, capsys: Capture) -> None:
    write_folders(tmp_path / "data", class_files(5))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    assert run("shard", tmp_path / "data", tmp_path / "out") == 2
    assert "holds other files" in capsys.readouterr().err
    assert run("shard", tmp_path / "data", tmp_path / "new") == 0
    assert run("shard", tmp_path / "new", tmp_path / "newer") == 2
    assert "a stream of shards already" in capsys.readouterr().err


@pytest.mark.slow
def test_several_processes_write_the_same(tmp_path: Path) -> None:
    write_original(tmp_path / "data")
    for jobs in (1, 2):
        assert run("shard", tmp_path / "data", tmp_path / str(jobs), "--images-per-shard", 4, "--jobs", jobs) == 0
    one, two = (sorted((path.name, path.read_bytes()) for path in (tmp_path / jobs).glob("*.tar")) for jobs in "12")
    assert len(one) > 3
    assert one == two
