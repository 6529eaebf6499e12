"""Stringed instruments."""

from __future__ import annotations

import math

import numpy as np

from data_pipelines.world.looks.pose import INK, STEEL, Pose
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
    ramp,
    repeat,
    ring,
    rod,
    turn,
)


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


def cello(canvas: Canvas, pose: Pose):
    """Cello: walnut, broad, on a long pin; the bow travels far."""
    x, y = turn(canvas.x, canvas.y, 4 + 4 * pose.sway(), about=(0, 0))
    canvas.paint(rod(x, y, (0, 0.012), (0, 0.14), 0.011), STEEL, round=0.01, shine=0.5)
    y = y - 0.10
    body = blend(ellipse(x, y - 0.21, 0.250, 0.190), ellipse(x, y - 0.52, 0.195, 0.145), 0.12)
    body = cut(body, ellipse(np.abs(x) - 0.245, y - 0.375, 0.088, 0.092))
    canvas.paint(body, (0.98, 0.86, 0.62), round=0.02)
    wood = mix((0.36, 0.20, 0.12), (0.22, 0.12, 0.08), grain(x, y, lines=44, wobble=1.4))
    canvas.paint(body + 0.016, mix(wood, (0.13, 0.07, 0.05), ramp(body, -0.08, -0.01)), round=0.08, shine=0.6)
    fx = np.abs(x) - 0.105
    f_hole = np.minimum(rod(fx, y, (0.014, 0.285), (-0.008, 0.425), 0.009), disc(fx - 0.020, y - 0.278, 0.016))
    canvas.paint(np.minimum(f_hole, disc(fx + 0.014, y - 0.432, 0.013)), (0.98, 0.86, 0.62))
    canvas.paint(rod(x, y, (0, 0.06), (0, 0.24), 0.024, 0.042), INK, round=0.02, shine=0.2)
    canvas.paint(box(x, y - 0.345, 0.080, 0.014, 0.008), (0.93, 0.76, 0.46), round=0.01)
    canvas.paint(rod(x, y, (0, 0.50), (0, 0.90), 0.034, 0.024), INK, round=0.02, shine=0.25)
    canvas.paint(disc(x, y - 0.945, 0.046), (0.30, 0.16, 0.10), round=0.04, shine=0.4)
    canvas.paint(disc(x, y - 0.945, 0.018), (0.98, 0.86, 0.62))
    canvas.paint(rod(np.abs(x), y, (0, 0.895), (0.075, 0.910), 0.011), INK, round=0.01)
    strings = np.maximum(np.abs(repeat(x - 0.006, 0.012, -2, 1)) - 0.0022, np.abs(y - 0.55) - 0.385)
    canvas.paint(strings, (0.93, 0.90, 0.82))
    bx, by = turn(x, y, -10, about=(0, 0.42))
    bx = bx - 0.15 * pose.sway(0.5)
    canvas.paint(rod(bx, by, (-0.36, 0.445), (0.36, 0.440), 0.0105), (0.52, 0.20, 0.10), round=0.01, shine=0.5)
    canvas.paint(rod(bx, by, (-0.35, 0.420), (0.33, 0.420), 0.0055), (0.97, 0.96, 0.90))


def ukulele(canvas: Canvas, pose: Pose):
    """Ukulele: turquoise, small and round, with a flower; it rocks fast."""
    x, y = canvas.x, canvas.y
    canvas.paint(rod(np.abs(x), y, (0.02, 0.16), (0.16, 0.014), 0.014), (0.86, 0.72, 0.48), round=0.012, shine=0.3)
    x, y = turn(x, y, -9 + 10 * pose.sway(1.0), about=(0, 0.08))
    y = y - 0.115
    body = blend(disc(x, y - 0.175, 0.172), disc(x, y - 0.375, 0.130), 0.09)
    canvas.paint(box(x, y - 0.58, 0.036, 0.20, 0.01), (0.90, 0.78, 0.56), round=0.02)
    canvas.paint(body, (0.98, 0.97, 0.92), round=0.02)
    tone = mix((0.10, 0.78, 0.74), (0.02, 0.52, 0.56), ramp(body, -0.10, -0.01))
    canvas.paint(body + 0.016, tone, round=0.05, shine=0.5)
    canvas.paint(disc(x, y - 0.30, 0.066), (0.98, 0.97, 0.92))
    canvas.paint(disc(x, y - 0.30, 0.052), (0.03, 0.20, 0.22))
    petals = length(x - 0.095, y - 0.125) - 0.030 - 0.013 * np.cos(5 * np.arctan2(y - 0.125, x - 0.095))
    canvas.paint(petals, (1.0, 0.42, 0.62), round=0.02)
    canvas.paint(disc(x - 0.095, y - 0.125, 0.012), (1.0, 0.88, 0.30))
    canvas.paint(box(x, y - 0.135, 0.070, 0.014, 0.008), (0.98, 0.97, 0.92), round=0.01)
    canvas.paint(box(x, repeat(y - 0.66, 0.040, -5, 3), 0.034, 0.0035), (0.40, 0.30, 0.20))
    canvas.paint(box(x, y - 0.80, 0.058, 0.048, 0.018), (0.10, 0.78, 0.74), round=0.02, shine=0.3)
    canvas.paint(disc(np.abs(x) - 0.070, repeat(y - 0.80, 0.045, -1, 0) - 0.022, 0.013), (0.98, 0.97, 0.92), round=0.01)
    thick = 0.0024 + 0.004 * pose.hit * np.sin(np.pi * np.clip((y - 0.135) / 0.62, 0, 1))
    strings = np.maximum(np.abs(repeat(x - 0.006, 0.012, -2, 1)) - thick, np.abs(y - 0.445) - 0.31)
    canvas.paint(strings, (0.99, 0.99, 0.97), opacity=0.9)
