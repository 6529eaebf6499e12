"""What a compiled program does on one device: bytes through memory, matrix products, collectives."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crab_jax.plan.hardware import Slice
from crab_jax.plan.hlo import Computation, Instruction, Module, Visit
from crab_jax.plan.kernels import TARGET, kernel_flops

# Names for what is there already, or for places.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "iota", "opt-barrier", "add-dependency", "domain", "custom-call-start", "async-start",
    "call-start",
    "async-update", "async-done", "copy-done", "slice-done", "dynamic-slice-done",
}  # fmt: skip
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")
COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind, over groups of one size, from one place of the program.

    Attributes:
        kind: an HLO name; an all-reduce of which every device keeps only its part is a reduce-scatter.
        origin: where in the traced program.
        shape: of the array of one device before (what is gathered) or after, for people.
        bytes: of the whole array of one group, each time.
        group: partition numbers of one of its groups.
        times: how often.
        seconds: the least time of all of them together.
    """

    kind: str
    origin: str
    shape: str
    bytes: int
    group: tuple[int, ...]
    times: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one device, one call of the program.

    Attributes:
        traffic: bytes that instructions read from and write to HBM.
        flops: of matrix products and convolutions, and of the kernels of `crab_jax.plan.kernels`.
        collectives: largest first.
        unknown_loops: loops that count once because nobody can see how often they run.
        unknown_kernels: kernels whose products do not count, because nobody can see them.
    """

    traffic: float
    flops: float
    collectives: tuple[Collective, ...]
    unknown_loops: tuple[str, ...]
    unknown_kernels: tuple[str, ...] = ()


def measure(text: str, places: Sequence[Sequence[int]], where: Slice | None) -> Work:
    """Adds up what a program does.

    Args:
        text: `compiled.as_text()`.
        places: chip coordinates of partition 0, 1, …
        where: the slice that it runs on; None: collectives take no time.

    Raises:
        crab_jax.plan.hlo.HloError: not HLO.
    """
    module = Module(text)
    traffic = flops = 0.0
    found: dict[tuple, list[float]] = collections.defaultdict(lambda: [0, 0.0])
    seen: set[tuple[str, str]] = set()
    unknown: dict[str, None] = {}
    for visit in module.visits():
        one = visit.instruction
        if one.opcode.removesuffix("-start") in COLLECTIVES:
            # On TPU a collective may run beside several fusions, one after the other, each of which holds it again.
            channel = re.search(r"channel_id=(\d+)", one.attributes)
            again = (visit.frame, channel[1] if channel else one.name)
            if again in seen:
                continue
            seen.add(again)
            if visit.fused:
                traffic += visit.times * _traffic(module, visit.computation, one)
            kind, size, group = _collective(visit, len(places))
            if len(group) > 1:
                entry = found[kind, _short(one.origin), _text(visit), size, group]
                entry[0] += visit.times
                entry[1] += visit.times * _seconds(kind, size, group, places, where)
        if one.opcode in ("dot", "convolution"):
            flops += visit.times * _products(visit.computation, one)
        if one.opcode == "custom-call" and TARGET in one.attributes:
            inside = kernel_flops(visit.computation, one)
            flops += visit.times * (inside or 0.0)
            if inside is None:
                unknown[one.name] = None
        if not visit.fused:
            traffic += visit.times * _traffic(module, visit.computation, one)
    collectives = [Collective(*key, times=int(n), seconds=s) for key, (n, s) in found.items()]
    collectives.sort(key=lambda c: (-c.seconds, -c.bytes * c.times))
    return Work(traffic, flops, tuple(collectives), tuple(module.unknown), tuple(unknown))


# --- memory -----------------------------------------------------------------------------------------------------------


def _traffic(module: Module, computation: Computation, one: Instruction) -> float:
    """Bytes of HBM that one instruction reads and writes. Arrays that stay on the chip cost nothing."""
    if one.opcode in _FREE or one.opcode.endswith("-done"):
        return 0.0
    if one.opcode == "custom-call" and any(name in one.attributes for name in _FREE_CALLS):
        return 0.0
    read, written = _sliced(module, computation, one)
    apart = _of_collectives(module, one)
    total = 0.0
    for index, name in enumerate(one.operands):
        for shape in computation.instructions[name].shapes if name in computation.instructions else ():
            if shape.space == 0 and (shape.dtype, shape.dims) not in apart:
                total += min(shape.bytes, read.get(index, shape.bytes))
    for index, shape in enumerate(one.shapes):
        # What is started returns its source and flags as well.
        beside = one.opcode.endswith("-start") and index != _result(one)
        if shape.space == 0 and not beside and (shape.dtype, shape.dims) not in apart:
            total += min(shape.bytes, written.get(index, shape.bytes))
    return total


def _result(one: Instruction) -> int:
    """Which of the arrays of something that is started is its result."""
    return 0 if one.opcode in ("copy-start", "all-reduce-start") else 1


def _of_collectives(module: Module, one: Instruction) -> set[tuple[str, tuple[int, ...]]]:
    """Arrays that a fusion only hands on to the collective that runs beside it; they count with the collective."""
    called = module.computations.get(one.called("calls") or "") if one.opcode == "fusion" else None
    found = set()
    for inner in called.instructions.values() if called else ():
        if inner.opcode.removesuffix("-start") in COLLECTIVES and called.name.find("all-reduce-scatter") < 0:
            arrays = [*inner.shapes, *(s for o in inner.operands for s in called.instructions[o].shapes)]
            found |= {(s.dtype, s.dims) for s in arrays}
    return found


def _sliced(module: Module, computation: Computation, one: Instruction) -> tuple[dict[int, float], dict[int, float]]:
    """What of its operands and results an instruction really touches, in bytes: index → bytes, where not all."""
    called = module.computations.get(one.called("calls") or "") if one.opcode == "fusion" else None
    if called is None:
        return _touched(one, _operand_sizes(computation, one))
    read: dict[int, float] = {}
    for index, parameter in called.parameters.items():
        touched = [_read_of(called, parameter.name, user) for user in called.users.get(parameter.name, ())]
        if touched and None not in touched:
            read[index] = sum(touched)
    written = {}
    root = called.instructions[called.root]
    ends = [called.instructions[o] for o in root.operands] if root.opcode == "tuple" else [root]
    for index, end in enumerate(ends):
        while end.opcode in ("bitcast", "copy") and end.operands:
            end = called.operand(end, 0)
        if end.opcode == "dynamic-update-slice":
            written[index] = called.operand(end, 1).bytes
    return read, written


def _read_of(computation: Computation, name: str, user: Instruction) -> float | None:
    """Bytes that `user` reads of `name`; None: all of it."""
    if user.opcode in ("bitcast", "reshape"):
        further = [_read_of(computation, user.name, u) for u in computation.users.get(user.name, ())]
        return sum(further) if further and None not in further else None
    positions = [i for i, o in enumerate(user.operands) if o == name]
    touched, _ = _touched(user, _operand_sizes(computation, user))
    return sum(touched[i] for i in positions) if all(i in touched for i in positions) else None


def _operand_sizes(computation: Computation, one: Instruction) -> dict[int, float]:
    return {i: computation.instructions[o].bytes for i, o in enumerate(one.operands)}


def _touched(one: Instruction, sizes: Mapping[int, float]) -> tuple[dict[int, float], dict[int, float]]:
    """Likewise for one instruction that is no fusion; `sizes` of its operands."""
    if one.opcode in ("dynamic-slice", "slice", "gather"):
        return {0: one.shapes[0].bytes}, {}
    if one.opcode in ("slice-start", "dynamic-slice-start"):
        return {0: one.shapes[_result(one)].bytes}, {}
    if one.opcode == "dynamic-update-slice":
        return {0: 0.0}, {0: sizes[1]}
    if one.opcode == "scatter":
        return {0: sizes[2]}, {0: sizes[2]}
    return {}, {}


# --- products ---------------------------------------------------------------------------------------------------------


def _products(computation: Computation, one: Instruction) -> float:
    """Two operations per multiply-add of a `dot` or a `convolution`."""
    left, right = (computation.operand(one, i).shapes[0] for i in (0, 1))
    out = math.prod(one.shapes[0].dims)
    if one.opcode == "dot":
        return 2.0 * out * math.prod(left.dims[i] for i in one.numbers("lhs_contracting_dims") or ())
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    left_labels, right_labels, out_labels = labels[1], labels[2], labels[3]
    window = _window(one)
    taps = 1.0
    for position, label in enumerate(sorted(c for c in out_labels if c.isdigit())):
        taps *= _taps(
            left.dims[left_labels.index(label)],
            right.dims[right_labels.index(label)],
            one.shapes[0].dims[out_labels.index(label)],
            *(window[key][position] for key in ("stride", "low", "lhs_dilate", "rhs_dilate")),
        )
    batch = one.shapes[0].dims[out_labels.index("b")]
    features = one.shapes[0].dims[out_labels.index("f")]
    groups = one.numbers("batch_group_count") or (1,)
    return 2.0 * batch * features * right.dims[right_labels.index("i")] * taps / (groups[0] if groups[0] else 1)


def _window(one: Instruction) -> dict[str, list[int]]:
    found = re.search(r"window=\{([^}]*)\}", one.attributes)
    given = dict(part.split("=") for part in found[1].split()) if found else {}
    rank = len(given["size"].split("x")) if "size" in given else 0
    read = lambda key, default: [int(x) for x in given[key].split("x")] if key in given else [default] * rank  # noqa: E731
    low = [int(x.split("_")[0]) for x in given["pad"].split("x")] if "pad" in given else [0] * rank
    return {
        "stride": read("stride", 1),
        "low": low,
        "lhs_dilate": read("lhs_dilate", 1),
        "rhs_dilate": read("rhs_dilate", 1),
    }


@functools.lru_cache(maxsize=4096)
def _taps(size: int, kernel: int, out: int, stride: int, low: int, dilate: int, rhs_dilate: int) -> int:
    """Pairs of an output and a kernel position that meet an element and neither padding nor a hole of a dilation.

    On TPU a batched product is a convolution whose dilation leaves one such pair per batch entry.
    """
    positions = np.arange(out, dtype=np.int64)[:, None] * stride + np.arange(kernel, dtype=np.int64) * rhs_dilate - low
    inside = (positions >= 0) & (positions < (size - 1) * dilate + 1)
    return int((inside & (positions % dilate == 0)).sum())


# --- collectives ------------------------------------------------------------------------------------------------------


def _collective(visit: Visit, devices: int) -> tuple[str, int, tuple[int, ...]]:
    one = visit.instruction
    kind = one.opcode.removesuffix("-start")
    group = groups_of(one.attributes, devices)[0]
    given = sum(s.bytes for o in one.operands for s in visit.computation.instructions[o].shapes)
    if kind == "all-gather":
        given *= len(group)
    if kind == "all-reduce" and visit.fused and "all-reduce-scatter" in visit.computation.name:
        kind = "reduce-scatter"
    return kind, given, group


def _seconds(
    kind: str, size: int, group: tuple[int, ...], places: Sequence[Sequence[int]], where: Slice | None
) -> float:
    """The least time, see `Slice.seconds`."""
    if where is None:
        return 0.0
    members = [places[i] for i in group]
    chips = len(set(members))
    rings = max(1, where.chip.devices * chips // len(group))  # other groups on the same chips
    share = (chips - 1) / chips
    if kind == "all-reduce":
        moved = 2 * size * share
    elif kind in ("all-gather", "reduce-scatter"):
        moved = size * share
    elif kind == "collective-permute":
        moved = size
    else:  # every device sends all but its own part a quarter of the way round
        moved = size * share * max(1.0, chips / 4)
    return where.seconds(moved, members, rings=rings)


def groups_of(attributes: str, devices: int) -> list[tuple[int, ...]]:
    """Groups of partitions that take part in a collective, in any of the ways in which HLO writes them.

    `{{0,1},{2,3}}`, `[2,2]<=[4]`, `[2,2]<=[2,2]T(1,0)`, `mesh['a'=2,'b'=2] {'b'}`, and pairs of a permutation; without
    any, all of them.
    """
    if pairs := re.search(r"source_target_pairs=\{\{([\d,{} ]*)\}\}", attributes):
        return [tuple(int(x) for x in pair.split(",")) for pair in pairs[1].split("},{")]
    if listed := re.search(r"replica_groups=\{\{([\d,{} ]*)\}\}", attributes):
        return [tuple(int(x) for x in group.split(",")) for group in listed[1].split("},{")]
    if tiled := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, dims = ([int(x) for x in tiled[i].split(",")] for i in (1, 2))
        order = np.arange(math.prod(dims)).reshape(dims)
        if tiled[3]:
            order = order.transpose([int(x) for x in tiled[3].split(",")])
        return [tuple(row) for row in order.reshape(shape[0], -1).tolist()]
    if meshed := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^)]*\))?\s*\{([^}]*)\}", attributes):
        return _mesh_groups(meshed[1], meshed[2])
    return [tuple(range(devices))]


def _mesh_groups(axes: str, over: str) -> list[tuple[int, ...]]:
    """`'a'=4,'b'=2` and `'a':(2)2,'b'`: the second names whole axes, or a part of one as (what is before it)size."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    dims: list[int] = []
    taken: list[bool] = []
    parts: dict[str, tuple[int, int] | None] = {}
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", over):
        parts[name] = (int(before), int(size)) if size else None
    for name, size in sizes.items():
        part = parts.get(name, False)
        if part is False or part is None:
            dims.append(size)
            taken.append(part is None)
        else:
            before, inner = part
            dims += [before, inner, size // before // inner]
            taken += [False, True, False]
    order = np.arange(math.prod(dims)).reshape(dims)
    rest, mine = ([i for i, t in enumerate(taken) if t is flag] for flag in (False, True))
    members = math.prod(dims[i] for i in mine)
    return [tuple(row) for row in order.transpose(rest + mine).reshape(-1, members).tolist()]


def _short(origin: str) -> str:
    """The end of a path through the traced program."""
    return "/".join(origin.split("/")[-3:])


def _text(visit: Visit) -> str:
    shapes: list[Any] = [s for o in visit.instruction.operands for s in visit.computation.instructions[o].shapes]
    texts = [f"{s.dtype}[{','.join(map(str, s.dims))}]" for s in shapes[:1]]
    return texts[0] + (f" and {len(shapes) - 1} more" if len(shapes) > 1 else "") if texts else ""
