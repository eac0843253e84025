"""Shards and streams: who reads which image, in what order, and that an epoch can be entered in its middle."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from halonet.data import DataConfig, SplitItems, StreamDataset, StreamItems, UnreadableLog, open_source
from halonet.data import stream as stream_module
from halonet.data.images import UnreadableImageError, load_item
from halonet.data.source import Sample
from halonet.data.stream import share_of
from halonet.data.unreadable import TooManyUnreadableError
from tests.data.making import jpeg, write_shards, write_tar


class Numbered:
    """Shards of images that show their number: image i of the set is a grey of i."""

    def __init__(self, counts: Sequence[int], *, known: bool = True, broken: Sequence[int] = ()) -> None:
        self.sizes = counts
        self.known = known
        self.broken = broken
        self.reads: list[int] = []

    @property
    def counts(self) -> Sequence[int] | None:
        return self.sizes if self.known else None

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, shard: int, wanted: Sequence[int] | None) -> Iterator[tuple[int, Sample]]:
        self.reads.append(shard)
        first = sum(self.sizes[:shard])
        for place in range(self.sizes[shard]) if wanted is None else wanted:
            number = first + place
            yield place, Sample(f"image {number}", b"" if number in self.broken else bytes([number]), number % 3)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the images that were decoded in this process; decoding is made cheap."""
    numbers: list[int] = []

    def decode(data: bytes, *, name: str, in_chans: int) -> Image.Image:
        if not data:
            raise UnreadableImageError(f"cannot read image {name}: broken")
        numbers.append(data[0])
        return Image.new("L", (1, 1), data[0])

    monkeypatch.setattr(stream_module, "decode_image", decode)
    return numbers


def noisy(image: Image.Image) -> torch.Tensor:
    """The number, and what the augmentation draws for it."""
    return torch.tensor([float(np.asarray(image)[0, 0]), float(torch.rand(()))])


def dataset(shards: Numbered, **options: Any) -> StreamDataset:
    options = {"batch_size": 4, "shuffle": True, "buffer": 8, "seed": 0, **options}
    return StreamDataset(StreamItems(shards), in_chans=1, transform=noisy, **options)


def numbers(batches: Any) -> list[int]:
    return [int(row[0]) for images, _ in batches for row in images]


def load(data: StreamDataset, workers: int) -> DataLoader[Any]:
    return DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


@pytest.mark.usefixtures("decoded")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 3])
def test_every_image_once_an_epoch(workers: int, world: int) -> None:
    """29 images: 28 on one process, 24 on three (two batches of four each); other ones are left out the next time."""
    seen: list[set[int]] = []
    for epoch in range(2):
        together: list[int] = []
        for rank in range(world):
            data = dataset(Numbered([7, 1, 9, 12]), rank=rank, world=world)
            data.set_epoch(epoch)
            batches = list(load(data, workers))
            assert len(batches) == len(data) == (7 if world == 1 else 2)
            assert all(len(images) == 4 for images, _ in batches)
            together += numbers(batches)
        assert max(Counter(together).values()) == 1
        assert len(together) == (28 if world == 1 else 24)
        assert together != sorted(together)
        seen.append(set(together))
    assert seen[0] != seen[1]


@pytest.mark.usefixtures("decoded")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 7, 31])
def test_judging_sees_each_image_once(workers: int, world: int) -> None:
    total = 29
    if workers and world > 3:
        pytest.skip("more processes of the same")
    together: list[int] = []
    lengths = set()
    for rank in range(world):
        data = dataset(Numbered([7, 1, 9, 12]), rank=rank, world=world, shuffle=False)
        batches = list(load(data, workers))
        lengths.add(len(batches))
        together += numbers(batches)
    assert len(lengths) == 1, "processes would wait for each other"
    assert sorted(together) == sorted(list(range(total)) * (world if world > total else 1))
    if world == 1 and not workers:
        assert together == list(range(total))
        assert [int(data[i][0][0]) for i in range(total)] == together


def test_shares() -> None:
    """All batches even or all images given, no image twice, as many batches everywhere."""
    for total, world, even in product(range(1, 40), range(1, 5), (True, False)):
        shares = [share_of(total, rank=rank, world=world, batch_size=4, even=even) for rank in range(world)]
        assert len({len(sizes) for _, sizes in shares}) == 1
        taken = [place for start, sizes in shares for place in range(start, start + sum(sizes))]
        assert all(0 < size <= 4 for _, sizes in shares for size in sizes)
        assert set(taken) <= set(range(total))
        if total >= world:
            assert len(set(taken)) == len(taken)
            assert total - len(taken) < (4 * world if even else 1)


