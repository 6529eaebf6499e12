"""TPU chips, how they are wired, and how fast a slice of them can move data."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

GIB = 2**30
# How runs are started on TPU (LIBTPU_INIT_ARGS), and so how they are planned. By default the compiler takes the product
# with a gathered weight apart, into a ring of small products beside small transfers, one unrolled copy per device of
# `fsdp`. Weights of 7B cut into sixteen are too small for that: half as many bytes again travelled through HBM, and the
# program had half as many top-level operations again (v5e:4x4, joint finetune of two layers).
LIBTPU_FLAGS = "--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """What the maker states of one chip.

    Attributes:
        name: as in the name of a topology.
        kind: part of `jax.Device.device_kind`.
        memory: HBM, bytes. The compiler keeps a little of it for itself.
        flops: dense bfloat16 products, operations per second.
        bandwidth: of the HBM, bytes per second.
        link: of one link to a neighbour, in one direction, bytes per second.
        axes: dimensions of the torus; a chip has two links in each.
        devices: devices that JAX sees on one chip; they share everything evenly.
        wraps_at: an axis of a slice closes to a ring if its size is a multiple of this.
        slices: names of usual slices.

    Source: Google's "System architecture" pages of v5e, v5p, v6e and TPU7x, per chip. They give all links of a chip
    in both directions together; `link` is that over 2 directions and 2 links per axis.
    """

    name: str
    kind: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    axes: int
    devices: int = 1
    wraps_at: int = 4
    slices: tuple[str, ...] = ()


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
CHIPS: Mapping[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="v5e", kind="TPU v5 lite", memory=16 * GIB, flops=197e12, bandwidth=819e9, link=50e9, axes=2,
            wraps_at=16, slices=_FLAT,
        ),
        Chip(
            name="v5p", kind="TPU v5", memory=95 * GIB, flops=459e12, bandwidth=2765e9, link=100e9, axes=3,
            slices=_CUBES,
        ),
        Chip(
            name="v6e", kind="TPU v6 lite", memory=32 * GIB, flops=918e12, bandwidth=1638e9, link=100e9, axes=2,
            wraps_at=16, slices=_FLAT,
        ),
        Chip(
            name="tpu7x", kind="TPU7x", memory=192 * GIB, flops=2307e12, bandwidth=7380e9, link=100e9, axes=3,
            devices=2, slices=_CUBES,
        ),
    )
}  # fmt: skip


class TopologyError(ValueError):
    """A slice that nobody knows; the message lists those that are known."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """A block of chips.

    Attributes:
        chip: what it is made of.
        dims: chips along each axis.
    """

    chip: Chip
    dims: tuple[int, ...]

    @classmethod
    def parse(cls, name: str) -> Slice:
        """Reads a name such as `v5e:16x16`.

        Raises:
            TopologyError: another kind of name, or of chip.
        """
        found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
        chip = CHIPS.get(found[1]) if found else None
        dims = tuple(int(d) for d in found[2].split("x")) if found else ()
        if chip is None or len(dims) != chip.axes or 0 in dims:
            raise TopologyError(f"topology {name!r}: {known_slices()}")
        return cls(chip, dims)

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.dims))}"

    @property
    def chips(self) -> int:
        return math.prod(self.dims)

    @property
    def devices(self) -> int:
        """As JAX counts them."""
        return self.chips * self.chip.devices

    def place(self, device: Any) -> tuple[int, ...]:
        """Where the chip of a device stands. Devices without coordinates (CPU, in rehearsals) stand in order."""
        found = getattr(device, "coords", None)
        if found is None:
            return tuple(int(i) for i in np.unravel_index(device.id // self.chip.devices, self.dims))
        return tuple(found)[: len(self.dims)]

    def seconds(self, moved: float, group: Sequence[Sequence[int]], *, rings: int = 1) -> float:
        """The least time that a group of devices needs to bring `moved` bytes into every one of its chips.

        Rings run along every axis that the group spans, in both directions where the axis closes, and all of them at
        full speed: a bound, not a forecast. Devices of one chip that belong to one group exchange for nothing; if they
        belong to different groups they share the links.

        Args:
            moved: bytes.
            group: coordinates of the chip of each device, and of one device after the other if a chip has several.
            rings: groups that share every chip.
        """
        spanned = [axis for axis in range(len(self.dims)) if len({place[axis] for place in group}) > 1]
        if not spanned:
            return 0.0
        links = sum(2 if self._closes(axis, group) else 1 for axis in spanned)
        return moved * rings / (links * self.chip.link)

    def _closes(self, axis: int, group: Sequence[Sequence[int]]) -> bool:
        """Whether a group has a ring along an axis, and not just a line."""
        size = self.dims[axis]
        return size % self.chip.wraps_at == 0 and len({place[axis] for place in group}) == size


def known_slices() -> str:
    """For messages."""
    lines = [f"{c.name}:{{{', '.join(c.slices)}}}" for c in CHIPS.values()]
    return "expected KIND:AxB or KIND:AxBxC, such as " + "; ".join(lines)
