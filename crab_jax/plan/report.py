"""A plan as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from crab_jax.plan.hardware import GIB
from crab_jax.plan.plan import Plan, gib, most

_SUMS = ("held, not read", "arguments", "temporaries", "results", "peak", "needed")


def report(plan: Plan) -> str:
    """Everything that there is to say about one program."""
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    devices = "" if plan.devices == plan.chips else f" ({plan.devices} devices)"
    lines = [
        f"{plan.program} on {plan.topology}: {plan.chips} chips{devices}, mesh {mesh}, "
        f"{plan.rows_per_device:g} rows per device at once; compiled in {plan.compile_seconds:.0f} s"
        + " with the least effort: the program of a run moves fewer bytes"
        * plan.quick,
        "",
        *_memory(plan),
        "",
    ]
    if plan.fits or plan.seconds:
        lines += [*_speed(plan), ""]
    if plan.collectives:
        lines += [*_collectives(plan), ""]
    if plan.unknown_loops:
        lines += [f"{len(plan.unknown_loops)} loops count once: how often they run cannot be seen", ""]
    if plan.unknown_kernels:
        names = ", ".join(plan.unknown_kernels)
        lines += [f"the products of {len(plan.unknown_kernels)} kernels do not count, they cannot be seen: {names}", ""]
    if plan.advice:
        lines += ["To make it fit, the cheapest first:", *(f"  - {text}" for text in plan.advice), ""]
    return "\n".join(lines)


def _memory(plan: Plan) -> list[str]:
    per_chip = plan.devices // plan.chips
    where = "per chip" if per_chip == 1 else f"per device, {per_chip} on a chip"
    rows = [(f"memory {where}", "GiB", "of the chip's")]
    for kind, size in plan.memory.items():
        rows.append(("  " * (kind not in _SUMS) + kind, f"{size / GIB:.2f}", f"{size / plan.capacity:.0%}"))
    lines = _table(rows)
    limit = plan.limit or plan.capacity
    needed = most(plan.memory)
    if plan.fits:
        lines.append(f"fits: {gib(needed)} of {gib(limit)} at most")
    else:
        lines.append(f"does NOT fit: needs {gib(needed)}, there are {gib(limit)}: {gib(needed - limit)} too many")
    return lines


def _speed(plan: Plan) -> list[str]:
    flops = plan.flops
    rows = [("least time", "ms", "")]
    notes = {
        "matrix units": f"{flops['compiled'] / 1e12:,.1f} TFLOP on all devices as compiled, "
        f"{flops['traced'] / 1e12:,.1f} as written, {flops['model'] / 1e12:,.1f} count for the MFU",
        "memory": f"{gib(plan.traffic)} per device to and from HBM",
        "interconnect": f"{sum(c['count'] for c in plan.collectives.values()):,.0f} collectives",
    }
    rows += [(f"  {kind}", f"{1e3 * s:.1f}", notes[kind]) for kind, s in plan.seconds.items()]
    rows.append(
        (
            "bound",
            f"{1e3 * plan.bound:.1f}",
            f"all three at the same time; one after the other {1e3 * plan.without_overlap:.1f}",
        )
    )
    what = "new tokens" if plan.program == "generation" else "tokens"
    return [
        *_table(rows),
        f"at best {plan.tokens_per_second:,.0f} {what}/s, {plan.tokens_per_second / plan.chips:,.0f} per chip; "
        f"MFU {plan.mfu:.0%} (counts {plan.counted}; N are the matrices of the language model)",
    ]


def _collectives(plan: Plan) -> list[str]:
    rows = [("collectives", "count", "GiB each device takes part in", "ms at least")]
    for kind, found in plan.collectives.items():
        rows.append(
            (f"  {kind}", f"{found['count']:,.0f}", f"{found['bytes'] / GIB:.2f}", f"{1e3 * found['seconds']:.1f}")
        )
    lines = [*_table(rows), "the largest:"]
    largest = [("  kind", "times", "MiB each", "ms in all", "devices", "array", "from")]
    for one in plan.largest:
        largest.append(
            (
                f"  {one['kind']}",
                str(one["times"]),
                f"{one['bytes'] / 2**20:.1f}",
                f"{1e3 * one['seconds']:.1f}",
                str(one["group"]),
                one["shape"],
                one["origin"],
            )
        )
    return lines + _table(largest)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width; numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numeric = [all(_is_number(row[i]) for row in rows[1:]) for i in range(len(widths))]
    return [
        "  ".join(
            text.rjust(w) if n else text.ljust(w) for text, w, n in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    ]


def _is_number(text: str) -> bool:
    return bool(text) and set(text) <= set("0123456789.,%-")


def summary(plans: Sequence[Plan]) -> str:
    """One Markdown row per plan, for a document."""
    lines = [
        "| program | topology | mesh | rows/device | weights + optimizer | temporaries | peak | of | matrix units "
        "| memory | interconnect | tokens/s at best | MFU at best | compile |",
        "|" + "---|" * 14,
    ]
    for p in plans:
        held = sum(x for k, x in p.memory.items() if k not in (*_SUMS, "batch", "cache (temporary)")) / GIB
        mesh = " x ".join(str(size) for size in p.mesh.values())
        name = f"| {p.program} | {p.topology} | {mesh} | {p.rows_per_device:g} | {held:.2f} GiB "
        if not p.fits:
            lines.append(
                f"{name}| | needs {gib(p.memory['needed'])} | {gib(p.limit or p.capacity)} | does not fit | | | | | |"
            )
            continue
        times = " | ".join(f"{1e3 * s:.0f} ms" for s in p.seconds.values())
        lines.append(
            f"{name}| {gib(p.memory['temporaries'])} | {gib(p.memory['peak'])} | {gib(p.capacity)} | {times} "
            f"| {p.tokens_per_second:,.0f} | {p.mfu:.0%} | {p.compile_seconds:.0f} s |"
        )
    return "\n".join(lines)
