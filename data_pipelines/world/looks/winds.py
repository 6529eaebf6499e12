"""Instruments that air plays."""

from __future__ import annotations

import numpy as np

from data_pipelines.world.looks.pose import INK, STEEL, Pose, stand
from data_pipelines.world.paint import Canvas, blend, box, disc, ellipse, mix, nearest, ramp, repeat, ring, rod, turn


def flute(canvas: Canvas, pose: Pose):
    """Silver flute on a slim stand: tilts and bobs; keys press as notes change."""
    stand(canvas, 0.50)
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
    stand(canvas, 0.46)
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


def saxophone(canvas: Canvas, pose: Pose):
    """Saxophone: coppery and curved, pearl keys; it swings its bell up."""
    canvas.paint(rod(canvas.x, canvas.y, (-0.10, 0.014), (0.14, 0.014), 0.014), INK, round=0.012, shine=0.3)
    canvas.paint(rod(canvas.x, canvas.y, (0.02, 0.014), (0.02, 0.16), 0.014), INK, round=0.012, shine=0.3)
    x, y = turn(canvas.x, canvas.y, 6 * pose.sway() + 7 * pose.hit, about=(0, 0.12))
    copper, dark, light = (0.90, 0.46, 0.24), (0.48, 0.17, 0.08), (1.0, 0.78, 0.56)
    path = rod(x, y, (-0.20, 0.90), (-0.09, 0.93), 0.018, 0.022)  # neck
    path = blend(path, rod(x, y, (-0.09, 0.93), (-0.05, 0.84), 0.022, 0.028), 0.02)
    path = np.minimum(path, rod(x, y, (-0.05, 0.84), (-0.01, 0.25), 0.028, 0.058))
    canvas.paint(path, dark, round=0.02)
    canvas.paint(path + 0.006, copper, round=0.05, shine=0.8)
    bow = np.maximum(ring(disc(x - 0.095, y - 0.235, 0.108), 0.118), y - 0.24)
    canvas.paint(bow, copper, round=0.05, shine=0.7)
    flare = rod(x, y, (0.205, 0.235), (0.265, 0.46), 0.062, 0.105)
    canvas.paint(np.maximum(flare, y - 0.475 - 0.20 * (x - 0.265)), copper, round=0.06, shine=0.7)
    mx, my = turn(x, y, 14, about=(0.27, 0.48))
    canvas.paint(ellipse(mx - 0.27, my - 0.485, 0.140, 0.048), light, round=0.02, shine=0.6)
    canvas.paint(ellipse(mx - 0.27, my - 0.490, 0.112, 0.033), (0.28, 0.10, 0.06))
    canvas.paint(rod(x, y, (-0.30, 0.87), (-0.20, 0.90), 0.020, 0.018), INK, round=0.02, shine=0.4)
    for k in range(6):
        at_x, at_y = -0.035 + 0.0085 * k, 0.74 - 0.085 * k
        pressed = 0.010 if pose.level > 0.05 and (pose.count + k) % 3 == 0 else 0.0
        canvas.paint(disc(x - at_x - 0.012 + pressed, y - at_y, 0.027), (0.99, 0.97, 0.93), round=0.02, shine=0.5)
        canvas.paint(ring(disc(x - at_x - 0.012 + pressed, y - at_y, 0.029), 0.007), dark)
    canvas.paint(rod(x, y, (0.045, 0.70), (0.085, 0.30), 0.008), light, round=0.008)
