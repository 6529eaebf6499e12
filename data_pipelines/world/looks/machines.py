"""Things with wheels, rotors and clockwork."""

from __future__ import annotations

import math

import numpy as np

from data_pipelines.world.looks.pose import INK, STEEL, Pose
from data_pipelines.world.paint import Canvas, box, disc, ellipse, length, mix, polygon, ramp, rod, turn


def _wheel(canvas: Canvas, x, y, radius: float, angle: float, *, rim=STEEL, spokes: int = 5):
    canvas.paint(disc(x, y, radius), INK, round=0.04, shine=0.2)
    canvas.paint(disc(x, y, 0.62 * radius), rim, round=0.02, shine=0.3)
    canvas.paint(disc(x, y, 0.50 * radius), (0.24, 0.25, 0.29))
    for k in range(spokes):
        sx, sy = turn(x, y, angle + 180 / spokes * k)
        canvas.paint(np.maximum(np.abs(sx) - 0.07 * radius, np.abs(sy) - 0.56 * radius), rim)
    canvas.paint(disc(x, y, 0.15 * radius), rim, round=0.02)


def motorcycle(canvas: Canvas, pose: Pose):
    """Blue motorcycle: shakes, turns its wheels and puffs smoke."""
    shake = 0.010 * pose.level * math.sin(2 * math.pi * 4 * pose.beats + pose.hit)
    x, y = canvas.x, canvas.y
    spin = -360 * pose.level * pose.beats
    for k in range(3):
        away = (0.9 * pose.beats + k / 3) % 1.0
        if pose.level > 0:
            smoke = disc(x + 0.46 + 0.10 * away, y - 0.16 - 0.16 * away, 0.025 + 0.055 * away)
            canvas.paint(smoke, (0.86, 0.86, 0.88), opacity=0.85 * pose.level * (1 - 0.35 * away))
    for at in (-0.32, 0.32):
        _wheel(canvas, x - at, y - 0.165, 0.165, spin)
    y = y - shake
    steel, blue = (0.72, 0.75, 0.80), (0.10, 0.32, 0.86)
    canvas.paint(rod(x, y, (-0.32, 0.165), (-0.05, 0.24), 0.022), steel, round=0.02, shine=0.4)
    canvas.paint(rod(x, y, (0.32, 0.165), (0.20, 0.56), 0.022), steel, round=0.02, shine=0.5)
    canvas.paint(rod(x, y, (-0.46, 0.16), (-0.02, 0.13), 0.034, 0.024), steel, round=0.03, shine=0.7)
    canvas.paint(box(x - 0.01, y - 0.22, 0.115, 0.090, 0.03), (0.32, 0.33, 0.37), round=0.03, shine=0.3)
    fins = np.maximum(np.abs(np.mod(y, 0.034) - 0.017) - 0.006, box(x - 0.01, y - 0.22, 0.10, 0.08))
    canvas.paint(fins, steel)
    canvas.paint(rod(x, y, (-0.34, 0.43), (-0.08, 0.39), 0.046), INK, round=0.04, shine=0.3)
    canvas.paint(rod(x, y, (-0.36, 0.36), (-0.16, 0.33), 0.050, 0.034), blue, round=0.04, shine=0.6)
    canvas.paint(ellipse(x - 0.055, y - 0.425, 0.165, 0.085), blue, round=0.07, shine=0.7)
    canvas.paint(rod(x, y, (-0.06, 0.43), (0.14, 0.45), 0.012), (0.97, 0.97, 0.99))
    canvas.paint(rod(x, y, (0.32, 0.34), (0.40, 0.30), 0.030), blue, round=0.03, shine=0.5)
    canvas.paint(rod(x, y, (0.20, 0.56), (0.10, 0.60), 0.016), INK, round=0.015)
    lit = (1.0, 0.95, 0.62) if pose.level > 0.05 else (0.80, 0.82, 0.84)
    canvas.paint(disc(x - 0.245, y - 0.505, 0.052), steel, round=0.04, shine=0.5)
    canvas.paint(disc(x - 0.262, y - 0.505, 0.038), lit, round=0.02)


