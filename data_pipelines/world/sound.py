"""What every kind of performer sounds like: a score in one key and tempo for the whole stage, and a timbre for each.

A timbre is harmonics, an envelope, modulation and noise. All performers of a scene play in the same pentatonic scale
over the same bars, so whatever is heard together fits together.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import scipy.signal

PENTATONIC = (0, 2, 4, 7, 9)
CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))  # I vi IV V, in semitones above the root
TAKES = 3  # of every note
FADE_IN_S, FADE_OUT_S = 0.012, 0.09  # inside the heard interval, so that nothing leaks out of it


@dataclasses.dataclass(frozen=True)
class Note:
    """One note: start and length in seconds, pitch in MIDI semitones, strength in [0, 1]."""

    start_s: float
    length_s: float
    pitch: float
    strength: float


@dataclasses.dataclass(frozen=True)
class Music:
    """What the whole stage agrees on.

    Attributes:
        root: MIDI pitch of the key, near middle C.
        tempo: beats per minute.
        order: which chord of `CHORDS` each bar of four beats plays.
    """

    root: int = 60
    tempo: float = 104.0
    order: tuple[int, ...] = (0, 1, 2, 3)

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Music:
        """A key, a tempo and an order of chords by chance."""
        orders = ((0, 1, 2, 3), (0, 2, 1, 3), (1, 2, 0, 3), (0, 3, 1, 2))
        return cls(int(rng.integers(56, 63)), float(rng.integers(92, 117)), orders[rng.integers(len(orders))])

    @property
    def beat_s(self) -> float:
        """Seconds of a beat."""
        return 60.0 / self.tempo

    def chord(self, time_s: float) -> tuple[int, ...]:
        """Pitches of the bar that is playing."""
        bar = int(time_s / (4 * self.beat_s) + 1e-6)
        return tuple(self.root + step for step in CHORDS[self.order[bar % len(self.order)]])

    def near(self, pitch: float) -> int:
        """The pitch of the scale nearest to a pitch."""
        octave, step = divmod(round(pitch) - self.root, 12)
        return self.root + 12 * octave + min(PENTATONIC, key=lambda p: (abs(p - step), p))


@dataclasses.dataclass(frozen=True)
class Timbre:
    """How one note sounds.

    Attributes:
        partials: (ratio to the pitch, strength) of each partial.
        attack_s: time to full strength.
        decay_s: time constant of dying away while held; `inf` holds.
        release_s: time constant after the note's end.
        damping: how much faster each higher partial decays, relative to its ratio.
        vibrato: (rate in Hz, depth in semitones); it sets in a little after the start.
        tremolo: (rate in Hz, depth in [0, 1]).
        glide: (semitones above the pitch at the start, time constant in seconds).
        noise: (strength, low Hz, high Hz, time constant in seconds), breath, bow or skin.
        spread: detune in semitones of a second set of partials; 0 has none.
    """

    partials: tuple[tuple[float, float], ...]
    attack_s: float = 0.005
    decay_s: float = float("inf")
    release_s: float = 0.05
    damping: float = 0.0
    vibrato: tuple[float, float] = (0.0, 0.0)
    tremolo: tuple[float, float] = (0.0, 0.0)
    glide: tuple[float, float] = (0.0, 1.0)
    noise: tuple[float, float, float, float] = (0.0, 100.0, 1000.0, 1.0)
    spread: float = 0.0

    def play(self, note: Note, *, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """One note as float32 samples, with its release; one of a few takes, which differ in noise and phases."""
        length_s = note.length_s + min(4 * self.release_s, 1.2)
        n = int(length_s * rate_hz)
        longest_s = 0.25 * 2 ** int(np.ceil(np.log2(max(length_s / 0.25, 1))))
        wave = _held(self, note.pitch, longest_s, rate_hz, int(rng.integers(TAKES)))[:n]
        after = np.arange(n - int(note.length_s * rate_hz), dtype=np.float32) / rate_hz
        fall = np.ones(n, np.float32)
        if len(after):
            fall[n - len(after) :] = np.exp(-after / self.release_s) * np.clip((after[-1] - after) / 0.01, 0, 1)
        return np.float32(note.strength) * wave * fall


@dataclasses.dataclass(frozen=True)
class Style:
    """What a kind plays.

    Attributes:
        lowest, highest: range in semitones around the root of the scene.
        steps: lengths in beats to choose from.
        hold: share of the step that a note sounds.
        voices: notes at once, taken from the chord; 1 walks through the scale instead.
        roll_s: delay between the voices of a chord.
        arpeggio: plays the chord's notes one after the other.
    """

    lowest: int
    highest: int
    steps: tuple[float, ...]
    hold: float = 0.95
    voices: int = 1
    roll_s: float = 0.0
    arpeggio: bool = False

    def notes(self, music: Music, start_s: float, end_s: float, rng: np.random.Generator) -> list[Note]:
        """A phrase that fills one heard interval: it begins at once and no new note starts just before its end."""
        low, high = music.root + self.lowest, music.root + self.highest
        notes, now, place, at = [], start_s, rng.uniform(low, high), int(rng.integers(3))
        while now < end_s - 0.15 or not notes:
            step = self.steps[rng.integers(len(self.steps))] * music.beat_s
            length = min(step * self.hold, end_s - now)
            strength = rng.uniform(0.78, 1.0)
            chord = [low + (pitch - low) % 12 for pitch in music.chord(now)]
            if self.arpeggio:
                ladder = sorted({p + 12 * k for p in chord for k in range(3) if p + 12 * k <= high})
                pitches = [ladder[(0, 1, 2, 3, 2, 1)[at % 6] % len(ladder)]]
            elif self.voices > 1:
                pitches = sorted(chord)[: self.voices]
            else:
                place = float(np.clip(place + rng.integers(-4, 5), low, high))
                pitches = [music.near(place)]
            for k, pitch in enumerate(pitches):
                onset = now + k * self.roll_s
                if k == 0 or onset < end_s - 0.03:
                    notes.append(Note(onset, min(length, end_s - onset), pitch, strength / len(pitches) ** 0.5))
            now, at = now + step, at + 1
        return notes


@functools.lru_cache(maxsize=1024)
def _held(timbre: Timbre, pitch: float, length_s: float, rate_hz: int, take: int) -> np.ndarray:
    """A note that is held all the time, without release: float32 [n], shared by all who play it."""
    rng = np.random.default_rng([round(100 * pitch), round(100 * length_s), rate_hz, take])
    t = np.arange(int(length_s * rate_hz), dtype=np.float32) / rate_hz
    bend = timbre.glide[0] * np.exp(-t / timbre.glide[1])
    rate, depth = timbre.vibrato
    if depth:
        bend = bend + depth * np.sin(2 * np.pi * rate * t) * np.clip((t - 0.12) / 0.25, 0, 1)
    pitch_hz = 440.0 * 2 ** ((pitch - 69) / 12)
    wave = np.zeros_like(t)
    for detune in (0.0, timbre.spread) if timbre.spread else (0.0,):
        speed = 2 ** ((bend + detune) / 12)
        turns = pitch_hz / rate_hz * np.cumsum(speed, dtype=np.float64)
        for ratio, strength in timbre.partials:
            if pitch_hz * ratio > 0.45 * rate_hz:
                continue
            fade = np.float32(1)
            if np.isfinite(timbre.decay_s):
                fade = np.exp(-t * (1 + timbre.damping * (ratio - 1)) / timbre.decay_s)
            angle = ratio * turns + rng.random()
            angle = (2 * np.pi * (angle - np.floor(angle))).astype(np.float32)  # small: single precision is enough
            wave += np.float32(strength) * fade * np.sin(angle)
    level, low, high, fade_s = timbre.noise
    if level:
        noise = band_noise(len(t), low, min(high, 0.45 * rate_hz), rate_hz=rate_hz, rng=rng)
        wave += level * noise * np.exp(-t / fade_s)
    rate, depth = timbre.tremolo
    if depth:
        wave *= 1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * rate * t))
    wave = (wave * (0.5 - 0.5 * np.cos(np.pi * np.clip(t / timbre.attack_s, 0, 1)))).astype(np.float32)
    wave.setflags(write=False)
    return wave


def harmonics(*strengths: float) -> tuple[tuple[float, float], ...]:
    """Partials at whole multiples of the pitch."""
    return tuple((k + 1.0, s) for k, s in enumerate(strengths))


def band_noise(n: int, low_hz: float, high_hz: float, *, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of unit strength between two frequencies, with soft edges.  → float32 [n]"""
    if n == 0:
        return np.zeros(0, np.float32)
    size = _fast_size(n)
    spectrum = np.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    hz = np.fft.rfftfreq(size, 1 / rate_hz).astype(np.float32)
    low, high = (low_hz / np.maximum(hz, 1.0)) ** 2, (hz / high_hz) ** 2
    spectrum *= 1 / ((1 + low * low) * (1 + high * high))
    noise = np.fft.irfft(spectrum, size)[:n].astype(np.float32)
    return noise / max(float(noise.std()), 1e-9)


