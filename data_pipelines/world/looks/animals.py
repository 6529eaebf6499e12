"""Animals."""

from __future__ import annotations

import numpy as np

from data_pipelines.world.looks.pose import INK, Pose
from data_pipelines.world.paint import Canvas, blend, box, disc, ellipse, grain, mix, polygon, ramp, ring, rod, turn


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


def cat(canvas: Canvas, pose: Pose):
    """Orange tabby, sitting: its tail waves, its mouth opens when it mews."""
    x, y = canvas.x, canvas.y
    fur, dark, cream = (0.96, 0.58, 0.20), (0.74, 0.36, 0.08), (1.0, 0.92, 0.80)
    wave = 0.09 * pose.sway(1.0)
    canvas.paint(rod(x, y, (0.20, 0.06), (0.40, 0.16), 0.046), fur, round=0.04)
    canvas.paint(rod(x, y, (0.40, 0.16), (0.42 + wave, 0.42), 0.044, 0.034), fur, round=0.04)
    canvas.paint(disc(x - 0.42 - wave, y - 0.43, 0.036), dark, round=0.03)
    body = blend(ellipse(x, y - 0.20, 0.235, 0.205), ellipse(x + 0.01, y - 0.40, 0.155, 0.20), 0.10)
    stripes = ramp(np.sin(38 * y + 5 * np.sin(9 * x)), 0.35, 0.8) * ramp(np.abs(x), 0.05, 0.14)
    canvas.paint(body, mix(fur, dark, 0.75 * stripes), round=0.10, shine=0.1)
    canvas.paint(ellipse(x, y - 0.30, 0.085, 0.19), cream, round=0.05)
    for leg in (-0.085, 0.085):
        canvas.paint(rod(x, y, (leg, 0.045), (0.8 * leg, 0.26), 0.050), mix(fur, dark, 0.4 * stripes), round=0.04)
        canvas.paint(ellipse(x - leg, y - 0.030, 0.068, 0.036), cream, round=0.03)
    x, y = turn(x, y - 0.015 * pose.hit, 5 * pose.sway(), about=(0, 0.56))
    for side in (-1, 1):
        ear = polygon(side * x, y, (0.05, 0.76), (0.20, 0.70), (0.175, 0.93)) if side > 0 else polygon(
            -x, y, (0.05, 0.76), (0.20, 0.70), (0.175, 0.93))  # fmt: skip
        canvas.paint(ear, fur, round=0.03)
        canvas.paint(ear + 0.028, (0.98, 0.68, 0.62))
    head = ellipse(x, y - 0.68, 0.205, 0.170)
    crown = ramp(np.sin(60 * x), 0.2, 0.7) * ramp(y, 0.73, 0.80)
    canvas.paint(head, mix(fur, dark, 0.8 * crown), round=0.10, shine=0.1)
    canvas.paint(ellipse(np.abs(x) - 0.050, y - 0.612, 0.072, 0.056), cream, round=0.05)
    canvas.paint(ellipse(np.abs(x) - 0.085, y - 0.712, 0.044, 0.040), (0.52, 0.80, 0.28), round=0.03)
    canvas.paint(ellipse(np.abs(x) - 0.085, y - 0.712, 0.013, 0.034), INK)
    gape = 0.014 + 0.050 * max(pose.hit, 0.45 * pose.level)
    canvas.paint(ellipse(x, y - 0.585, 0.040, gape), (0.60, 0.14, 0.16), round=0.02)
    canvas.paint(polygon(x, y, (0.0, 0.625), (0.034, 0.655), (-0.034, 0.655)), (0.95, 0.48, 0.50), round=0.02)
    for lift in (-0.02, 0.02):
        canvas.paint(rod(np.abs(x), y, (0.09, 0.625), (0.265, 0.625 + lift), 0.004), (0.98, 0.98, 0.98))


