"""Rows of a benchmark, and how they become a table, a JSON file and a part of a document."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jaxlib

from launch.benchmarks.timing import Spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement beside what it is compared with.

    Attributes:
        section: heading that it stands under.
        what: what was measured, with its sizes.
        dtype: compute dtype.
        unit: of `measured` and `reference`.
        measured: over the repetitions.
        against: the limit or the other form.
        reference: its value in the same unit.
        ratio: time over the time of `against`, repetition by repetition: 1 is as fast, 2 takes twice as long.
        expected: what the ratio would be by counting operations alone, if that was counted.
        aim: the ratio should not be larger; nothing checks it.
        beside: further ratios, name → spread: the time of this row over the time of what the name says.
    """

    section: str
    what: str
    dtype: str
    unit: str
    measured: Spread
    against: str
    reference: float
    ratio: Spread
    expected: float | None = None
    aim: float | None = None
    beside: Mapping[str, Spread] = dataclasses.field(default_factory=dict)


def environment() -> dict[str, Any]:
    """The machine and the libraries, without a date or a name."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "backend": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _cpu_model() -> str:
    file = pathlib.Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def environment_line(found: Mapping[str, Any]) -> str:
    """One line of text; an accelerator is named, a CPU backend is not said twice."""
    device = "" if found["backend"] == "cpu" else f", {found['devices']} x {found['device']}"
    flags = f", XLA_FLAGS={found['xla_flags']}" if found["xla_flags"] else ""
    return (
        f"{found['cpu']}, {found['cores']} cores{device}; {found['system']}, Python {found['python']}, "
        f"jax {found['jax']}, backend {found['backend']}{flags}"
    )


def number_text(value: float) -> str:
    """Three digits that mean something, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def spread_text(spread: Spread) -> str:
    """Median, and in brackets the smallest and the largest."""
    return f"{number_text(spread.median)} ({number_text(spread.low)} to {number_text(spread.high)})"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _ratio_spread(spread: Spread) -> str:
    return f"{_ratio(spread.median)} ({_ratio(spread.low)} to {_ratio(spread.high)})"


def markdown(rows: Sequence[Row]) -> str:
    """The table; a row in bold opens each section."""
    lines = [
        "| measured | dtype | median (min to max) | against | its value | ratio (min to max) | by count | aim |",
        "|---|---|---|---|---|---|---|---|",
    ]
    section = None
    for row in rows:
        if row.section != section:
            section = row.section
            lines.append(f"| **{section}** | | | | | | | |")
        against = row.against
        if row.beside:
            against += "; " + "; ".join(f"{name}: {_ratio_spread(s)}" for name, s in row.beside.items())
        cells = [
            row.what,
            row.dtype,
            f"{spread_text(row.measured)} {row.unit}",
            against,
            f"{number_text(row.reference)} {row.unit}",
            _ratio_spread(row.ratio),
            "" if row.expected is None else f"{row.expected:.3f}",
            "" if row.aim is None else f"≤ {row.aim:g}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], *, command: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in plain types. Layout: {"command", "environment": {…}, "rows": [`Row` field → value, …]}."""
    return {"command": command, "environment": dict(found), "rows": [dataclasses.asdict(row) for row in rows]}


def text(rows: Sequence[Row], *, command: str, found: Mapping[str, Any]) -> str:
    """Command, machine and table as Markdown."""
    return f"`{command}`\n\n{environment_line(found)}\n\n{markdown(rows)}\n"


def update(document: pathlib.Path, name: str, content: str) -> None:
    """Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a document.

    Raises:
        ValueError: the document does not hold each marker once, the opening one first.
    """
    whole = document.read_text(encoding="utf-8")
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found_opening, rest = whole.partition(opening)
    _, found_closing, after = rest.partition(closing)
    if not found_opening or not found_closing or whole.count(opening) != 1 or whole.count(closing) != 1:
        raise ValueError(f"{document}: expected one line {opening!r} and behind it one line {closing!r}")
    document.write_text(f"{before}{opening}\n\n{content.strip()}\n\n{closing}{after}", encoding="utf-8")
