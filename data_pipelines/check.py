"""What shards hold, in numbers: `crab data check`."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import statistics
from collections.abc import Callable, Iterator, Sequence

from crab_jax.batch import FeatureSizes
from crab_jax.tasks import (
    ALL,
    Answer,
    AudioVisualEvents,
    Caption,
    Choice,
    Event,
    Events,
    Row,
    TaskSpec,
    Unparsed,
    Wording,
)
from crab_jax.tokens import Tokenizer
from data_pipelines.build import EMPTY, REJECTS
from data_pipelines.encoding import RATE
from data_pipelines.examples import Stored, measure
from data_pipelines.records import (
    AGAIN,
    MANIFEST,
    SCHEMA,
    CorruptRecord,
    Entry,
    Record,
    ShardError,
    Shards,
    missing_splits,
    read_manifest,
)

# Of the published model; a model of other sizes counts its media otherwise.
SIZES = FeatureSizes(image_size=224, frame_tokens=32, window_tokens=32, patch=16)

_MOST_MEASURED = 10_000  # examples of a split whose tokens are counted, evenly spaced


@dataclasses.dataclass(frozen=True)
class Spread:
    """How a number varies."""

    least: float
    median: float
    high: float  # 95 of 100 are not above
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no values."""
        if not values:
            return None
        ordered = sorted(values)
        return cls(ordered[0], statistics.median(ordered), ordered[-(-95 * len(ordered) // 100) - 1], ordered[-1])

    def told(self, unit: str = "", scale: float = 1, places: int = 0) -> str:
        """For people."""
        least, median, high, most = (
            f"{value / scale:.{places}f}" for value in (self.least, self.median, self.high, self.most)
        )
        unit = f" {unit}" if unit else ""
        return f"{median}{unit}" if least == most else f"{least} to {most}{unit}, median {median}, 95 % up to {high}"


@dataclasses.dataclass
class Summary:
    """One split of a data set.

    Attributes:
        shards: the split.
        about: the manifest's counts, by name.
        corrupt: records that cannot be read.
        asks: examples in the index.
        groups: of alternatives among them.
        seconds, frames, masks, size: of each record; of sound, pictures, masks, and bytes.
        labels: how often each answer occurs.
        written: examples whose target is a stored text.
        contrary: those of them whose text says something else than the annotation.
        prompts, targets: how many different ones.
        tokens: of each measured example, media included.
        text: of each measured target.
        unmeasured: why examples have no length, and how many.
        lost: reasons in the rejects file, and how many.
    """

    shards: Shards
    about: dict[str, int]
    corrupt: list[CorruptRecord] = dataclasses.field(default_factory=list)
    asks: int = 0
    groups: int = 0
    seconds: list[float] = dataclasses.field(default_factory=list)
    frames: list[int] = dataclasses.field(default_factory=list)
    masks: list[int] = dataclasses.field(default_factory=list)
    size: list[int] = dataclasses.field(default_factory=list)
    labels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    written: int = 0
    contrary: list[str] = dataclasses.field(default_factory=list)
    tokens: list[int] = dataclasses.field(default_factory=list)
    text: list[int] = dataclasses.field(default_factory=list)
    unmeasured: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    lost: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def find(folder: pathlib.Path) -> list[pathlib.Path]:
    """The data sets in a folder: what was `--out`, a task's folder, or the data set itself.

    Raises:
        ShardError: there are none.
    """
    places = [folder, folder / SCHEMA, *(folder / task / SCHEMA for task in ALL)]
    found = [place for place in places if (place / MANIFEST).is_file()]
    if not found:
        others = sorted(str(path.parent.relative_to(folder)) for path in folder.glob(f"**/{MANIFEST}"))
        what = f"found {', '.join(others)}" if others else "found none"
        raise ShardError(f"{folder}: expected data sets of schema {SCHEMA}, {what}; `crab data build` makes them")
    return found


def spec_of(folder: pathlib.Path) -> TaskSpec:
    """The task of a data set.

    Raises:
        ShardError: its description cannot be read, or is of a task that is none.
    """
    task = read_manifest(folder).get("task")
    if not isinstance(task, str) or task not in ALL:
        raise ShardError(f"{folder / MANIFEST}: expected a task out of {', '.join(ALL)}, found {task!r:.60}")
    return ALL[task]


def summarise(spec: TaskSpec, folder: pathlib.Path, *, tokenizer: Tokenizer) -> Iterator[Summary]:
    """Reads every record of a data set, and counts. Media are not decoded.

    Raises:
        ShardError: shards or index are missing or do not belong together.
    """
    manifest = read_manifest(folder)
    for split, described in manifest["splits"].items():
        shards = Shards(folder, task=spec.name, split=split, manifest=manifest)
        counts = described.get("counts")
        summary = Summary(shards, counts if isinstance(counts, dict) else {})
        total = sum(len(entry.asks) for entry in shards.index())
        step, number = -(-total // _MOST_MEASURED) or 1, 0
        for entry in shards.index():
            _count(summary, entry)
            for ask in entry.asks:
                summary.labels.update(labels(spec, ask.row))
                if ask.row.label_text:
                    summary.written += 1
                    if not agrees(spec, ask.row):
                        summary.contrary.append(ask.id)
                if number % step == 0:
                    _measure(summary, spec, entry, ask, tokenizer)
                number += 1
            _verify(summary, entry)
        shards.close()
        summary.lost.update(_lost(folder, split))
        yield summary


def _count(summary: Summary, entry: Entry) -> None:
    summary.asks += len(entry.asks)
    summary.groups += len({ask.group for ask in entry.asks if ask.group})
    summary.seconds.append(entry.samples / RATE)
    summary.frames.append(entry.frames)
    summary.masks.append(entry.masks)
    summary.size.append(entry.size)


def _verify(summary: Summary, entry: Entry) -> None:
    """Whether a record can be read and is the one that the index describes.

    Raises:
        ShardError: it is another one.
    """
    try:
        record = summary.shards[entry.index]
    except CorruptRecord as error:
        summary.corrupt.append(error)
        return
    if (wanted := _identity(entry)) != (found := _identity(record)):
        where = f"{summary.shards.index_path}, line {entry.index + 1}"
        raise ShardError(f"{where}: expected {found} as in the shard, found {wanted}; {AGAIN}")


def _identity(item: Entry | Record) -> str:
    asks = ", ".join(ask.id for ask in item.asks)
    if isinstance(item, Entry):
        return f"clip {item.clip_id}, {item.frames} pictures, {item.masks} masks, asks {asks}"
    return f"clip {item.clip_id}, {len(item.frames)} pictures, {len(item.masks)} masks, asks {asks}"


def labels(spec: TaskSpec, row: Row) -> list[str]:
    """What an example counts as in a histogram; empty for free text."""
    try:
        answer = spec.answer(row)
    except ValueError:
        return ["(no answer)"]
    match answer:
        case Choice():
            return [answer.answer]
        case Events():
            return [event.name for event in answer.events]
        case AudioVisualEvents():
            heard = [f"heard: {event.name}" for event in answer.audio]
            return heard + [f"seen: {event.name}" for event in answer.visual]
        case Caption():
            return []
        case _:
            return [row.label or row.exp or "(no name)"]


def agrees(spec: TaskSpec, row: Row) -> bool:
    """Whether the stored text of a row says what its annotation says; the order of events does not matter."""
    try:
        said, answer = spec.parse(spec.compose(row, Wording.QUICK_START)), spec.answer(row)
    except ValueError:
        return False
    return _unordered(said) == _unordered(answer)


def _unordered(answer: Answer | Unparsed) -> Answer | Unparsed | tuple[list[Event], ...]:
    kinds = {Events: ("events",), AudioVisualEvents: ("audio", "visual")}.get(type(answer))
    return tuple(sorted(getattr(answer, kind), key=dataclasses.astuple) for kind in kinds) if kinds else answer


def _measure(summary: Summary, spec: TaskSpec, entry: Entry, ask, tokenizer: Tokenizer) -> None:
    try:
        size = measure(
            spec,
            Wording.QUICK_START,
            ask.row,
            stored=Stored(pictures=entry.frames, samples=entry.samples),
            picture=ask.picture,
            has_mask=ask.mask is not None,
            tokenizer=tokenizer,
            sizes=SIZES,
        )
        target = tokenizer.encode_target(spec.target(ask.row), suffix=spec.target_end)
    except ValueError as error:
        summary.unmeasured[str(error)] += 1
    else:
        summary.tokens.append(size.tokens)
        summary.text.append(len(target))


def _lost(folder: pathlib.Path, split: str) -> Iterator[str]:
    try:
        lines = (folder / REJECTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            value = json.loads(line)
            if value["split"] == split:
                # What differs from clip to clip is its name; the kind of loss is what repeats.
                yield {"missing": "media that are not there"}.get(value["kind"], value["reason"].split(": ", 1)[-1])
        except (ValueError, KeyError, TypeError, AttributeError):
            yield f"a line of {REJECTS} that cannot be read"


def table(summary: Summary) -> Iterator[tuple[str, str]]:
    """(name, value) for people."""
    records = len(summary.shards)
    groups = f", in {summary.groups} groups of alternatives" if summary.groups else ""
    yield "examples", f"{summary.asks} about {records} clips{groups}"
    about = summary.about
    lost = {"annotations": "unusable annotations", "missing": "media not there", "media": "unusable media"}
    said = [f"{about[k]} {words}" for k, words in lost.items() if about.get(k)]
    yield "left out", ", ".join(said) or "nothing"
    if summary.corrupt:
        yield "corrupt", f"{len(summary.corrupt)} records; the first: {summary.corrupt[0]}"
    for name, values, unit, scale, places in (
        ("pictures", summary.frames, "", 1, 0),
        ("sound", [s for s in summary.seconds if s], "s", 1, 1),
        ("masks", [m for m in summary.masks if m], "", 1, 0),
        ("record", summary.size, "KiB", 1024, 0),
    ):
        if (spread := Spread.of(values)) is not None and spread.most:
            yield name, spread.told(unit, scale, places)
    yield "together", f"{sum(summary.size) / 2**20:.1f} MiB, {sum(summary.seconds) / 3600:.2f} h of sound"
    for name, values in (("tokens", summary.tokens), ("target", summary.text)):
        if (spread := Spread.of(values)) is not None:
            yield name, f"{spread.told('tokens')}{' (32 per picture and window)' if name == 'tokens' else ''}"
    if summary.written:
        first = f", first: {summary.contrary[0]}" if summary.contrary else ""
        many = f"{len(summary.contrary)} of {summary.written}"
        yield "written", f"{many} written answers disagree with the annotation{first}"
    if summary.unmeasured:
        reason, number = summary.unmeasured.most_common(1)[0]
        yield "no length", f"{summary.unmeasured.total()} examples; {number} because {reason}"


def report(
    folder: pathlib.Path,
    *,
    html: pathlib.Path | None,
    items: int,
    tokenizer: pathlib.Path | None,
    say: Callable[[str], object],
) -> int:
    """Prints what a folder of shards holds, and writes the contact sheet.

    Args:
        folder: as in `find`.
        html: where the contact sheet goes, if it is wanted.
        items: examples per split on it.
        tokenizer: a SentencePiece model; the project's small one if None.
        say: is given the text.

    Returns:
        1 if records are corrupt, else 0.

    Raises:
        ShardError: no shards, or shards and index that are missing or do not belong together; at the end, after
            everything else was told and shown.
    """
    counter = Tokenizer.tiny() if tokenizer is None else Tokenizer.load(tokenizer, base_vocabulary=None)
    shown: list[tuple[TaskSpec, list[Summary]]] = []
    corrupt, broken = 0, []
    for place in find(folder):
        summaries = []
        try:
            spec = spec_of(place)
            say(f"{spec.name}: {spec.about}  ({place})\n")
            for summary in summarise(spec, place, tokenizer=counter):
                say(f"  {summary.shards.split}\n")
                for name, value in table(summary):
                    say(f"    {name:<9} {value}\n")
                _say_most(say, "answers", summary.labels)
                _say_most(say, "losses", summary.lost)
                corrupt += len(summary.corrupt)
                summaries.append(summary)
            for split in missing_splits(read_manifest(place)):
                say(f"  {split}\n    {EMPTY}\n")
        except ShardError as error:
            broken.append(str(error))
        if summaries:
            shown.append((spec, summaries))
    if html is not None and shown:
        from data_pipelines.contact_sheet import write_sheet

        write_sheet(html, shown, items=items)
        say(f"{html}: {html.stat().st_size / 2**20:.1f} MiB, open it in a browser\n")
    if broken:
        raise ShardError("\n".join(broken))
    return int(corrupt > 0)


def _say_most(say: Callable[[str], object], name: str, counts: collections.Counter, *, most: int = 12) -> None:
    shown = most_common(counts, most)
    width = max((len(label) for label, _ in shown), default=0)
    for label, number in shown:
        share = number / counts.total()
        say(f"    {name:<9} {label:<{width}} {number:>7} {'█' * round(40 * share)} {share:.1%}\n")
        name = ""
    if len(counts) > most:
        say(f"    {'':<9} and {len(counts) - most} more\n")


def most_common(counts: collections.Counter, most: int) -> list[tuple[str, int]]:
    """The most frequent, equals in the order of their names."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]