def dog(canvas: Canvas, pose: Pose):
    """Gray-and-white dog: throws up its head and opens its jaws to bark; the ears fly."""
    x, y = canvas.x, canvas.y
    coat, dark, white = (0.56, 0.57, 0.63), (0.30, 0.31, 0.37), (0.96, 0.96, 0.97)
    wag = 20 * pose.sway(2.0)
    tx, ty = turn(x, y, wag - 35, about=(-0.24, 0.24))
    canvas.paint(rod(tx, ty, (-0.24, 0.24), (-0.24, 0.47), 0.040, 0.022), coat, round=0.03)
    for leg, shade in ((-0.19, dark), (0.13, dark), (-0.12, coat), (0.20, coat)):
        canvas.paint(rod(x, y, (leg, 0.045), (leg, 0.25), 0.045), shade, round=0.04)
        canvas.paint(ellipse(x - leg - 0.018, y - 0.032, 0.065, 0.034), white, round=0.03)
    body = blend(ellipse(x + 0.08, y - 0.32, 0.205, 0.135), disc(x - 0.12, y - 0.35, 0.155), 0.08)
    canvas.paint(body, mix(coat, dark, ramp(y, 0.38, 0.50)), round=0.10, shine=0.1)
    canvas.paint(ellipse(x - 0.20, y - 0.32, 0.075, 0.125), white, round=0.05)
    lift = 22 * pose.hit + 6 * pose.level
    x, y = turn(x, y, lift, about=(0.14, 0.50))
    canvas.paint(rod(x, y, (0.13, 0.42), (0.17, 0.62), 0.105), coat, round=0.08)
    jaw_x, jaw_y = turn(x, y, -26 * pose.hit - 7 * pose.level, about=(0.22, 0.62))
    canvas.paint(rod(jaw_x, jaw_y, (0.24, 0.585), (0.40, 0.575), 0.034, 0.026), dark, round=0.03)
    canvas.paint(rod(jaw_x, jaw_y, (0.26, 0.602), (0.39, 0.594), 0.014), (0.93, 0.42, 0.44), round=0.01)
    canvas.paint(disc(x - 0.17, y - 0.68, 0.142), coat, round=0.10, shine=0.1)
    canvas.paint(rod(x, y, (0.24, 0.640), (0.42, 0.630), 0.058, 0.046), white, round=0.05)
    canvas.paint(ellipse(x - 0.455, y - 0.655, 0.036, 0.030), INK, round=0.02, shine=0.6)
    canvas.paint(disc(x - 0.235, y - 0.725, 0.032), white)
    canvas.paint(disc(x - 0.242, y - 0.725, 0.021), INK)
    ear_x, ear_y = turn(x, y, 30 * pose.hit, about=(0.08, 0.76))
    canvas.paint(ellipse(ear_x - 0.055, ear_y - 0.635, 0.062, 0.150), dark, round=0.05, shine=0.1)
    canvas.paint(ring(rod(x, y, (0.05, 0.47), (0.23, 0.47), 0.035), 0.030), (0.86, 0.14, 0.18), round=0.02)


def hen(canvas: Canvas, pose: Pose):
    """White hen with a red comb: it stretches, pecks the air and spreads a wing."""
    x, y = canvas.x, canvas.y
    for leg in (-0.05, 0.06):
        canvas.paint(rod(x, y, (leg, 0.02), (leg, 0.20), 0.014), (0.96, 0.66, 0.14), round=0.01)
        for toe in (-0.05, 0.0, 0.055):
            canvas.paint(rod(x, y, (leg, 0.022), (leg + toe, 0.006), 0.010), (0.96, 0.66, 0.14))
    x, y = turn(x, y, 6 * pose.sway(1.0), about=(0, 0.2))
    plume, grey = (0.98, 0.97, 0.94), (0.78, 0.77, 0.78)
    for k, lean in enumerate((58, 38, 18)):
        tx, ty = turn(x, y, lean, about=(-0.20, 0.36))
        canvas.paint(
            ellipse(tx + 0.20, ty - 0.50, 0.052, 0.17), mix(plume, grey, np.full_like(x, 0.25 * k)), round=0.04
        )
    body = blend(ellipse(x, y - 0.36, 0.265, 0.195), disc(x - 0.16, y - 0.46, 0.120), 0.10)
    flakes = 0.5 + 0.5 * np.sin(48 * x + 2 * np.sin(30 * y)) * np.sin(44 * y)
    canvas.paint(body, mix(plume, grey, 0.55 * ramp(flakes, 0.55, 0.9)), round=0.12, shine=0.1)
    wx, wy = turn(x, y, 30 * pose.hit + 5 * pose.level, about=(0.06, 0.42))
    canvas.paint(
        ellipse(wx + 0.07, wy - 0.36, 0.165, 0.100), mix(plume, grey, 0.8 * ramp(np.sin(50 * wx), 0, 1)), round=0.05
    )
    nod = 0.05 * pose.hit
    x = x - nod
    canvas.paint(rod(x, y, (0.17, 0.46), (0.22, 0.72), 0.105, 0.080), plume, round=0.07)
    for at_x, at_y, size in ((0.155, 0.835, 0.040), (0.205, 0.862, 0.046), (0.255, 0.842, 0.040)):
        canvas.paint(disc(x - at_x, y - at_y, size), (0.92, 0.10, 0.12), round=0.03, shine=0.2)
    canvas.paint(disc(x - 0.215, y - 0.745, 0.092), plume, round=0.07)
    gape = 14 * pose.hit + 4 * pose.level
    for direction in (-1, 1):
        bx, by = turn(x, y, direction * (gape + 8), about=(0.285, 0.735))
        canvas.paint(rod(bx, by, (0.28, 0.735), (0.385, 0.735), 0.026, 0.004), (0.98, 0.74, 0.16), round=0.02)
    canvas.paint(ellipse(x - 0.285, y - 0.645, 0.028, 0.052), (0.88, 0.10, 0.12), round=0.02)
    canvas.paint(disc(x - 0.238, y - 0.768, 0.022), INK)
    canvas.paint(disc(x - 0.245, y - 0.775, 0.007), (1, 1, 1))