def pan(place: float) -> tuple[float, float]:
    """Left and right strength of a source at 0 (left) … 1 (right), of equal power everywhere."""
    angle = (0.08 + 0.84 * min(max(place, 0.0), 1.0)) * np.pi / 2
    return float(np.cos(angle)), float(np.sin(angle))


def _fast_size(n: int) -> int:
    """The next length that is quick to transform: 2ᵏ or 3 · 2ᵏ."""
    power = 1 << max(n - 1, 1).bit_length()
    return 3 * power // 4 if 3 * power // 4 >= n else power


@functools.lru_cache(maxsize=4)
def room(rate_hz: int, *, seed: int = 7) -> np.ndarray:
    """A short, dark, stereo echo: float32 [n 2]. The same hall for every scene."""
    rng = np.random.default_rng(seed)
    n = int(0.55 * rate_hz)
    t = np.arange(n) / rate_hz
    middle, side = (band_noise(n, 180, 3600, rate_hz=rate_hz, rng=rng) for _ in range(2))
    echo = np.stack([middle + 0.3 * side, middle - 0.3 * side], 1)  # alike enough to leave everything in its place
    echo *= (np.exp(-t / 0.13) * np.clip(t / 0.012, 0, 1))[:, None]
    echo = (echo / np.sqrt((echo**2).sum(0, keepdims=True))).astype(np.float32)
    echo.setflags(write=False)  # shared by all callers
    return echo


