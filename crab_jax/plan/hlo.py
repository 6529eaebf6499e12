"""Compiled HLO text → instructions, and how often each of them runs.

XLA's own cost analysis counts the body of a loop once, and the layers of every network here are loops. On CPU and GPU
the text says how often a loop runs; on TPU it does not, so the loop's counter is followed from its start to its end.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_SIZES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8,
    "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16, "token": 0, "opaque": 0,
}  # fmt: skip
_COMPUTATION = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s+\(.*->.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT\s+)?%?([\w.\-]+) = ")
_SHAPE = re.compile(r"(\w+)\[([\d,<= ]*)\](?:\{([^}]*)\})?")
_NAMES = re.compile(r"%([\w.\-]+)")
_KERNEL = re.compile(r"\{\n(\"[^\n]*)\n\}\}")  # what is known of a kernel stands on a line of its own
_MOST_TRIPS = 100_000


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array. `space` is the memory it lives in: 0 is the main memory of the device (HBM), others are on chip."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Without the padding of tiles."""
        size = _SIZES.get(self.dtype, 1 if self.dtype.startswith("f8") else 4)
        return math.ceil(self.elements * size)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line. `shapes` are the arrays of its result in order, tuples opened up."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    inside: str  # the text between the parentheses of its operands
    attributes: str

    def called(self, key: str) -> str | None:
        """The computation under `key=%name`."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found and found[1]

    def numbers(self, key: str) -> tuple[int, ...] | None:
        """The list under `key={1,2}` or the number under `key=1`."""
        found = re.search(rf"\b{key}=(?:\{{([\d,]*)\}}|(\d+))", self.attributes)
        if found is None:
            return None
        return tuple(int(x) for x in (found[1] if found[1] is not None else found[2]).split(",") if x)

    @property
    def origin(self) -> str:
        """Where in the traced program it comes from, as XLA remembers it."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def bytes(self) -> int:
        """Of its result."""
        return sum(s.bytes for s in self.shapes)


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    """A function: its instructions by name, in order, and the name of the one that is its result."""

    name: str
    instructions: Mapping[str, Instruction]
    root: str

    @functools.cached_property
    def users(self) -> Mapping[str, tuple[Instruction, ...]]:
        """Name → the instructions that read it."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                found.setdefault(operand, []).append(instruction)
        return {name: tuple(who) for name, who in found.items()}

    @functools.cached_property
    def parameters(self) -> Mapping[int, Instruction]:
        """Index → parameter."""
        return {int(i.inside): i for i in self.instructions.values() if i.opcode == "parameter"}

    def operand(self, instruction: Instruction, index: int) -> Instruction:
        """What an operand is."""
        return self.instructions[instruction.operands[index]]


class Visit(NamedTuple):
    """An instruction of the running program.

    Attributes:
        computation: where it stands.
        times: how often it runs.
        fused: it is part of a fusion, so its operands and its result do not travel through memory.
        frame: the computation that is no fusion, in which it or its fusion stands.
    """

    computation: Computation
    instruction: Instruction
    times: int
    fused: bool
    frame: str


class HloError(ValueError):
    """Text that cannot be read as HLO."""


class Module:
    """A compiled program.

    Attributes:
        computations: by name.
        entry: where it starts.
        unknown: names of loops whose number of rounds could not be found out; they count once.
    """

    def __init__(self, text: str):
        """Reads `compiled.as_text()`.

        Raises:
            HloError: there is no entry computation.
        """
        self.computations: dict[str, Computation] = {}
        self.entry: Computation | None = None
        self.unknown: list[str] = []
        instructions, name, is_entry, root = None, "", False, ""
        for line in _KERNEL.sub(r"{\1}}", text).splitlines():
            if instructions is None:
                if found := _COMPUTATION.match(line):
                    instructions, name, is_entry, root = {}, found[2], bool(found[1]), ""
            elif line.startswith("}"):
                computation = Computation(name, instructions, root)
                self.computations[name] = computation
                if is_entry:
                    self.entry = computation
                instructions = None
            elif found := _INSTRUCTION.match(line):
                instruction = _instruction(found[2], line[found.end() :])
                instructions[instruction.name] = instruction
                if found[1]:
                    root = instruction.name
        if self.entry is None:
            raise HloError("no ENTRY computation in the HLO text; expected the result of compiled.as_text()")

    def visits(self) -> Iterator[Visit]:
        """Every instruction that runs, with its count; loops are entered, and so are fusions."""
        self.unknown.clear()
        yield from self._walk(self.entry, (), 1, "")

    def _walk(self, computation: Computation, given: Sequence[Any], times: int, frame: str) -> Iterator[Visit]:
        """`frame` is empty outside fusions."""
        known = _Scalars(self, computation, given)
        for instruction in computation.instructions.values():
            yield Visit(computation, instruction, times, bool(frame), frame or computation.name)
            op = instruction.opcode
            if op == "while":
                trips, state = self._loop(computation, instruction, known)
                body = self.computations[instruction.called("body")]
                yield from self._walk(body, [state], times * trips, frame)
            elif op == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
                names = _NAMES.findall(branches[1]) if branches else []
                names += [c for key in ("true_computation", "false_computation") if (c := instruction.called(key))]
                for name in names:
                    yield from self._walk(self.computations[name], (), times, frame)
            elif op in ("call", "fusion", "async-start", "call-start"):  # started: on another core of the chip
                name = instruction.called("calls") or instruction.called("to_apply")
                if name in self.computations:
                    inner = [known.value(o) for o in instruction.operands]
                    within = frame or computation.name if op == "fusion" else frame
                    yield from self._walk(self.computations[name], inner, times, within)

    def _loop(self, computation: Computation, loop: Instruction, known: _Scalars) -> tuple[int, list[Any] | None]:
        """How often a loop runs, and what of its state is the same in every round."""
        condition = self.computations[loop.called("condition")]
        body = self.computations[loop.called("body")]
        start = known.value(loop.operands[0])
        if not isinstance(start, list):
            start = [None] * len(loop.shapes)
        told = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        relevant = _followed(body, condition)
        state, trips = [x if i in relevant else None for i, x in enumerate(start)], 0
        while told is None and trips < _MOST_TRIPS:
            # A part of the condition that depends on data (has everybody finished?) is taken to go on.
            if _Scalars(self, condition, [state]).value(condition.root) == 0:
                break
            results = _Scalars(self, body, [state]).elements(body.root, relevant)
            changed = [results.get(i) for i in range(len(state))]
            if changed == state:
                trips = _MOST_TRIPS  # nothing that is known moves: it never ends
            state, trips = changed, trips + 1
        if told is None and trips >= _MOST_TRIPS:
            self.unknown.append(loop.name)
        trips = int(told[1]) if told else trips if trips < _MOST_TRIPS else 1
        same = [x if _passed_on(body, i) else None for i, x in enumerate(start)]
        return trips, same


def _passed_on(body: Computation, index: int) -> bool:
    """Whether a loop hands this element of its state on as it is."""
    root = body.instructions[body.root]
    if root.opcode != "tuple" or index >= len(root.operands):
        return False
    last = body.instructions[root.operands[index]]
    while last.opcode in ("copy", "bitcast"):
        last = body.operand(last, 0)
    return last.opcode == "get-tuple-element" and last.numbers("index") == (index,)


def _followed(body: Computation, condition: Computation) -> set[int]:
    """Elements of the state that the condition needs, directly or through the body."""

    def read(computation: Computation, roots: Sequence[str]) -> set[int]:
        seen, found, todo = set(), set(), list(roots)
        while todo:
            instruction = computation.instructions[name := todo.pop()]
            if name in seen:
                continue
            seen.add(name)
            if instruction.opcode == "get-tuple-element":
                found |= set(instruction.numbers("index") or ())
            if _is_number(instruction) or instruction.opcode in ("copy-start",):
                todo += instruction.operands
        return found

    needed = read(condition, [condition.root])
    root = body.instructions[body.root]
    while root.opcode == "tuple":
        more = needed | read(body, [root.operands[i] for i in needed if i < len(root.operands)])
        if more == needed:
            break
        needed = more
    return needed


def _is_number(instruction: Instruction) -> bool:
    return len(instruction.shapes) == 1 and instruction.shapes[0].elements == 1


class _Scalars:
    """Whole numbers that a computation can be seen to work out, given what is known of its parameters."""

    def __init__(self, module: Module, computation: Computation, given: Sequence[Any]):
        self._module, self._computation, self._given = module, computation, given
        self._known: dict[str, Any] = {}

    def value(self, name: str) -> Any:
        """An int, a list for a tuple, or None for anything that is not known."""
        if name not in self._known:
            self._known[name] = None  # a cycle cannot be, but an unknown name can
            instruction = self._computation.instructions.get(name)
            self._known[name] = None if instruction is None else self._work_out(instruction)
        return self._known[name]

    def elements(self, root: str, wanted: set[int]) -> dict[int, Any]:
        """Some elements of the tuple that a computation ends in."""
        instruction = self._computation.instructions[root]
        if instruction.opcode != "tuple":
            whole = self.value(root)
            return {i: whole[i] for i in wanted} if isinstance(whole, list) else {}
        return {i: self.value(instruction.operands[i]) for i in wanted if i < len(instruction.operands)}

    def _work_out(self, instruction: Instruction) -> Any:
        op, operands = instruction.opcode, instruction.operands
        if op == "parameter":
            index = int(instruction.inside)
            return self._given[index] if index < len(self._given) else None
        if op == "tuple":
            return [self.value(o) if _is_number(self._computation.instructions[o]) else None for o in operands]
        if op == "get-tuple-element":
            whole, (index,) = self.value(operands[0]), instruction.numbers("index")
            return whole[index] if isinstance(whole, list) and index < len(whole) else None
        if op == "while":
            return self._module._loop(self._computation, instruction, self)[1]
        if op in ("copy-start", "copy-done"):
            return self.value(operands[0])
        if not _is_number(instruction):
            return None
        if op == "constant":
            number = re.fullmatch(r"-?\d+", instruction.inside)
            return int(number[0]) if number else {"true": 1, "false": 0}.get(instruction.inside)
        if op in ("copy", "bitcast", "convert", "reshape"):
            return self.value(operands[0])
        if op in ("fusion", "call"):
            called = self._module.computations.get(instruction.called("calls") or instruction.called("to_apply") or "")
            if called is None:
                return None
            return _Scalars(self._module, called, [self.value(o) for o in operands]).value(called.root)
        return _arithmetic(instruction, [self.value(o) for o in operands])


_COMPARE = {
    "LT": int.__lt__, "LE": int.__le__, "GT": int.__gt__, "GE": int.__ge__, "EQ": int.__eq__, "NE": int.__ne__,
}  # fmt: skip
_TWO = {"add": int.__add__, "subtract": int.__sub__, "multiply": int.__mul__, "minimum": min, "maximum": max}


def _arithmetic(instruction: Instruction, values: list[Any]) -> int | None:
    op = instruction.opcode
    if op == "and" and 0 in values:
        return 0
    if op == "or" and 1 in values:
        return 1
    if not all(isinstance(v, int) for v in values):
        return None
    if op == "compare":
        found = re.search(r"direction=(\w+)", instruction.attributes)
        return int(_COMPARE[found[1]](*values))
    if op in _TWO:
        return _TWO[op](*values)
    if op in ("and", "or"):
        return values[0] & values[1] if op == "and" else values[0] | values[1]
    if op == "not" and instruction.shapes[0].dtype == "pred":
        return 1 - values[0]
    if op == "select":
        return values[1] if values[0] else values[2]
    return None


# --- text -------------------------------------------------------------------------------------------------------------


def shapes_of(text: str) -> tuple[Shape, ...]:
    """Every array in the text of a shape."""
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(re.sub(r"\D", "", d)) for d in dims.split(",") if d.strip())
        found.append(Shape(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) if rest.startswith("(") else rest.find(" ")
    shape = rest[:end]
    rest = rest[end:].lstrip()
    open_at = rest.index("(")
    close_at = _closing(rest, open_at)
    inside = rest[open_at + 1 : close_at - 1]
    return Instruction(name, rest[:open_at], shapes_of(shape), tuple(_NAMES.findall(inside)), inside, rest[close_at:])


def _closing(text: str, start: int) -> int:
    """Index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.end()
    raise HloError(f"parentheses do not close: {text[:200]}")
