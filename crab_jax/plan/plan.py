"""Compiles a program for a slice and works out what it needs and how fast it can be."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from crab_jax.plan.hardware import GIB, Slice
from crab_jax.plan.programs import Program
from crab_jax.plan.work import Work, measure
from crab_jax.recipe import Recipe

_REFUSED = re.compile(r"[Uu]sed ([\d.]+)([KMG]) of ([\d.]+)([KMG])")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
# What `quick` asks of the compiler: it then leaves out what only makes the program faster.
_LEAST_EFFORT = {"exec_time_optimization_effort": -1.0}
SHOWN = 12  # collectives that are listed one by one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is known of one program on one slice. Bytes and seconds are of one device, unless they say otherwise.

    Attributes:
        program: its name.
        topology: of the slice; "" if it was compiled for something else.
        mesh: axis → devices.
        chips, devices: of the slice.
        rows_per_device: at once.
        fits: whether the compiler found room for everything.
        memory: kind → bytes; "arguments" is what the program reads of all kinds above it, with their padding,
            "temporaries" what it needs on top at most, "peak" the most that is in use at any moment; if it does not
            fit, none of these but "needed".
        capacity: bytes that the maker states; the compiler keeps a little for itself.
        limit: bytes that the compiler allows, if it said so.
        flops: "traced" (products as written, of all devices together), "compiled" (products of all devices as compiled:
            more if devices do the same work twice), "model" (what counts for the MFU).
        counted: how "model" counts: so many times N per token; N are the matrices of the language model. 4 where only
            LoRA and other adapters learn, 6 where they learn themselves, 2 for generation.
        traffic: bytes to and from HBM.
        seconds: the least time of the "matrix units", "memory" and "interconnect", each on its own.
        bound: the least time of the program: the longest of the three, as if all of them overlapped.
        without_overlap: their sum.
        tokens_per_second: of all devices, if the program took no longer than its bound.
        mfu: likewise.
        collectives: by kind: count, bytes and seconds.
        largest: collectives one by one.
        unknown_loops: loops that count once although nobody knows how often they run.
        unknown_kernels: kernels whose products do not count.
        compile_seconds: of the compiler.
        quick: it was compiled with the least effort.
        advice: what to change.
    """

    program: str
    topology: str
    mesh: Mapping[str, int]
    chips: int
    devices: int
    rows_per_device: float
    fits: bool
    memory: Mapping[str, float]
    capacity: float
    limit: float | None = None
    flops: Mapping[str, float] = dataclasses.field(default_factory=dict)
    counted: str = ""
    traffic: float = 0.0
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bound: float = 0.0
    without_overlap: float = 0.0
    tokens_per_second: float = 0.0
    mfu: float = 0.0
    collectives: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    largest: tuple[Mapping[str, Any], ...] = ()
    unknown_loops: tuple[str, ...] = ()
    unknown_kernels: tuple[str, ...] = ()
    compile_seconds: float = 0.0
    quick: bool = False
    advice: tuple[str, ...] = ()


