"""Random shifting and redrawn features while a model trains."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import halonet
from halonet.layers import FullAttention, PerformerAttention
from halonet.training.attention_callbacks import RandomShift, RedrawFeatures, attention_callbacks, shifting_layers
from halonet.training.config import ModelConfig

NANO = "vil_nano_32"


def trainer(*, step=0, epoch=0, total=8):
    return SimpleNamespace(
        global_step=step, current_epoch=epoch, estimated_stepping_batches=total, max_epochs=1, callbacks=[]
    )


def modes(model):
    return [layer.mode for layer in shifting_layers(model)]


def test_random_shift_switches_after_its_share_of_the_steps():
    model = halonet.create_model(NANO, attention=["vil", "full"], depth=3)
    callback, seen = RandomShift(0.75, seed=1), set()
    for step in range(8):
        callback.on_train_batch_start(trainer(step=step), model, None, step)
        now = modes(model)
        assert len(now) == 3
        assert all(1 <= mode <= 8 for mode in now) if step < 6 else now == [0, 0, 0]
        seen.add(tuple(now))
    assert len(seen) > 4
    assert not any(layer.mode for layer in model.modules() if isinstance(layer, FullAttention))


def test_draws_do_not_depend_on_what_was_before():
    """A run that goes on draws as one that was never stopped; epochs and batches differ."""
    draws = []
    for places in ([(0, 0), (0, 1), (1, 1)], [(1, 1)]):
        model = halonet.create_model(NANO, depth=8)
        for epoch, batch in places:
            RandomShift(1.0, seed=3).on_train_batch_start(trainer(epoch=epoch), model, None, batch)
            draws.append(modes(model))
    assert draws[2] == draws[3]
    assert draws[0] != draws[1] != draws[2]


@pytest.mark.parametrize("end", ["on_train_end", "on_exception"])
def test_modes_are_reset_at_the_end(end):
    model = halonet.create_model(NANO)
    callback = RandomShift(1.0)
    callback.on_train_batch_start(trainer(), model, None, 0)
    assert any(modes(model))
    getattr(callback, end)(trainer(), model, *([KeyboardInterrupt()] if end == "on_exception" else []))
    assert not any(modes(model))


def features(model):
    return [layer.features.clone() for layer in model.modules() if isinstance(layer, PerformerAttention)]


@pytest.mark.parametrize(("every", "epoch", "expected"), [(None, 0, [0, 1, 2, 3]), (None, 1, [0, 6]), (4, 1, [0, 4])])
def test_features_are_redrawn_when_they_should(every, epoch, expected):
    model = halonet.create_model(NANO, attention="performer", position="absolute")
    callback, redrawn, before = RedrawFeatures(every), [], features(model)
    for batch in range(4 if epoch == 0 else 8):
        callback.on_train_batch_start(trainer(epoch=epoch), model, None, batch)
        now = features(model)
        if not torch.equal(now[0], before[0]):
            redrawn.append(batch)
        assert not torch.equal(now[0], now[1])
        before = now
    assert redrawn == expected


def test_the_same_place_of_a_run_draws_the_same_features():
    drawn = []
    for places in ([0, 4], [4]):
        model = halonet.create_model(NANO, attention="performer", position="absolute")
        for batch in places:
            RedrawFeatures(4, seed=2).on_train_batch_start(trainer(epoch=3), model, None, batch)
        drawn.append(features(model))
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


def test_which_callbacks_a_model_wants():
    def kinds(model, **settings):
        given = {"random_shift": 0.0, "redraw_features": None, "seed": 0, **settings}
        return [type(callback) for callback in attention_callbacks(model, **given)]

    vil = halonet.create_model(NANO)
    performer = halonet.create_model(NANO, attention="performer", position="absolute")
    assert kinds(vil) == []
    assert kinds(vil, random_shift=0.75) == [RandomShift]
    assert kinds(performer) == [RedrawFeatures]
    assert kinds(performer, redraw_features=0) == []
    with pytest.raises(ValueError, match=r"model\.random_shift: expected 0"):
        kinds(performer, random_shift=0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomShift(1.5), r"fraction must be from 0 to 1, got 1\.5"),
        (lambda: RedrawFeatures(0), "every must be a positive number of steps or None, got 0"),
        (lambda: ModelConfig(random_shift=-0.1), r"model\.random_shift: expected 0 to 1, got -0\.1"),
        (lambda: ModelConfig(redraw_features=-1), r"model\.redraw_features: expected at least 0 or null, got -1"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
