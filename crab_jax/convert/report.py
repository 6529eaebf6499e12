"""What a conversion found and decided: one object for people and programs, and one error that lists everything."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass
class Report:
    """Everything a conversion has to say. Empty lists mean that there was nothing of that kind.

    Attributes:
        parts: part (`llama`, or `avs/mask_decoder` for an overlay) → {"tensors": n, "parameters": n}.
        missing: tensors that the network needs and no file holds. Fatal.
        misshapen: tensors whose shape contradicts the others or the model config. Fatal.
        problems: anything else that is fatal, in whole sentences.
        unexpected: tensors that nothing knows, per file. Fatal in public releases (LLaMA, CLIP, BEATs), because they
            may mean another network; tolerated in Crab's own files, as the reference tolerates them.
        ignored: reason → tensors that are known and of no use.
        superseded: tensors of one Crab file that another one replaces.
        unused: tensors that Crab's files are known to hold and the network never reads.
        unused_missing: tensors of that kind that are absent, which is harmless.
        kept: per file, how many tensors beside the parameters are kept so that an export is complete.
        sizes: head count, query counts, rows of the vocabulary.
        sources: what was chosen for tensors that no file ever held.
        notes: other decisions.
    """

    parts: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)
    misshapen: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    unexpected: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    ignored: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    superseded: list[str] = dataclasses.field(default_factory=list)
    unused: list[str] = dataclasses.field(default_factory=list)
    unused_missing: list[str] = dataclasses.field(default_factory=list)
    kept: dict[str, int] = dataclasses.field(default_factory=dict)
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def ignore(self, reason: str, name: str) -> None:
        """Notes a tensor that is left out on purpose, under the reason."""
        self.ignored.setdefault(reason, []).append(name)

    @property
    def fatal(self) -> bool:
        """Whether nothing may be written."""
        return bool(self.missing or self.misshapen or self.problems)

    def raise_if_fatal(self) -> None:
        """Raises `ConversionError` with everything that is wrong, if anything is."""
        if self.fatal:
            raise ConversionError(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """For people: what was decided in full, what is harmless as numbers (all names are in `to_dict`)."""
        lines = [f"{p}: {n['tensors']} tensors, {n['parameters']:,} parameters" for p, n in self.parts.items()]
        for name, value in self.sizes.items():
            value = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            lines.append(f"{name}: {value}")
        if self.sources:
            lines += ["tensors that no file holds, and the source chosen:"]
            lines += [f"  {name}: {source}" for name, source in self.sources.items()]
        for role, names in self.unexpected.items():
            lines += _section(f"unexpected in {role}, not used", names)
        for pair, count in collections.Counter(re.sub(r": .* \(by", " (by", line) for line in self.superseded).items():
            lines.append(f"replaced: {count} tensors of {pair}")
        lines += [f"ignored: {len(names)} tensors: {reason}" for reason, names in self.ignored.items()]
        if self.unused:
            lines.append(f"never read by the network: {len(self.unused)} tensors of Crab's files")
        lines += _section("never read by the network, and not in the files (harmless)", self.unused_missing)
        if self.kept:
            kept = ", ".join(f"{count} of {role}" for role, count in self.kept.items())
            lines.append(f"kept beside the parameters for export: {kept}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def errors(self) -> str:
        """For people: what is fatal."""
        lines = [*self.problems]
        lines += _section("missing", self.missing)
        lines += _section("wrong shape", self.misshapen)
        return "\n".join(lines)


class ConversionError(ValueError):
    """The files cannot become a model; the message lists everything that is wrong, `report` holds it."""

    def __init__(self, report: Report):
        self.report = report
        super().__init__("the files do not make up a model:\n" + report.errors())


def _section(title: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    return [f"{title} ({len(names)}):", *(f"  {line}" for line in fold(names))] if names else []


def fold(names: Iterable[str]) -> list[str]:
    """Names that differ only in their numbers, as one line each: `layers.{0-31}.self_attn.q_proj.lora_B{0-2}.weight`.

    Names are folded only where every combination of the numbers is there, so nothing is claimed that was not given.
    """
    groups: dict[str, dict[tuple[int, ...], str]] = {}
    for name in names:
        # A number stands between dots or ends a word (lora_B0); others, as in shapes, are left alone.
        numbers = tuple(int(n) for n in re.findall(_NUMBER, name))
        groups.setdefault(re.sub(_NUMBER, "{}", name), {})[numbers] = name
    lines = []
    for pattern, members in groups.items():
        columns = [sorted(set(column)) for column in zip(*members, strict=True)]
        combinations = 1
        for column in columns:
            combinations *= len(column)
        if len(members) == 1 or combinations != len(members):
            lines += members.values()
        else:
            parts = pattern.split("{}")
            lines.append("".join(p + _span(c) for p, c in zip(parts, columns, strict=False)) + parts[-1])
    return lines


_NUMBER = r"(?<=[.B])\d{1,6}(?=\.)"


def _span(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}-{numbers[-1]}}}"
    return "{" + ",".join(map(str, numbers)) + "}"