def car(canvas: Canvas, pose: Pose):
    """Yellow car: bounces, flashes its lights when it honks."""
    x, y = canvas.x, canvas.y
    canvas.paint(np.maximum(box(x, y - 0.13, 0.46, 0.05), -np.ones_like(x)), (0.12, 0.10, 0.06))
    for at in (-0.27, 0.28):
        _wheel(canvas, x - at, y - 0.105, 0.105, -300 * pose.level * pose.beats)
    y = y - 0.012 * pose.level * math.sin(2 * math.pi * 2 * pose.beats) - 0.015 * pose.hit
    paint, dark = (1.0, 0.80, 0.10), (0.80, 0.54, 0.02)
    cabin = polygon(x, y, (-0.36, 0.30), (0.24, 0.30), (0.09, 0.50), (-0.25, 0.50)) - 0.02
    canvas.paint(cabin, mix(paint, dark, ramp(-y, -0.50, -0.30)), round=0.04, shine=0.4)
    glass = mix((0.72, 0.88, 0.96), (0.30, 0.46, 0.60), ramp(-y - 0.4 * x, -0.50, -0.32))
    canvas.paint(polygon(x, y, (-0.31, 0.315), (-0.09, 0.315), (-0.09, 0.475), (-0.225, 0.475)), glass, round=0.01)
    canvas.paint(polygon(x, y, (-0.055, 0.315), (0.18, 0.315), (0.07, 0.475), (-0.055, 0.475)), glass, round=0.01)
    body = box(x, y - 0.215, 0.475, 0.095, 0.06)
    for at in (-0.27, 0.28):
        body = np.maximum(body, -disc(x - at, y - 0.105, 0.125))
    canvas.paint(body, mix(paint, dark, ramp(-y, -0.28, -0.12)), round=0.05, shine=0.5)
    canvas.paint(np.maximum(np.abs(x + 0.072) - 0.004, np.abs(y - 0.225) - 0.075), dark)
    canvas.paint(box(x + 0.125, y - 0.255, 0.026, 0.008, 0.006), INK)
    squares = np.maximum(np.abs(y - 0.205) - 0.018, np.abs(x) - 0.44)
    checks = (np.floor(x / 0.036) + np.floor((y - 0.205) / 0.018)) % 2
    canvas.paint(np.maximum(squares, body), mix((0.99, 0.99, 0.97), INK, checks.astype(np.float32)))
    glow = max(pose.hit, 0.5 * pose.level)
    canvas.paint(
        ellipse(x - 0.455, y - 0.245, 0.036, 0.032), mix((0.86, 0.88, 0.86), (1, 0.98, 0.75), np.full_like(x, glow))
    )
    canvas.paint(ellipse(x + 0.462, y - 0.245, 0.024, 0.030), (0.86, 0.10, 0.10), round=0.02)


def helicopter(canvas: Canvas, pose: Pose):
    """Orange-and-white helicopter: lifts off; the rotors blur."""
    x, y = canvas.x, canvas.y
    y = y - 0.10 * pose.level - 0.02 * pose.sway(0.5)
    x, y = turn(x, y, 4 * pose.sway(0.5), about=(0, 0.4))
    orange, white = (0.98, 0.44, 0.10), (0.97, 0.97, 0.96)
    for at in (-0.16, 0.14):
        canvas.paint(rod(x, y, (at, 0.02), (at * 0.8, 0.17), 0.012), STEEL, round=0.01)
    canvas.paint(rod(x, y, (-0.28, 0.018), (0.28, 0.018), 0.016), STEEL, round=0.015, shine=0.4)
    canvas.paint(rod(x, y, (-0.10, 0.34), (-0.50, 0.42), 0.060, 0.020), orange, round=0.05, shine=0.2)
    canvas.paint(polygon(x, y, (-0.52, 0.40), (-0.45, 0.40), (-0.49, 0.56), (-0.55, 0.56)), orange, round=0.02)
    cabin = ellipse(x - 0.06, y - 0.30, 0.30, 0.165)
    canvas.paint(cabin, mix(orange, white, ramp(y + 0.15 * x, 0.25, 0.27)), round=0.09, shine=0.4)
    canvas.paint(
        np.maximum(cabin + 0.022, polygon(x, y, (0.16, 0.27), (0.40, 0.27), (0.40, 0.52), (0.10, 0.52))),
        mix((0.62, 0.84, 0.95), (0.20, 0.36, 0.54), ramp(-y, -0.44, -0.28)), round=0.02, shine=0.5,
    )  # fmt: skip
    canvas.paint(box(x + 0.02, y - 0.315, 0.055, 0.060, 0.015), (0.38, 0.56, 0.70), round=0.015)
    canvas.paint(rod(x, y, (0.02, 0.45), (0.02, 0.54), 0.024), (0.36, 0.37, 0.42), round=0.02)
    turns = 3.1 * pose.beats
    if pose.level > 0.05:
        canvas.paint(ellipse(x - 0.02, y - 0.555, 0.50, 0.040), (0.80, 0.82, 0.86), opacity=0.16 * pose.level)
        canvas.paint(disc(x + 0.52, y - 0.50, 0.085), (0.80, 0.82, 0.86), opacity=0.16 * pose.level)
    reach = 0.50 if pose.level <= 0 else 0.20 + 0.30 * abs(math.cos(2 * math.pi * turns))
    canvas.paint(rod(x, y, (0.02 - reach, 0.555), (0.02 + reach, 0.555), 0.014), (0.22, 0.23, 0.27), round=0.012)
    tx, ty = turn(x, y, 50 + 720 * pose.level * turns, about=(-0.52, 0.50))
    canvas.paint(rod(tx, ty, (-0.52, 0.42), (-0.52, 0.58), 0.011), (0.22, 0.23, 0.27))