def make_plan(
    program: Program,
    recipe: Recipe,
    mesh: Mesh,
    where: Slice,
    *,
    hlo: pathlib.Path | None = None,
    quick: bool = False,
) -> Plan:
    """Compiles one program and reads off everything.

    Args:
        program: traced on `mesh`.
        recipe: for advice.
        mesh: of devices of `where`, or of any others for a rehearsal.
        where: whose numbers bound the time.
        hlo: folder that keeps the compiled text.
        quick: compile with the least effort, several times faster; that program keeps fewer arrays on the chip, so it
            moves more bytes than the one that would run.

    Raises:
        jax.errors.JaxRuntimeError: the compiler fails for another reason than memory.
    """
    known = {
        "program": program.name,
        "topology": where.name,
        "mesh": dict(mesh.shape),
        "chips": max(1, mesh.size // where.chip.devices),
        "devices": mesh.size,
        "rows_per_device": program.rows_per_device,
        "capacity": where.chip.memory / where.chip.devices,
        "quick": quick,
        "counted": program.counted,
    }
    started = time.monotonic()
    try:
        compiled = program.traced.lower().compile(_LEAST_EFFORT if quick else None)
    except jax.errors.JaxRuntimeError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise
        needed, limit = (float(refused[i]) * _UNITS[refused[i + 1]] for i in (1, 3))
        return Plan(
            **known,
            fits=False,
            memory={**program.arguments, "needed": needed},
            limit=limit,
            flops={"traced": program.flops, "model": program.useful_flops},
            compile_seconds=time.monotonic() - started,
            advice=_to_fit(recipe, mesh, program),
        )
    compile_seconds = time.monotonic() - started
    text = compiled.as_text()
    if hlo is not None:
        hlo.mkdir(parents=True, exist_ok=True)
        (hlo / f"{program.name.replace(' ', '_')}.txt").write_text(text, encoding="utf-8")
    work = measure(text, [where.place(d) for d in mesh.devices.flat], where)
    memory = _memory(program, compiled.memory_analysis())
    fits = most(memory) + memory["held, not read"] <= known["capacity"]
    return Plan(
        **known,
        fits=fits,
        memory=memory,
        compile_seconds=compile_seconds,
        advice=() if fits else _to_fit(recipe, mesh, program),
        **_speed(program, work, mesh.size, where),
    )


def _memory(program: Program, found: Any) -> dict[str, float]:
    memory = dict(program.arguments)
    # What a program does not read (the mask decoder of a stage without masks) is not handed to it, but lies there.
    memory["held, not read"] = max(0.0, sum(_held(program).values()) - found.argument_size_in_bytes)
    memory["arguments"] = found.argument_size_in_bytes
    memory["temporaries"] = found.temp_size_in_bytes
    results = max(0, found.output_size_in_bytes - found.alias_size_in_bytes)
    memory["results"] = results
    together = found.argument_size_in_bytes + found.temp_size_in_bytes + results
    # The compiler counts what is alive at once; arguments and all temporaries together may never be. Not every backend
    # counts, and older versions of JAX do not hand it on.
    peak = getattr(found, "peak_memory_in_bytes", 0)
    memory["peak"] = peak if peak >= found.argument_size_in_bytes else together
    return memory


def most(memory: Mapping[str, float]) -> float:
    """Bytes that a program asks for: the region of temporaries is reserved as a whole, holes included."""
    if "needed" in memory:
        return memory["needed"]
    return max(memory["peak"], memory["arguments"] + memory["temporaries"] + memory["results"])


def _held(program: Program) -> dict[str, float]:
    return {kind: size for kind, size in program.arguments.items() if "temporary" not in kind}


def _speed(program: Program, work: Work, devices: int, where: Slice) -> dict[str, Any]:
    chip = where.chip
    seconds = {
        "matrix units": work.flops / (chip.flops / chip.devices),
        "memory": work.traffic / (chip.bandwidth / chip.devices),
        "interconnect": sum(c.seconds for c in work.collectives),
    }
    bound = max(seconds.values())
    kinds: dict[str, dict[str, float]] = collections.defaultdict(lambda: {"count": 0, "bytes": 0, "seconds": 0.0})
    for one in work.collectives:
        kinds[one.kind]["count"] += one.times
        kinds[one.kind]["bytes"] += one.bytes * one.times
        kinds[one.kind]["seconds"] += one.seconds
    peak = chip.flops / chip.devices * devices
    return {
        "flops": {"traced": program.flops, "compiled": work.flops * devices, "model": program.useful_flops},
        "traffic": work.traffic,
        "seconds": seconds,
        "bound": bound,
        "without_overlap": sum(seconds.values()),
        "tokens_per_second": program.tokens / bound if bound else 0.0,
        "mfu": program.useful_flops / bound / peak if bound else 0.0,
        "collectives": {kind: kinds[kind] for kind in sorted(kinds, key=lambda k: -kinds[k]["seconds"])},
        "largest": tuple(dataclasses.asdict(c) | {"group": len(c.group)} for c in work.collectives[:SHOWN]),
        "unknown_loops": work.unknown_loops,
        "unknown_kernels": work.unknown_kernels,
    }


def _to_fit(recipe: Recipe, mesh: Mesh, program: Program) -> tuple[str, ...]:
    """What would need less memory, the cheapest first."""
    found = []
    if program.name != "train step":
        if program.rows_per_device > 1:
            fewer = int(program.rows_per_device) // 2 * mesh.shape["data"] * mesh.shape["fsdp"]
            found.append(f"fewer answers at once: --batch {fewer} or less")
        found.append("weights on more chips: a larger fsdp or tensor in --generation-mesh")
        return tuple(found)
    rows, micro = recipe.run.rows, recipe.run.accumulation
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if recipe.compute.remat != "nothing_saveable":
        found.append("keep less for the backward pass: --config.compute.remat=nothing_saveable")
    smaller = next((a for a in range(micro + 1, rows // parts + 1) if rows % a == 0 and rows // a % parts == 0), None)
    if smaller:
        found.append(
            f"fewer rows per device at once ({program.rows_per_device:g} now): --config.run.accumulation={smaller}"
        )
    if (data := mesh.shape["data"]) > 1:
        part = next(n for n in range(2, data + 1) if data % n == 0)
        found.append(
            f"weights and optimizer on more devices: --config.mesh.data={data // part} "
            f"--config.mesh.fsdp={mesh.shape['fsdp'] * part}"
        )
    if recipe.compute.logit_chunks < 8:
        found.append("logits in more pieces: --config.compute.logit_chunks=8")
    if not smaller and program.rows_per_device <= 1:
        found.append(f"shorter rows: --config.data.layout.tokens={recipe.data.layout.tokens // 2} and fewer frames")
    if mesh.shape["tensor"] == 1 and not smaller:
        found.append("products split over two devices: --config.mesh.tensor=2")
    found.append("a larger slice")
    return tuple(found)


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.2f} GiB"
