"""Coloured textures that are continuous functions of the plane, for drawn scenes and stereo pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Pattern = Literal["none", "stripes", "checks"]
_LATTICE = 32  # knots of value noise in each direction, after which it repeats
_CELLS = (3.0, 7.0, 17.0)  # pixels between the knots of each octave
_SHARPNESS = 3.0  # of the borders of stripes and checks; without limit they would alias


@dataclass(frozen=True)
class Texture:
    """A base colour, plus waves, value noise of several octaves, and stripes or checks, each in colours of its own.

    No part has more than about 1/4 of a cycle a pixel, so that two samples a pixel are enough.

    Args:
        base: (3,), in 0..1.
        waves: (K, 3): cycles a pixel along x and y, and phase, of each sinusoid.
        wave_colours: (K, 3), amplitudes.
        knots: (32 * 32,), values in -1..1 at the noise's lattice, row by row.
        shifts: (3, 2), of the lattice in each octave, in knots.
        noise_colours: (3, 3), amplitude of each octave.
        pattern: what is laid over it.
        pattern_wave: (3,), as of a sinusoid; checks have a second one across it.
        pattern_colour: (3,), amplitude.
    """

    base: np.ndarray
    waves: np.ndarray
    wave_colours: np.ndarray
    knots: np.ndarray
    shifts: np.ndarray
    noise_colours: np.ndarray
    pattern: Pattern
    pattern_wave: np.ndarray
    pattern_colour: np.ndarray

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Colours at `x` and `y` (N,): (N, 3) float32 in 0..1."""
        x, y = x.astype(np.float32), y.astype(np.float32)
        noise = np.stack(
            [self._noise(x / cell + a, y / cell + b) for cell, (a, b) in zip(_CELLS, self.shifts, strict=True)], axis=1
        )
        waves = np.stack([_wave(wave, x, y) for wave in self.waves], axis=1)
        colours = self.base + waves @ self.wave_colours + noise @ self.noise_colours
        if self.pattern != "none":
            frequency_x, frequency_y, phase = self.pattern_wave
            pattern = _wave(self.pattern_wave, x, y)
            if self.pattern == "checks":
                pattern *= _wave(np.array([-frequency_y, frequency_x, phase], np.float32), x, y)
            colours += np.clip(_SHARPNESS * pattern, -1, 1)[:, None] * self.pattern_colour
        return np.clip(colours, 0, 1, out=colours)

    def _noise(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values between four knots each, by smoothsteps."""
        column, row = np.floor(x), np.floor(y)
        right, down = x - column, y - row
        right *= right * (3 - 2 * right)
        down *= down * (3 - 2 * down)
        mask = _LATTICE - 1
        left_of = column.astype(np.int32)
        above = (row.astype(np.int32) & mask) * _LATTICE
        below = (above + _LATTICE) & (_LATTICE * _LATTICE - 1)
        right_of = (left_of + 1) & mask
        left_of &= mask
        upper, lower = self.knots[above + left_of], self.knots[below + left_of]
        upper += right * (self.knots[above + right_of] - upper)
        lower += right * (self.knots[below + right_of] - lower)
        return upper + down * (lower - upper)


def draw_texture(rng: np.random.Generator) -> Texture:
    """A texture by chance. Noise is part of each: waves and patterns alone would repeat and match in many places."""
    # Not itself in float64: one such array would make all of them that.
    single = np.float32
    frequencies, angles = rng.uniform(0.02, 0.2, 4), rng.uniform(0, 2 * np.pi, 4)
    waves = np.stack(
        [frequencies * np.cos(angles), frequencies * np.sin(angles), rng.uniform(0, 2 * np.pi, 4)], axis=1
    ).astype(single)
    patterns: tuple[Pattern, ...] = ("none", "stripes", "checks")
    return Texture(
        base=rng.uniform(0.2, 0.8, 3).astype(single),
        waves=waves[:3],
        wave_colours=rng.normal(0, 0.07, (3, 3)).astype(single),
        knots=rng.uniform(-1, 1, _LATTICE * _LATTICE).astype(single),
        shifts=rng.uniform(0, _LATTICE, (3, 2)).astype(single),
        noise_colours=_noise_colours(rng).astype(single),
        pattern=patterns[rng.integers(3)],
        pattern_wave=waves[3],
        pattern_colour=rng.normal(0, 0.12, 3).astype(single),
    )


def _noise_colours(rng: np.random.Generator) -> np.ndarray:
    """Mostly brightness, with a length that is never near 0: every place of every texture can be told apart."""
    colours = 1.0 + rng.normal(0, 0.4, (len(_CELLS), 3))
    return rng.uniform(0.12, 0.3, (len(_CELLS), 1)) * colours


def _wave(wave: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    frequency_x, frequency_y, phase = wave
    turn = np.float32(2 * np.pi)
    return np.sin(turn * frequency_x * x + turn * frequency_y * y + phase)