def clock(canvas: Canvas, pose: Pose):
    """Violet alarm clock: rocks from foot to foot, its hammer and hands move."""
    violet, gold = (0.50, 0.24, 0.76), (0.97, 0.80, 0.34)
    x, y = turn(canvas.x, canvas.y, 8 * pose.sway(1.0), about=(0, 0.05))
    for side in (-1, 1):
        canvas.paint(rod(x, y, (side * 0.16, 0.14), (side * 0.23, 0.025), 0.028), gold, round=0.025, shine=0.4)
        bx, by = turn(x, y, -side * 34, about=(side * 0.19, 0.70))
        bell = np.maximum(disc(bx - side * 0.19, by - 0.68, 0.125), -(by - 0.68))
        canvas.paint(bell, gold, round=0.05, shine=0.7)
        canvas.paint(disc(bx - side * 0.19, by - 0.815, 0.022), gold, round=0.02, shine=0.5)
    hx, hy = turn(x, y, 22 * pose.level * math.cos(2 * math.pi * 2 * pose.beats), about=(0, 0.62))
    canvas.paint(rod(hx, hy, (0, 0.62), (0, 0.77), 0.012), STEEL, round=0.01)
    canvas.paint(box(hx, hy - 0.79, 0.044, 0.024, 0.01), STEEL, round=0.02, shine=0.5)
    face = disc(x, y - 0.40, 0.325)
    canvas.paint(face, violet, round=0.06, shine=0.6)
    canvas.paint(face + 0.062, (0.99, 0.98, 0.93), round=0.012)
    radius = length(x, y - 0.40)
    angle = np.arctan2(x, y - 0.40) / (2 * np.pi) * 12
    tick = np.maximum(np.abs(angle - np.rint(angle)) * radius * (np.pi / 6) - 0.011, np.abs(radius - 0.222) - 0.022)
    canvas.paint(tick, INK)
    for reach, thick, degrees in ((0.125, 0.020, 60 + 4 * pose.beats * pose.level), (0.195, 0.014, 300)):
        mx, my = turn(x, y, -degrees, about=(0, 0.40))
        canvas.paint(rod(mx, my, (0, 0.40), (0, 0.40 + reach), thick, 0.6 * thick), INK)
    sx, sy = turn(x, y, -90 * math.floor(2 * pose.beats * pose.level + 1e-6), about=(0, 0.40))
    canvas.paint(rod(sx, sy, (0, 0.34), (0, 0.61), 0.008), (0.90, 0.12, 0.16))
    canvas.paint(disc(x, y - 0.40, 0.024), (0.90, 0.12, 0.16), round=0.02)


def train(canvas: Canvas, pose: Pose):
    """Green steam engine: puffs, its rods turn, its boiler shakes."""
    x, y = canvas.x, canvas.y
    green, dark, red = (0.06, 0.44, 0.22), (0.03, 0.20, 0.12), (0.82, 0.12, 0.12)
    for k in range(3):
        away = (0.7 * pose.beats + k / 3) % 1.0
        if pose.level > 0:
            puff = disc(x - 0.30 + 0.34 * away, y - 0.72 - 0.20 * away, 0.045 + 0.085 * away)
            canvas.paint(puff, (0.95, 0.95, 0.97), round=0.06, opacity=0.92 * pose.level * (1 - 0.4 * away))
    angle = -260 * pose.level * pose.beats
    for at, radius in ((-0.30, 0.125), (-0.03, 0.125), (0.20, 0.080), (0.37, 0.080)):
        _wheel(canvas, x - at, y - radius, radius, angle, rim=red, spokes=4)
    swing = math.radians(angle)
    ends = [(at + 0.06 * math.cos(swing), 0.125 + 0.06 * math.sin(swing)) for at in (-0.30, -0.03)]
    canvas.paint(rod(x, y, ends[0], ends[1], 0.016), STEEL, round=0.015, shine=0.4)
    canvas.paint(rod(x, y, ends[1], (0.24, 0.14), 0.013), STEEL, round=0.012, shine=0.4)
    y = y - 0.008 * pose.level * math.sin(2 * math.pi * 2 * pose.beats)
    canvas.paint(box(x + 0.02, y - 0.235, 0.46, 0.030, 0.01), (0.16, 0.15, 0.17), round=0.02)
    canvas.paint(polygon(x, y, (0.40, 0.03), (0.53, 0.03), (0.44, 0.22), (0.40, 0.22)), red, round=0.02)
    boiler = box(x - 0.14, y - 0.385, 0.30, 0.125, 0.05)
    canvas.paint(boiler, mix(green, dark, ramp(np.abs(y - 0.41) / 0.125, 0.2, 1.1)), round=0.03, shine=0.5)
    bands = np.maximum(np.abs(np.mod(x + 0.02, 0.15) - 0.075) - 0.008, boiler)
    canvas.paint(bands, (0.96, 0.78, 0.32))
    canvas.paint(box(x - 0.425, y - 0.385, 0.022, 0.125, 0.01), INK, round=0.02, shine=0.4)
    stack = np.maximum(np.abs(x - 0.31) - 0.045 - 0.22 * np.maximum(y - 0.62, 0), np.abs(y - 0.58) - 0.095)
    canvas.paint(stack, INK, round=0.03, shine=0.3)
    canvas.paint(ellipse(x - 0.09, y - 0.515, 0.070, 0.060), (0.96, 0.78, 0.32), round=0.05, shine=0.7)
    canvas.paint(box(x + 0.29, y - 0.435, 0.135, 0.195, 0.015), green, round=0.03, shine=0.2)
    canvas.paint(box(x + 0.29, y - 0.505, 0.080, 0.065, 0.015), (0.98, 0.88, 0.56), round=0.015)
    canvas.paint(box(x + 0.29, y - 0.645, 0.175, 0.024, 0.015), dark, round=0.02, shine=0.3)
    canvas.paint(disc(x - 0.445, y - 0.50, 0.040), (1.0, 0.94, 0.62) if pose.level > 0.05 else STEEL, round=0.03)