@pytest.mark.usefixtures("decoded")
def test_order_and_augmentation_come_from_seed_and_epoch() -> None:
    def epoch(number: int, seed: int = 0, buffer: int = 8) -> torch.Tensor:
        data = dataset(Numbered([7, 1, 9, 12]), seed=seed, buffer=buffer)
        data.set_epoch(number)
        return torch.cat([images for images, _ in load(data, 0)])

    torch.testing.assert_close(epoch(1), epoch(1), rtol=0, atol=0)
    for other in (epoch(2), epoch(1, seed=1), epoch(1, buffer=2)):
        assert not torch.equal(epoch(1)[:, 0], other[:, 0])
    first, second = ({int(row[0]): float(row[1]) for row in epoch(1, buffer=buffer)} for buffer in (8, 2))
    both = first.keys() & second.keys()
    assert len(both) > 20
    assert all(first[number] == second[number] for number in both), "an image's augmentation is its own"


@pytest.mark.usefixtures("decoded")
def test_the_buffer_mixes_no_further_than_it_is_large() -> None:
    data = dataset(Numbered([100]), buffer=10, batch_size=100)
    order = numbers(load(data, 0))
    assert all(number < place + 10 for place, number in enumerate(order))
    assert sum(abs(number - place) for place, number in enumerate(order)) > 300


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("workers", "skipped"), [(0, 3), (2, 4), (2, 5)])
def test_going_on_within_an_epoch(known: bool, workers: int, skipped: int, decoded: list[int]) -> None:
    """What is left after so many batches, image for image, and the next epoch whole again."""
    options: dict[str, Any] = {"rank": 1, "world": 2, "batches": 8}
    counts = [20, 3, 25, 20]
    whole = dataset(Numbered(counts, known=known), **options)
    whole.set_epoch(3)
    loader = load(whole, workers)
    expected = list(loader)
    whole.set_epoch(4)
    following = list(loader)
    assert len(expected) == len(following) == 8
    decoded.clear()

    cut = dataset(Numbered(counts, known=known), **options)
    cut.set_epoch(3)
    cut.skip(skipped)
    loader = load(cut, workers)
    rest = list(loader)
    if not workers:
        assert len(decoded) == 4 * (8 - skipped), "skipped images are not decoded"
    cut.set_epoch(4)
    for got, wanted in ((rest, expected[skipped:]), (list(loader), following)):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one[0], other[0], rtol=0, atol=0)
            assert torch.equal(one[1], other[1])


@pytest.mark.usefixtures("decoded")
def test_shards_before_the_point_are_not_opened() -> None:
    shards = Numbered([10] * 6)
    data = dataset(shards, buffer=1, batch_size=10)
    data.skip(4)
    assert len(list(load(data, 0))) == 2
    assert len(shards.reads) == 2


@pytest.mark.usefixtures("decoded")
def test_shards_of_unknown_size() -> None:
    """As many batches as are asked for, from shards that are each one process's alone; again and again."""
    seen = []
    for rank in range(2):
        data = dataset(Numbered([5, 6, 7, 8], known=False), rank=rank, world=2, batches=10, buffer=3)
        assert data.most_workers == 2
        seen.append(numbers(load(data, 2)))
        assert len(seen[-1]) == 40
    assert not set(seen[0]) & set(seen[1])
    assert set(seen[0]) | set(seen[1]) == set(range(26))
    with pytest.raises(ValueError, match=r"trainer\.limit_train_batches: expected a whole number"):
        dataset(Numbered([5], known=False))


@pytest.mark.usefixtures("decoded")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_gives_way_to_the_next(workers: int) -> None:
    broken = (4, 5, 23)
    log = UnreadableLog(part="train", total=24, most=0.2)
    try:
        data = dataset(Numbered([12, 12], broken=broken), shuffle=False, batch_size=6, unreadable=log)
        got = numbers(load(data, workers))
        assert len(got) == 24
        if not workers:
            assert got == [0, 1, 2, 3, 6, 6, *range(6, 23), 22]
        assert sorted(log.lines()) == sorted(f"cannot read image image {number}: broken" for number in broken)
        with pytest.raises(UnreadableImageError, match="image 4: broken"):
            numbers(load(dataset(Numbered([12, 12], broken=broken), shuffle=False), 0))
    finally:
        log.close()


@pytest.mark.usefixtures("decoded")
def test_too_many_unreadable_images_end_the_run() -> None:
    log = UnreadableLog(part="train", total=24, most=0.1)
    data = dataset(Numbered([12, 12], broken=(1, 2, 3)), shuffle=False, unreadable=log)
    message = r"3 of 24 train images cannot be read, more than the share of 0\.1 .* first: cannot read image image 1"
    with pytest.raises(TooManyUnreadableError, match=message):
        list(load(data, 0))
    log.close()


