"""Instruments that are struck."""

from __future__ import annotations

import numpy as np

from data_pipelines.world.looks.pose import INK, STEEL, Pose
from data_pipelines.world.paint import (
    Canvas,
    box,
    disc,
    ellipse,
    grain,
    length,
    mix,
    nearest,
    polygon,
    ramp,
    repeat,
    ring,
    rod,
    turn,
)


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


def piano(canvas: Canvas, pose: Pose):
    """Upright piano: black lacquer and red felt; keys go down, the lamp glows."""
    x, y = canvas.x, canvas.y
    lacquer, edge = (0.11, 0.11, 0.14), (0.30, 0.30, 0.37)
    canvas.paint(box(np.abs(x) - 0.40, y - 0.16, 0.040, 0.16, 0.01), lacquer, round=0.03, shine=0.4)
    canvas.paint(box(x, y - 0.19, 0.40, 0.13, 0.01), (0.07, 0.07, 0.09), round=0.02, shine=0.2)
    canvas.paint(box(x, y - 0.60, 0.44, 0.215, 0.02), lacquer, round=0.03, shine=0.5)
    panel = box(x, y - 0.625, 0.385, 0.125, 0.01)
    canvas.paint(panel, mix((0.20, 0.20, 0.25), (0.08, 0.08, 0.10), ramp(x - y, -1.0, 0.0)))
    canvas.paint(ring(panel, 0.010), edge)
    for k, tone in ((-1, (0.98, 0.96, 0.90)), (1, (0.95, 0.93, 0.86))):
        page = polygon(x, y, (0.005 * k, 0.545), (0.135 * k, 0.560), (0.135 * k, 0.735), (0.005 * k, 0.72))
        page = page if k > 0 else polygon(-x, y, (0.005, 0.545), (0.135, 0.560), (0.135, 0.735), (0.005, 0.72))
        canvas.paint(page, tone, round=0.005)
        lines = np.maximum(np.abs(np.mod(y, 0.030) - 0.015) - 0.003, page + 0.018)
        canvas.paint(lines, (0.40, 0.40, 0.44))
    canvas.paint(box(x, y - 0.835, 0.465, 0.024, 0.012), lacquer, round=0.02, shine=0.7)
    canvas.paint(box(x, y - 0.415, 0.45, 0.012, 0.004), (0.80, 0.08, 0.14))
    canvas.paint(box(x, y - 0.335, 0.475, 0.026, 0.01), lacquer, round=0.02, shine=0.6)
    canvas.paint(box(x, y - 0.380, 0.42, 0.026, 0.004), (0.98, 0.97, 0.93), round=0.006)
    canvas.paint(box(repeat(x, 0.042, -9, 9) - 0.021, y - 0.380, 0.0022, 0.026), (0.45, 0.44, 0.44))
    key = nearest(x, 0.042, -9, 9)
    black = box(x - 0.042 * key, y - 0.390, 0.012, 0.017, 0.003)
    canvas.paint(np.where(np.mod(key, 7) % 3 != 2, black, np.float32(1.0)), INK)
    if pose.level > 0.05:
        for hand in (-1, 1):
            at = 0.042 * ((pose.count * 3 + 2 * hand) % 7) * hand - 0.02
            glow = box(x - at, y - 0.372, 0.034, 0.020, 0.004)
            canvas.paint(glow, (1.0, 0.66, 0.20), opacity=(0.55 + 0.45 * pose.hit) * pose.level)
    wide = 0.04 * pose.level * pose.sway(1.0)
    for at in (-0.34, 0.34):
        canvas.paint(rod(x, y, (at, 0.86), (at, 0.93), 0.010), (0.96, 0.94, 0.88), round=0.01)
        canvas.paint(ellipse(x - at - 0.3 * wide, y - 0.962, 0.016, 0.026 + 0.012 * pose.hit), (1.0, 0.76, 0.26))


def marimba(canvas: Canvas, pose: Pose):
    """Xylophone in the colours of the rainbow; two mallets run along the bars."""
    x, y = canvas.x, canvas.y
    for at in (-0.36, 0.36):
        canvas.paint(rod(x, y, (at, 0.015), (0.85 * at, 0.32), 0.018), (0.42, 0.28, 0.18), round=0.018, shine=0.2)
    canvas.paint(rod(x, y, (-0.33, 0.14), (0.33, 0.14), 0.014), (0.38, 0.25, 0.16), round=0.012)
    colours = np.array(
        [(0.90, 0.14, 0.18), (0.97, 0.46, 0.12), (0.99, 0.80, 0.16), (0.50, 0.80, 0.22),
         (0.12, 0.66, 0.52), (0.14, 0.52, 0.90), (0.34, 0.32, 0.80), (0.66, 0.30, 0.76), (0.94, 0.44, 0.66)],
        np.float32,
    )  # fmt: skip
    bar = nearest(x, 0.095, -4, 4)
    half = 0.175 - 0.012 * (bar + 4)
    struck = (pose.count * 2) % 9 - 4
    sink = np.where(bar == struck, np.float32(0.015 * pose.hit), np.float32(0))
    pipe = box(x - 0.095 * bar, y - 0.30 + 0.4 * half, 0.026, 0.5 * half)
    canvas.paint(pipe, mix((0.88, 0.89, 0.92), (0.46, 0.48, 0.54), ramp(np.abs(x - 0.095 * bar), 0.004, 0.026)))
    wood = box(x - 0.095 * bar, y - 0.43 + sink, 0.040, half, 0.012)
    canvas.paint(wood, colours[(bar + 4).astype(int)], round=0.03, shine=0.5)
    canvas.paint(disc(x - 0.095 * bar, np.abs(y - 0.43 + sink) - 0.7 * half, 0.009), (0.98, 0.97, 0.94))
    for hand in (-1, 1):
        mine = (pose.count % 2 == 0) == (hand < 0)
        now = pose.hit if mine else 0.0
        at = 0.095 * struck if mine else 0.095 * ((struck + 4 + 3 * hand) % 9 - 4)
        rise = 0.06 + 0.16 * pose.level * (1 - now)
        tip = (at if pose.level > 0 else 0.20 * hand), 0.45 + rise
        butt = 0.6 * tip[0] + 0.16 * hand, 0.70 + 0.6 * rise
        canvas.paint(rod(x, y, tip, butt, 0.009), (0.90, 0.78, 0.56), round=0.008)
        canvas.paint(disc(x - tip[0], y - tip[1], 0.034), (0.24, 0.22, 0.28), round=0.03, shine=0.4)
