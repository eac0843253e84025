"""All that one page's server keeps: choices, pictures, the models opened last and what they made of pictures."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from halonet.analysis.attention import AttentionRecord, record_attention
from halonet.explore import answers, attention
from halonet.explore.choices import Choice, Dial, catalog, channels_of, dials_of, of_name
from halonet.explore.costs import cost_of
from halonet.explore.pictures import NoLongerKept, Pictures, numbers
from halonet.explore.subjects import Reading, Subject, changed, open_subject, read
from halonet.models.checkpoints import DETECTION

MOST_MODELS = 2  # as they were opened; one with dials turned is kept by its record
MOST_RECORDS = 2
MOST_COUNTED = 1 << 16  # pixels a side of a picture whose cost is counted
Kept = TypeVar("Kept")


@dataclass
class Looked:
    """A picture read by a model. record: None where nothing attends, and `why` says so. answer: told when it was asked
    for, with the arrays that its pictures are drawn from."""

    id: int
    subject: Subject
    reading: Reading
    record: AttentionRecord | None
    why: str
    answer: tuple[dict[str, Any], dict[str, Any]] | None = None
    view: bytes = b""


@dataclass(frozen=True)
class Wish:
    """What the page wants to look at. key: of the model. picture, right: ids. changes: dials that are turned. side,
    whole: see `subjects.read`."""

    key: str
    picture: int
    right: int | None = None
    changes: dict[str, int] = field(default_factory=dict)
    side: int | None = None
    whole: bool = False


class Workbench:
    """Models and pictures of one server.

    What runs a model (`look`, `ask`) is for one thread, what reads a record (`attention`) for one other: models are
    only read once they are opened.

    Args:
        choices: what the page offers first; the first of them is opened first.
    """

    def __init__(self, choices: Sequence[Choice] = ()) -> None:
        self.choices = {choice.key: choice for choice in choices}
        self.catalog = catalog(choices)
        self.pictures = Pictures()
        self.doing = ""  # what runs now, for the page
        self._subjects: OrderedDict[str, Subject] = OrderedDict()
        self._looked: OrderedDict[int, Looked] = OrderedDict()
        self._numbers = numbers()
        self._lock = threading.Lock()

    def choice(self, key: str) -> Choice:
        """Raises ValueError for a key that the catalog has not; files beside those given are not opened."""
        return self.choices.get(key) or of_name(key)

    def dials(self, key: str) -> tuple[Dial, ...]:
        """What of a model can be changed."""
        return dials_of(self.choice(key))

    def look(self, wish: Wish) -> Looked:
        """Open the model if need be, and run it on the picture. Raises ValueError for what cannot be done,
        NoLongerKept for a picture that is no longer there."""
        picture = self.pictures.get(wish.picture)
        right = None if wish.right is None else self.pictures.get(wish.right)
        choice = self.choice(wish.key)
        subject = self._subject(choice)
        if wish.changes:
            self.doing = f"changing {choice.name} ..."
            subject = changed(subject, wish.changes)
        reading = read(subject, picture, right, side=wish.side, whole=wish.whole)
        height, width = reading.image.shape[-2:]
        self.doing = f"running {choice.name} on {width} x {height} pixels ..."
        record, why = None, ""
        try:
            record = record_attention(subject.model, reading.image, run=reading.run)
        except ValueError as error:
            # A network of convolutions alone is no mistake: what it answers is still to be seen.
            why = str(error)
        looked = Looked(next(self._numbers), subject, reading, record, why, view=answers.png(reading.view))
        _keep(self._looked, looked.id, looked, most=MOST_RECORDS, lock=self._lock)
        return looked

    def looked(self, number: int) -> Looked:
        """Raises NoLongerKept."""
        with self._lock:
            if number not in self._looked:
                raise NoLongerKept("this picture is no longer looked at: choose it once more")
            self._looked.move_to_end(number)
            return self._looked[number]

    def ask(self, number: int) -> dict[str, Any]:
        """The model's answer about what was looked at."""
        looked = self.looked(number)
        if looked.answer is None:
            self.doing = f"asking {looked.subject.choice.name} ..."
            looked.answer = answers.ask(looked.subject, looked.reading)
        return looked.answer[0]

    def answer_picture(self, number: int, *, threshold: float) -> bytes:
        """A PNG of the answer: a detector's objects on the picture, or a disparity. Raises ValueError before `ask`, or
        where there is nothing to draw."""
        looked = self.looked(number)
        if looked.answer is None or not looked.answer[1]:
            raise ValueError("picture: nothing to draw of this answer")
        found = looked.answer[1]
        if looked.subject.choice.task == DETECTION:
            return answers.draw_objects(looked.subject, looked.reading, found, threshold=threshold)
        return answers.draw_disparity(found)

    def attention(self, number: int, layer: str, pixel: tuple[int, int], *, head: int) -> bytes:
        """See `attention.answer`; `pixel` of the view. Raises ValueError for a layer or pixel that there is not."""
        looked = self.looked(number)
        if looked.record is None or layer not in looked.record.layers:
            raise ValueError(f"layer: {looked.subject.choice.name} has none that attends called {layer!r}")
        width, height = looked.reading.view.size
        if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
            raise ValueError(f"pixel: expected inside {height} x {width} pixels, got {pixel[0]}, {pixel[1]}")
        size = looked.record.image_size
        row, column = (
            min(int((at + 0.5) * scale), side - 1)
            for at, scale, side in zip(pixel, looked.reading.scale, size, strict=True)
        )
        return attention.answer(looked.record.layers[layer], (row, column), head=head)

    def cost(self, key: str, changes: dict[str, int], input_size: tuple[int, int, int]) -> dict[str, Any]:
        """Before and after the changes. Raises ValueError for what `cost_of` refuses, or no such size."""
        if not all(1 <= side <= MOST_COUNTED for side in input_size):
            raise ValueError(f"input: expected 1 to {MOST_COUNTED} channels and pixels, got {input_size}")
        choice = self.choice(key)
        channels = channels_of(choice)
        if input_size[0] != channels:
            raise ValueError(f"input: {choice.name} reads {channels} channels, height and width, got {input_size}")
        before = cost_of(choice, {}, input_size)
        return {"before": before, "after": cost_of(choice, changes, input_size) if changes else before}

    def _subject(self, choice: Choice) -> Subject:
        def make() -> Subject:
            self.doing = f"loading {choice.weights or choice.name} ..."
            return open_subject(choice)

        with self._lock:
            known = self._subjects.get(choice.key)
        subject = known or make()
        _keep(self._subjects, choice.key, subject, most=MOST_MODELS, lock=self._lock)
        return subject


def describe(looked: Looked) -> dict[str, Any]:
    """What the page is told of a picture that was read."""
    subject, reading = looked.subject, looked.reading
    record = looked.record
    height, width = reading.image.shape[-2:]
    return {
        "record": looked.id,
        "model": subject.choice.to_dict(),
        "view": [reading.view.height, reading.view.width],
        "scale": list(reading.scale),
        "input": [int(reading.image.shape[1]), int(height), int(width)],
        "why": looked.why,
        "layers": [] if record is None else [_layer(name, layer) for name, layer in record.layers.items()],
    }


def _layer(name: str, layer: Any) -> dict[str, Any]:
    return {
        "name": name,
        "label": layer.label,
        "mechanism": layer.mechanism,
        "map": list(layer.map_size),
        "heads": layer.num_heads,
        "tokens": layer.num_global,
        "signed": layer.signed,
    }


def _keep(kept: OrderedDict[Any, Kept], key: Any, value: Kept, *, most: int, lock: threading.Lock) -> None:
    """Put a value last, and let go of the first ones beyond `most`."""
    with lock:
        kept[key] = value
        kept.move_to_end(key)
        while len(kept) > most:
            kept.popitem(last=False)