def labels_of(items: SplitItems) -> dict[str, int]:
    names = (str(item).rsplit("/", 1)[-1] for item in items.items)
    return {name: int(label) for name, label in zip(names, items.labels, strict=True)}


def all_samples(part: StreamItems) -> dict[str, int]:
    """Label by "FILE: KEY" of everything a stream holds."""
    samples = [sample for shard in range(len(part.shards)) for _, sample in part.shards.read(shard, None)]
    for sample in samples[:2]:
        assert sample.data == jpeg(int(sample.name[-9:-4]))
    return {sample.name.rsplit("/", 1)[-1]: part.label_of(sample) for sample in samples}


def test_shards_of_others(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    labels = write_shards(root, {"train": [4, 5], "validation": [3, 3]})
    pattern = f"{root}/{{train-{{000000..000001}},validation-{{000000..000001}}}}.tar"
    for place in (str(root), pattern, f"file://{pattern}"):
        source = open_source(DataConfig(root=place))
        assert (source.form, source.class_names, source.test_is_val) == ("webdataset", ("0", "1", "2"), True)
        train, val = source.splits["train"], source.splits["val"]
        assert isinstance(train, StreamItems)
        assert isinstance(val, SplitItems)
        assert train.shards.counts == [4, 5]
        assert all_samples(train) == labels["train"]
        assert labels_of(val) == labels["validation"]
        assert load_item(val.items[1], in_chans=3).size == (10, 8)


def test_shards_whose_names_say_no_part(tmp_path: Path) -> None:
    """Whole shards are held out, the same for the same split_seed."""
    labels = write_shards(tmp_path, {"data": [2, 2, 2, 2, 2]})["data"]
    source = open_source(DataConfig(root=str(tmp_path)))
    assert source.counts == {"train": 6, "val": 2, "test": 2}
    parts = [source.splits["train"], source.splits["val"], source.splits["test"]]
    found = [all_samples(part) if isinstance(part, StreamItems) else labels_of(part) for part in parts]
    assert {name: label for part in found for name, label in part.items()} == labels
    with pytest.raises(ValueError, match="2 shards and no validation part"):
        open_source(DataConfig(root=f"{tmp_path}/data-{{000000..000001}}.tar"))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """`tmp_path` as a server on this machine shows it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_shards_by_address(tmp_path: Path, address: str) -> None:
    """Without an index.json the classes come from the validation shards or the map, the length from the trainer."""
    labels = write_shards(tmp_path, {"train": [4, 5], "val": [3]})
    source = open_source(DataConfig(root=f"{address}/{{train-00000{{0,1}},val-000000}}.tar"))
    train, val = source.splits["train"], source.splits["val"]
    assert isinstance(train, StreamItems)
    assert isinstance(val, StreamItems)
    assert train.count is None
    assert source.counts == {"val": 3, "test": 3}
    assert source.class_names == ("0", "1", "2")
    assert all_samples(train) == labels["train"]
    assert all_samples(val) == labels["val"]
    with pytest.raises(ValueError, match=r"cannot read the shard http://127.*gone\.tar"):
        open_source(DataConfig(root=f"{address}/{{train-000000,val-gone}}.tar"))


def test_a_pipe_and_a_class_map(tmp_path: Path) -> None:
    labels = write_shards(tmp_path / "x", {"train": [4, 5], "val": [3]})
    (tmp_path / "names.json").write_text('["cat", "dog", "cow", "never seen"]')
    root = f"pipe:cat {tmp_path}/x/{{train-00000{{0,1}},val-000000}}.tar"
    source = open_source(DataConfig(root=root, class_map=str(tmp_path / "names.json")))
    assert source.class_names == ("cat", "dog", "cow", "never seen")
    train = source.splits["train"]
    assert isinstance(train, StreamItems)
    assert all_samples(train) == labels["train"]
    # A command that is not read to its end is no error.
    assert next(train.shards.read(0, [0]))[1].data == jpeg(0)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jpg": b"", "b.jpg": b"", "b.cls": b"1"}, "a has no class: expected .cls with a number, or .json"),
        ({"a.cls": b"1", "b.jpg": b"", "b.cls": b"1"}, "a has no image"),
        ({"a.jpg": b"", "a.cls": b"dog"}, "a has no class"),
    ],
)
def test_a_sample_without_image_or_class(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    write_tar(tmp_path / "train-0.tar", files)
    write_tar(tmp_path / "val-0.tar", files)
    for root in (str(tmp_path), f"pipe:cat {tmp_path}/{{train,val}}-0.tar"):
        with pytest.raises(ValueError, match=message):
            open_source(DataConfig(root=root, dataset="webdataset"))


def test_a_shard_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no shard .*train-1\.tar"):
        open_source(DataConfig(root=f"{tmp_path}/train-1.tar"))