def convolve(wave: np.ndarray, echo: np.ndarray) -> np.ndarray:
    """A mono wave in a room.  [n], [m 2] → float32 [n 2]"""
    if not len(wave):
        return np.zeros((0, 2), np.float32)
    return scipy.signal.oaconvolve(wave[:, None], echo, axes=0)[: len(wave)].astype(np.float32)


def perform(
    timbre: Timbre,
    notes: list[Note],
    *,
    heard: tuple[tuple[float, float], ...],
    place: float,
    loudness: float,
    duration_s: float,
    rate_hz: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """One performer's part in stereo, silent outside its heard intervals.

    Args:
        notes: what it plays.
        heard: intervals in seconds.
        place: 0 (left) … 1 (right).
        loudness: root mean square of its sound while heard, both channels together.

    Returns:
        float32 [n 2]; exactly zero outside `heard`.
    """
    part = np.zeros((round(duration_s * rate_hz), 2), np.float32)
    left, right = pan(place)
    sides = np.array([left, right], np.float32)
    echo = room(rate_hz) * (np.float32(0.22) * (np.float32(0.35) + sides) / 2)
    sounding = 0
    for start_s, end_s in heard:
        first, last = math.ceil(start_s * rate_hz), min(math.ceil(end_s * rate_hz), len(part))
        dry = np.zeros(max(last - first, 0), np.float32)
        for note in notes:
            if start_s <= note.start_s < end_s:
                sound, at = timbre.play(note, rate_hz=rate_hz, rng=rng), max(int(note.start_s * rate_hz) - first, 0)
                room_left = max(min(len(sound), len(dry) - at), 0)
                dry[at : at + room_left] += sound[:room_left]
        t = (first + np.arange(len(dry), dtype=np.float32)) / rate_hz
        opened = np.clip(np.minimum((t - start_s) / FADE_IN_S, (end_s - t) / FADE_OUT_S), 0, 1)
        part[first:last] = (dry[:, None] * sides + convolve(dry, echo)) * opened[:, None]
        sounding += np.count_nonzero(opened)
    power = np.sqrt((part**2).sum() / max(sounding, 1))
    return part * np.float32(loudness / power) if power > 0 else part
