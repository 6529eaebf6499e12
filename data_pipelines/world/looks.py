"""What every kind of performer looks like, and how it moves while it sounds.

A look is a function of a canvas and a pose. Coordinates are the performer's own: feet at the origin, y upwards, about
one unit high and wide; `Kind.wide` and `Kind.tall` say how far each reaches.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from data_pipelines.world.paint import (
    Canvas,
    blend,
    box,
    cut,
    disc,
    ellipse,
    grain,
    length,
    mix,
    nearest,
    ramp,
    repeat,
    ring,
    rod,
    turn,
)


@dataclasses.dataclass(frozen=True)
class Pose:
    """One moment of a performer.

    Attributes:
        level: 0 while silent, 1 while it sounds, with short ramps between them.
        hit: 1 at the start of a note, fading within a fifth of a second.
        beats: musical time, counted in beats.
        count: how many notes have started, so that left and right hands can take turns.
    """

    level: float = 0.0
    hit: float = 0.0
    beats: float = 0.0
    count: int = 0

    def sway(self, per_beat: float = 0.5) -> float:
        """A smooth swing between -1 and 1 in time with the music; at rest while silent."""
        return self.level * math.sin(2 * math.pi * per_beat * self.beats)


INK = (0.10, 0.08, 0.09)
STEEL = (0.80, 0.83, 0.88)


def _stand(canvas: Canvas, height: float, *, colour=(0.20, 0.21, 0.25)):
    x, y = canvas.x, canvas.y
    canvas.paint(rod(np.abs(x), y, (0, 0.14), (0.15, 0.012), 0.012), colour, round=0.012, shine=0.3)
    canvas.paint(rod(x, y, (0, 0.012), (0, height), 0.013), colour, round=0.013, shine=0.4)


def guitar(canvas: Canvas, pose: Pose):
    """Acoustic guitar: spruce top, swaying; the strings blur when plucked."""
    x, y = turn(canvas.x, canvas.y, 7 + 7 * pose.sway(), about=(0, 0))
    y = y - 0.015
    body = blend(disc(x, y - 0.215, 0.205), disc(x, y - 0.475, 0.150), 0.10)
    canvas.paint(box(x, y - 0.70, 0.030, 0.24, 0.01), (0.30, 0.17, 0.10), round=0.02)
    wood = mix((0.93, 0.58, 0.22), (0.80, 0.42, 0.12), grain(x, y, lines=70))
    canvas.paint(body, (0.36, 0.16, 0.07), round=0.03, shine=0.4)
    canvas.paint(body + 0.016, mix(wood, (0.58, 0.25, 0.07), ramp(body, -0.09, -0.005)), round=0.05, shine=0.25)
    canvas.paint(ring(disc(x, y - 0.40, 0.078), 0.014), (0.97, 0.86, 0.60))
    canvas.paint(disc(x, y - 0.40, 0.066), (0.13, 0.06, 0.04))
    canvas.paint(box(x, y - 0.66, 0.024, 0.255, 0.004), (0.20, 0.11, 0.08))
    octave = np.log2(np.maximum(y - 0.05, 0.1) / 0.87) * 12  # frets are closer the higher they sit
    apart = (y - 0.05) * (math.log(2) / 12)
    frets = np.maximum(np.abs(repeat(octave, 1.0, -9, -1)) * apart - 0.0035, box(x, y - 0.70, 0.024, 0.20))
    canvas.paint(frets, (0.78, 0.72, 0.60))
    canvas.paint(box(x, y - 0.965, 0.045, 0.055, 0.012), (0.30, 0.16, 0.09), round=0.02, shine=0.3)
    canvas.paint(disc(np.abs(x) - 0.055, repeat(y - 0.965, 0.030, -1, 1), 0.011), STEEL, round=0.01, shine=0.5)
    canvas.paint(box(x, y - 0.165, 0.075, 0.016, 0.008), (0.22, 0.11, 0.07), round=0.012)
    shake = 0.008 * pose.hit
    thick = 0.0022 + 0.5 * shake * np.sin(np.pi * np.clip((y - 0.165) / 0.755, 0, 1))
    strings = np.maximum(np.abs(repeat(x - 0.005, 0.010, -2, 1)) - thick, np.abs(y - 0.54) - 0.385)
    canvas.paint(strings, (0.96, 0.93, 0.84), opacity=0.9 - 40 * shake)


def violin(canvas: Canvas, pose: Pose):
    """Violin: dark red varnish and a waist; the bow travels back and forth."""
    x, y = turn(canvas.x, canvas.y, -5 + 5 * pose.sway(), about=(0, 0))
    y = y - 0.055
    canvas.paint(rod(x, y, (0, 0.06), (0, -0.045), 0.010), STEEL, round=0.01, shine=0.5)
    body = blend(ellipse(x, y - 0.21, 0.185, 0.165), ellipse(x, y - 0.505, 0.148, 0.125), 0.10)
    body = cut(body, ellipse(np.abs(x) - 0.190, y - 0.365, 0.078, 0.088))
    canvas.paint(body, (0.22, 0.05, 0.03), round=0.02, shine=0.3)
    varnish = mix((0.74, 0.22, 0.09), (0.55, 0.12, 0.05), grain(x, y, lines=55, wobble=1.6))
    canvas.paint(body + 0.012, mix(varnish, (0.36, 0.06, 0.03), ramp(body, -0.07, -0.01)), round=0.07, shine=0.5)
    fx = np.abs(x) - 0.078
    f_hole = np.minimum(rod(fx, y, (0.010, 0.305), (-0.006, 0.415), 0.007), disc(fx - 0.016, y - 0.300, 0.012))
    canvas.paint(np.minimum(f_hole, disc(fx + 0.012, y - 0.420, 0.010)), INK)
    canvas.paint(rod(x, y, (0, 0.09), (0, 0.235), 0.020, 0.034), INK, round=0.02, shine=0.2)
    canvas.paint(box(x, y - 0.335, 0.062, 0.011, 0.008), (0.90, 0.72, 0.42), round=0.01)
    canvas.paint(rod(x, y, (0, 0.46), (0, 0.88), 0.030, 0.020), INK, round=0.02, shine=0.25)
    canvas.paint(rod(x, y, (0, 0.87), (0, 0.925), 0.020), (0.45, 0.11, 0.05), round=0.02, shine=0.3)
    canvas.paint(disc(x - 0.004, y - 0.950, 0.034), (0.52, 0.13, 0.06), round=0.03, shine=0.4)
    canvas.paint(disc(x - 0.004, y - 0.950, 0.012), INK)
    canvas.paint(rod(np.abs(x), y, (0, 0.885), (0.055, 0.900), 0.009), INK, round=0.008)
    strings = np.maximum(np.abs(repeat(x - 0.004, 0.008, -2, 1)) - 0.0018, np.abs(y - 0.535) - 0.365)
    canvas.paint(strings, (0.93, 0.90, 0.82))
    travel = 0.17 * pose.sway(0.5)
    bx, by = turn(x, y, 14, about=(0, 0.385))
    bx = bx - travel
    canvas.paint(rod(bx, by, (-0.34, 0.405), (0.34, 0.400), 0.0085), (0.33, 0.15, 0.07), round=0.008, shine=0.5)
    canvas.paint(rod(bx, by, (-0.33, 0.385), (0.31, 0.385), 0.0045), (0.97, 0.96, 0.90))
    canvas.paint(box(bx - 0.30, by - 0.394, 0.026, 0.014, 0.006), INK, round=0.01)


def drum(canvas: Canvas, pose: Pose):
    """Snare drum: scarlet shell, gold hoops, a pale skin; the sticks take turns and the skin dips."""
    squash = 1 - 0.05 * pose.hit
    x, y = canvas.x / (2 - squash), canvas.y / squash
    width, low, high, depth = 0.37, 0.13, 0.52, 0.085
    canvas.paint(rod(np.abs(x), y, (0.26, 0.02), (0.22, 0.20), 0.019), STEEL, round=0.018, shine=0.5)
    shell = np.minimum(box(x, y - (low + high) / 2, width, (high - low) / 2), ellipse(x, y - low, width, depth))
    edge = np.clip(np.abs(x) / width, 0, 1)
    red = mix((0.90, 0.13, 0.14), (0.32, 0.02, 0.06), ramp(edge, 0.25, 1.05))
    red = mix(red, (1.0, 0.55, 0.50), 0.55 * np.exp(-(((x + 0.17) / 0.05) ** 2)))
    canvas.paint(shell, red)
    rim = -depth * np.sqrt(np.clip(1 - edge * edge, 0, 1))
    around = np.arcsin(np.clip(x / width, -1, 1)) / 0.54  # the ropes zigzag evenly around the shell
    zigzag = np.abs(2 * (around - np.floor(around)) - 1)
    rope = np.abs(y - rim - (low + 0.03) - zigzag * (high - low - 0.06))
    slope = 2 * (high - low - 0.06) / 0.54 / (width * np.sqrt(np.clip(1 - edge * edge, 0.08, 1)))
    canvas.paint(np.maximum(rope / np.sqrt(1 + slope * slope) - 0.0085, shell + 0.004), (0.98, 0.93, 0.78), round=0.007)
    gold = mix((0.98, 0.76, 0.26), (0.55, 0.34, 0.07), ramp(edge, 0.2, 1.1))
    for level in (low, high):
        band = np.maximum(np.abs(y - level - rim) - 0.026, np.abs(x) - width - 0.012)
        canvas.paint(band, gold, round=0.014, shine=0.5)
    skin_y = y - high - 0.010
    canvas.paint(ellipse(x, skin_y, width + 0.012, depth + 0.012), gold, round=0.014, shine=0.5)
    wave = 0.10 * pose.hit * np.cos(38 * length(x, skin_y * width / depth))
    canvas.paint(
        ellipse(x, skin_y, width - 0.012, depth - 0.006), mix((0.96, 0.93, 0.86), (1, 1, 1), 2 * wave), round=0.02
    )
    for side in (-1, 1):
        now = pose.hit if (pose.count % 2 == 0) == (side < 0) else 0.0
        rise = (0.055 + 0.17 * pose.level) * (1 - now)
        tip = side * 0.09, high + 0.028 + rise
        butt = side * 0.43, high + 0.20 + 0.7 * rise
        canvas.paint(rod(x, y, tip, butt, 0.012, 0.018), (0.93, 0.76, 0.50), round=0.014, shine=0.3)
        canvas.paint(ellipse(x - tip[0], y - tip[1], 0.026, 0.020), (0.97, 0.84, 0.60), round=0.018, shine=0.3)


def bell(canvas: Canvas, pose: Pose):
    """Bronze bell in an oak frame: it swings, and the clapper follows."""
    x, y = canvas.x, canvas.y
    oak = mix((0.47, 0.30, 0.17), (0.34, 0.20, 0.10), grain(y, x, lines=60))
    canvas.paint(rod(np.abs(x), y, (0.40, 0.03), (0.31, 0.90), 0.030), oak, round=0.028, shine=0.15)
    canvas.paint(rod(np.abs(x), y, (0.31, 0.028), (0.48, 0.028), 0.028), oak, round=0.025, shine=0.15)
    canvas.paint(rod(x, y, (-0.37, 0.91), (0.37, 0.91), 0.034), oak, round=0.03, shine=0.15)
    angle = 19 * pose.sway(0.5)
    cx, cy = turn(x, y, angle * 0.55 - 5 * pose.level, about=(0, 0.86))
    canvas.paint(rod(cx, cy, (0, 0.60), (0, 0.275), 0.012), (0.24, 0.17, 0.10))
    canvas.paint(disc(cx, cy - 0.262, 0.042), (0.45, 0.30, 0.12), round=0.04, shine=0.6)
    bx, by = turn(x, y, angle, about=(0, 0.86))
    v = np.clip((by - 0.30) / 0.50, 0, 1)  # 0 at the lip, 1 at the crown
    half = 0.125 + 0.155 * np.exp(-6.0 * v) + 0.045 * np.sqrt(np.clip(1 - v, 0, 1))
    half = np.where(v > 0.8, half * np.sqrt(np.clip(1 - ((v - 0.8) / 0.205) ** 2, 0, 1)), half)
    skirt = np.maximum((np.abs(bx) - half) * 0.85, np.abs(by - 0.55) - 0.25)
    bronze = mix((0.96, 0.71, 0.28), (0.46, 0.26, 0.07), ramp(np.abs(bx + 0.03) / np.maximum(half, 0.02), 0.15, 1.05))
    bronze = mix(bronze, (1.0, 0.95, 0.72), 0.75 * np.exp(-(((bx + 0.42 * half) / (0.16 * half + 0.01)) ** 2)))
    canvas.paint(skirt, bronze)
    for at, thick in ((0.335, 0.013), (0.365, 0.006), (0.640, 0.007), (0.665, 0.007)):
        canvas.paint(np.maximum(np.abs(by - at) - thick, skirt), (0.40, 0.21, 0.06), opacity=0.75)
    canvas.paint(rod(bx, by, (-0.275, 0.305), (0.275, 0.305), 0.020), (0.84, 0.57, 0.19), round=0.018, shine=0.6)
    canvas.paint(ring(disc(bx, by - 0.835, 0.034), 0.022), (0.74, 0.50, 0.18), round=0.01, shine=0.4)


def flute(canvas: Canvas, pose: Pose):
    """Silver flute on a slim stand: tilts and bobs; keys press as notes change."""
    _stand(canvas, 0.50)
    x, y = turn(canvas.x, canvas.y - 0.52 - 0.02 * pose.sway(1.0), 24 + 7 * pose.sway(), about=(0, 0))
    tube = np.maximum(np.abs(y) - 0.043, np.abs(x + 0.010) - 0.515)
    silver = mix((0.90, 0.93, 0.98), (0.36, 0.41, 0.54), ramp(np.abs(y - 0.013) / 0.043, 0.15, 1.0))
    canvas.paint(tube, silver)
    for at, wide in ((-0.50, 0.028), (-0.13, 0.015), (0.30, 0.015), (0.49, 0.013)):
        canvas.paint(box(x - at, y, wide, 0.050, 0.005), (0.96, 0.80, 0.42), round=0.045, shine=0.4)
    canvas.paint(ellipse(x + 0.34, y - 0.026, 0.080, 0.040), (0.90, 0.93, 0.98), round=0.034, shine=0.6)
    canvas.paint(ellipse(x + 0.34, y - 0.034, 0.030, 0.014), INK)
    key = nearest(x + 0.02, 0.057, -1, 6)
    pressed = (pose.level > 0.05) & ((pose.count * 3 + key) % 7 < 3)
    kx, ky = x + 0.02 - 0.057 * key, y - np.where(pressed, np.float32(0.028), np.float32(0.046))
    canvas.paint(ellipse(kx, ky, 0.024, 0.015), (0.93, 0.95, 0.99), round=0.014, shine=0.7)
    canvas.paint(ellipse(kx, ky, 0.011, 0.006), (0.52, 0.56, 0.66))
    canvas.paint(rod(x, y, (-0.10, -0.034), (0.45, -0.034), 0.007), (0.60, 0.64, 0.74), round=0.006)


def trumpet(canvas: Canvas, pose: Pose):
    """Brass trumpet on a stand: lifts its bell while it sounds; the valves move."""
    _stand(canvas, 0.46)
    lift = 9 * pose.level + 3 * pose.hit
    x, y = turn(canvas.x, canvas.y - 0.55, lift, about=(0, 0))
    brass, dark = (0.98, 0.76, 0.22), (0.62, 0.38, 0.06)
    loop = ring(box(x + 0.02, y + 0.075, 0.245, 0.082, 0.080), 0.036)
    canvas.paint(loop, dark, round=0.02)
    canvas.paint(loop + 0.004, brass, round=0.016, shine=0.7)
    canvas.paint(rod(x, y, (-0.47, 0.006), (0.24, 0.006), 0.017), brass, round=0.016, shine=0.7)
    v = np.clip((x - 0.06) / 0.44, 0, 1)
    half = 0.018 + 0.020 * v + 0.145 * v**5
    flare = np.maximum(np.abs(y - 0.006) - half, np.abs(x - 0.28) - 0.22)
    gold = mix((1.0, 0.87, 0.45), (0.60, 0.34, 0.05), ramp(np.abs(y - 0.03) / np.maximum(half, 0.01), 0.1, 1.15))
    canvas.paint(flare, gold)
    canvas.paint(ellipse(x - 0.50, y - 0.006, 0.040, 0.186), (0.99, 0.83, 0.36), round=0.016, shine=0.7)
    canvas.paint(ellipse(x - 0.508, y - 0.006, 0.026, 0.160), (0.44, 0.24, 0.05))
    canvas.paint(ellipse(x - 0.514, y - 0.006, 0.016, 0.110), (0.18, 0.09, 0.03))
    valve = nearest(x + 0.017, 0.068, -1, 1)
    vx = x + 0.017 - 0.068 * valve
    down = np.where((pose.level > 0.05) & ((pose.count + valve) % 3 == 0), np.float32(0.030), np.float32(0))
    canvas.paint(rod(vx, y + down, (0, 0.06), (0, 0.135), 0.008), STEEL, round=0.008)
    canvas.paint(box(vx, y - 0.142 + down, 0.021, 0.010, 0.006), (0.95, 0.95, 0.97), round=0.01, shine=0.5)
    canvas.paint(box(vx, y + 0.045, 0.027, 0.118, 0.012), brass, round=0.027, shine=0.8)
    canvas.paint(box(vx, y - 0.052, 0.028, 0.010, 0.004), dark)
    canvas.paint(rod(x, y, (-0.52, 0.006), (-0.45, 0.006), 0.034, 0.015), STEEL, round=0.03, shine=0.7)


def accordion(canvas: Canvas, pose: Pose):
    """Accordion: emerald boxes, ivory keys; the bellows breathe."""
    stretch = 0.5 + 0.5 * pose.sway(0.5)
    half = 0.115 + 0.125 * stretch
    x, y = turn(canvas.x, canvas.y, -3 * pose.sway(0.5), about=(0, 0))
    y = y - 0.36 - 0.012 * pose.hit
    canvas.paint(rod(np.abs(x), y, (half + 0.09, -0.30), (half + 0.09, -0.345), 0.016), INK)  # little feet
    bellows = box(x, y, half + 0.01, 0.262)
    fold = x / half * (5 * np.pi)
    zig = 0.018 * np.abs(np.sin(fold / 2 + np.pi / 2))
    cloth = mix((0.16, 0.15, 0.19), (0.86, 0.80, 0.68), ramp(np.cos(fold), 0.2, 0.75))
    canvas.paint(np.maximum(bellows, np.abs(y) - 0.262 + zig), cloth * (0.80 + 0.25 * ramp(y, -0.3, 0.3))[..., None])
    case = box(np.abs(x) - half - 0.085, y, 0.092, 0.300, 0.035)
    pearl = 0.5 + 0.5 * np.sin(31 * x + 9 * np.sin(17 * y)) * np.sin(27 * y + 5 * x)
    green = mix((0.02, 0.42, 0.32), (0.10, 0.70, 0.52), 0.55 * ramp(y, -0.35, 0.3) + 0.30 * pearl)
    canvas.paint(case, green, round=0.05, shine=0.55)
    canvas.paint(ring(case + 0.018, 0.007), (0.95, 0.80, 0.42))
    kx = x + half + 0.120
    canvas.paint(box(kx, y, 0.050, 0.235, 0.008), (0.97, 0.95, 0.90), round=0.01)
    canvas.paint(box(kx, repeat(y, 0.047, -4, 4), 0.050, 0.0022), (0.45, 0.43, 0.42))
    for middle, first, last in ((0.1645, -1, 0), (0.0, -1, 1), (-0.1645, 0, 1)):  # black keys, by two and by three
        canvas.paint(box(kx - 0.020, repeat(y - middle, 0.047, first, last), 0.029, 0.012, 0.004), INK)
    pressed = -0.21 + 0.047 * ((pose.count * 4) % 9)
    if pose.level > 0.05:
        canvas.paint(box(kx + 0.020, y - pressed, 0.026, 0.018, 0.004), (0.99, 0.76, 0.30), opacity=0.9 * pose.level)
    dx = x - half - 0.105
    buttons = disc(repeat(dx, 0.036, -1, 1), repeat(y - 0.0325, 0.065, -3, 2), 0.0125)
    canvas.paint(buttons, (0.97, 0.95, 0.92), round=0.01)


def bird(canvas: Canvas, pose: Pose):
    """Blue songbird on a post: hops, opens its beak, beats its wings."""
    x, y = canvas.x, canvas.y
    bark = mix((0.42, 0.28, 0.17), (0.26, 0.16, 0.10), grain(x, y, lines=75, wobble=1.5))
    canvas.paint(box(x, y - 0.19, 0.070, 0.19, 0.02), bark, round=0.06, shine=0.1)
    canvas.paint(ellipse(x, y - 0.375, 0.072, 0.022), (0.76, 0.60, 0.40), round=0.008)
    hop = 0.07 * pose.hit
    for leg in (-0.030, 0.035):
        canvas.paint(rod(x, y, (leg, 0.385 + hop), (leg, 0.455 + hop), 0.009), (0.95, 0.62, 0.16))
    x, y = turn(x, y - hop, 5 * pose.sway(), about=(0, 0.45))
    canvas.paint(rod(x, y, (0.16, 0.56), (0.40, 0.44 + 0.05 * pose.hit), 0.050, 0.026), (0.08, 0.26, 0.55), round=0.03)
    body = blend(ellipse(x, y - 0.605, 0.225, 0.175), disc(x + 0.125, y - 0.785, 0.125), 0.10)
    feathers = 0.5 + 0.5 * np.sin(60 * x + 3 * np.sin(40 * y)) * np.sin(52 * y)
    blue = mix((0.14, 0.47, 0.86), (0.26, 0.62, 0.97), 0.6 * feathers)
    breast = ramp(-(x * 0.75 + (y - 0.64)), -0.02, 0.14) * ramp(-x, -0.08, 0.03)
    canvas.paint(body, mix(blue, (0.99, 0.66, 0.34), breast), round=0.10, shine=0.25)
    wx, wy = turn(x, y, -34 * pose.hit + 6, about=(0.02, 0.66))
    wing = np.maximum(ellipse(wx - 0.105, wy - 0.590, 0.165, 0.085), ellipse(wx - 0.13, wy - 0.640, 0.21, 0.14))
    canvas.paint(
        wing, mix((0.06, 0.25, 0.58), (0.16, 0.42, 0.78), ramp(np.sin(70 * wx), 0.1, 0.9)), round=0.03, shine=0.2
    )
    gape = 17 * pose.hit + 4 * pose.level
    for direction in (-1, 1):
        beak_x, beak_y = turn(x, y, -direction * (gape + 9), about=(-0.235, 0.785))
        beak = rod(beak_x, beak_y, (-0.225, 0.785), (-0.335, 0.785), 0.026, 0.003)
        canvas.paint(beak, (0.99, 0.70, 0.16) if direction > 0 else (0.90, 0.54, 0.10), round=0.02, shine=0.2)
    canvas.paint(disc(x + 0.160, y - 0.820, 0.034), (0.98, 0.98, 0.99))
    canvas.paint(disc(x + 0.168, y - 0.820, 0.022), INK)
    canvas.paint(disc(x + 0.176, y - 0.829, 0.008), (1, 1, 1))
