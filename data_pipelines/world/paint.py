"""Shapes as signed distances, painted with light: the brush that every performer is drawn with.

A distance is negative inside a shape, positive outside and zero on its edge, in the units of the canvas. Edges are
therefore smooth at any size, and what was covered is known exactly: that is where masks come from.
"""

from __future__ import annotations

import numpy as np

LIGHT = np.array([-0.45, 0.62, 0.64], np.float32)  # from the upper left, towards the viewer
HALFWAY = (LIGHT + np.array([0, 0, 1], np.float32)) / np.linalg.norm(LIGHT + np.array([0, 0, 1], np.float32))


def length(x, y):
    """√(x² + y²): several times faster than `np.hypot`, whose care for huge numbers nobody needs here."""
    return np.sqrt(x * x + y * y)


def disc(x, y, radius):
    """Distance to a disc around the origin."""
    return length(x, y) - radius


def ellipse(x, y, rx, ry):
    """Approximate distance to an ellipse around the origin: exact on the edge, first order beside it."""
    k = length(x / rx, y / ry)
    slope = length(x / (rx * rx), y / (ry * ry))
    return k * (k - 1.0) / np.maximum(slope, 1e-6)


def box(x, y, half_width, half_height, corner=0.0):
    """Distance to a box around the origin with rounded corners."""
    dx, dy = np.abs(x) - (half_width - corner), np.abs(y) - (half_height - corner)
    outside = length(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - corner


def rod(x, y, start, end, radius, end_radius=None):
    """Distance to a round-ended rod between two points; it may taper."""
    (x0, y0), (x1, y1) = start, end
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    grow = 0.0 if end_radius is None else end_radius - radius
    return length(x - x0 - along * dx, y - y0 - along * dy) - (radius + grow * along)


def polygon(x, y, *corners):
    """Distance to a convex polygon, corners counter-clockwise; near a corner, outside, it is a little too small."""
    distance = None
    for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0])):
        dx, dy = x1 - x0, y1 - y0
        side = ((x - x0) * dy - (y - y0) * dx) / max((dx * dx + dy * dy) ** 0.5, 1e-9)
        distance = side if distance is None else np.maximum(distance, side)
    return distance


def ring(distance, thickness):
    """The band around a shape's edge."""
    return np.abs(distance) - thickness / 2


def blend(a, b, softness):
    """The union of two shapes with a rounded seam."""
    h = np.clip(0.5 + 0.5 * (b - a) / softness, 0, 1)
    return b * (1 - h) + a * h - softness * h * (1 - h)


def cut(a, b):
    """Shape a without shape b."""
    return np.maximum(a, -b)


def turn(x, y, degrees, *, about=(0.0, 0.0)):
    """Coordinates in which a shape appears turned counter-clockwise by that angle about a point."""
    c, s = np.float32(np.cos(np.radians(degrees))), np.float32(np.sin(np.radians(degrees)))
    x, y = x - about[0], y - about[1]
    return c * x + s * y + about[0], -s * x + c * y + about[1]


def repeat(v, pitch, first, last):
    """Coordinates in which one shape appears at every whole multiple of `pitch` from `first` to `last`."""
    return v - pitch * nearest(v, pitch, first, last)


def nearest(v, pitch, first, last):
    """Number of the copy of `repeat` that is nearest to each point."""
    return np.clip(np.rint(v / pitch), first, last)


def ramp(v, low, high):
    """A smooth step from 0 at `low` to 1 at `high`."""
    u = np.clip((v - low) / (high - low), 0, 1)
    return u * u * (3 - 2 * u)


def grain(x, y, *, lines, wobble=1.0):
    """Wood grain in [0, 1]: lines across x that wander along y."""
    bend = wobble * (np.sin(5.1 * y + 1.7) + 0.6 * np.sin(11.3 * y + 4.0 * x))
    return 0.5 + 0.3 * np.sin(lines * x + bend) + 0.2 * np.sin(2.7 * lines * x + 1.9 * bend + 2.0)


def mix(a, b, weight):
    """Colour a towards colour b by a weight map [h w]."""
    return np.asarray(a, np.float32) + (np.asarray(b, np.float32) - np.asarray(a, np.float32)) * weight[..., None]


class Canvas:
    """A patch of colour and coverage in a performer's own units: feet at the origin, y upwards, height about one.

    Args:
        x, y: float32 [h w], coordinates of the pixel centres.
        pixel: size of one pixel in the same units.
    """

    def __init__(self, x, y, *, pixel):
        self.x, self.y, self.pixel = x, y, pixel
        self.rgb = np.zeros((*x.shape, 3), np.float32)  # already multiplied by alpha
        self.alpha = np.zeros(x.shape, np.float32)

    def paint(self, distance, colour, *, round=0.0, shine=0.0, opacity=1.0):
        """Lays a shape over what is there.

        Args:
            distance: float [h w], negative inside.
            colour: three numbers in [0, 1], or a colour per pixel [h w 3].
            round: width of the rounded rim; 0 leaves the shape flat.
            shine: strength of the highlight on the rim.
            opacity: 1 covers fully.
        """
        touched = distance < 0.5 * self.pixel
        rows = np.flatnonzero(touched.any(1))
        if not len(rows):
            return
        columns = np.flatnonzero(touched[rows[0] : rows[-1] + 1].any(0))
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        inside = (np.clip(0.5 - distance[part] * (1 / self.pixel), 0, 1) * opacity)[..., None]
        colour = np.asarray(colour, np.float32)
        colour = colour[part] if colour.ndim == 3 else colour
        if round:
            colour = self._lit(distance, part, colour, round, shine)
        self.rgb[part] += (np.clip(colour, 0, 1) - self.rgb[part]) * inside
        self.alpha[part] += (1 - self.alpha[part]) * inside[..., 0]

    def _lit(self, distance, part, colour, rim, shine):
        rows, columns = part
        grow = np.s_[max(rows.start - 1, 0) : rows.stop + 1, max(columns.start - 1, 0) : columns.stop + 1]
        field = distance[grow]
        if min(field.shape) < 2:
            return np.broadcast_to(colour, (*distance[part].shape, 3))
        slope_y, slope_x = np.gradient(field, self.pixel)
        trim = np.s_[
            rows.start - grow[0].start : rows.start - grow[0].start + rows.stop - rows.start,
            columns.start - grow[1].start : columns.start - grow[1].start + columns.stop - columns.start,
        ]
        steep = np.clip(1 + distance[part] / rim, 0, 1)  # 1 at the edge, 0 where the surface faces us
        normal_x, normal_y = slope_x[trim] * steep, -slope_y[trim] * steep  # rows grow downwards
        normal_z = np.sqrt(np.maximum(1 - normal_x**2 - normal_y**2, 0.02))
        diffuse = normal_x * LIGHT[0] + normal_y * LIGHT[1] + normal_z * LIGHT[2]
        lit = colour * (0.5 + 0.72 * diffuse[..., None])
        if not shine:
            return lit
        gloss = np.maximum(normal_x * HALFWAY[0] + normal_y * HALFWAY[1] + normal_z * HALFWAY[2], 0)
        for _ in range(5):  # to the power of 32
            gloss = gloss * gloss
        return lit + shine * gloss[..., None]