def frying_food(canvas: Canvas, pose: Pose):
    """Black pan with two fried eggs over a flame: fat leaps, steam rises."""
    x, y = canvas.x, canvas.y
    canvas.paint(rod(np.abs(x), y, (0.27, 0.02), (0.22, 0.26), 0.020), STEEL, round=0.02, shine=0.3)
    canvas.paint(rod(x, y, (-0.26, 0.10), (0.26, 0.10), 0.016), STEEL, round=0.015, shine=0.3)
    for k, at in enumerate((-0.13, -0.045, 0.045, 0.13)):
        high = 0.085 + 0.055 * pose.level * (0.5 + 0.5 * math.sin(9 * pose.beats + 2.1 * k))
        canvas.paint(ellipse(x - at, y - 0.13 - high / 2, 0.036, high), (0.30, 0.55, 0.98), opacity=0.9)
        canvas.paint(ellipse(x - at, y - 0.13 - high / 3, 0.018, 0.6 * high), (0.98, 0.82, 0.36), opacity=0.9)
    jig = 0.010 * pose.level * math.sin(2 * math.pi * 2 * pose.beats)
    x, y = turn(x - jig, y, 2 * pose.sway(1.0), about=(0, 0.3))
    canvas.paint(rod(x, y, (0.30, 0.345), (0.56, 0.41), 0.026, 0.032), (0.34, 0.20, 0.12), round=0.03, shine=0.3)
    side = np.maximum(ellipse(x, y - 0.35, 0.335, 0.15), y - 0.35)
    canvas.paint(side, (0.17, 0.17, 0.19), round=0.04, shine=0.5)
    canvas.paint(ellipse(x, y - 0.35, 0.335, 0.085), (0.27, 0.27, 0.30), round=0.02, shine=0.6)
    canvas.paint(ellipse(x, y - 0.347, 0.295, 0.066), (0.52, 0.36, 0.12), round=0.01)
    for at_x, at_y, turn_ in ((-0.115, 0.352, 0.0), (0.125, 0.346, 1.4)):
        edge = 0.012 * np.sin(5 * np.arctan2(y - at_y, x - at_x) + turn_)
        canvas.paint(ellipse(x - at_x, y - at_y, 0.125, 0.046) - edge, (0.99, 0.98, 0.94), round=0.012)
        canvas.paint(ellipse(x - at_x, y - at_y - 0.012, 0.050, 0.028), (1.0, 0.72, 0.10), round=0.025, shine=0.6)
    for k in range(9):
        phase = (1.5 * pose.beats + 0.37 * k) % 1.0
        at = -0.26 + 0.065 * k
        leap = 0.36 * pose.level * phase * (1 - phase) * (2.6 + math.sin(5.0 * k))
        if pose.level > 0:
            canvas.paint(disc(x - at - 0.04 * phase, y - 0.36 - leap, 0.014), (1.0, 0.86, 0.45), opacity=pose.level)
    for k in (-1, 0, 1):
        drift = 0.03 * np.sin(14 * y + 5 * pose.beats + 2 * k)
        steam = np.maximum(np.abs(x - 0.15 * k - drift) - 0.020, np.abs(y - 0.60) - 0.13)
        canvas.paint(steam, (0.92, 0.93, 0.95), opacity=0.16 * pose.level)
