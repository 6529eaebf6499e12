"""The evaluation tables of LLP: what is heard and what is seen in its test videos, event by event."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable

from crab_jax.tasks.annotations import Source
from crab_jax.tasks.answers import AudioVisualEvents, Event
from crab_jax.tasks.clips import AnnotationError, Reject
from crab_jax.tasks.entries import BadEntry, Entry
from crab_jax.tasks.vocabulary import AVVP_EVENTS

COLUMNS = ("filename", "onset", "offset", "event_labels")


@dataclasses.dataclass
class Truth:
    """Events of the test videos.

    Attributes:
        audio, visual: name of a video → its events.
        broken: videos with a line that cannot be used; what is left of their events would be incomplete.
        rejects: those lines.
    """

    audio: dict[str, list[Event]] = dataclasses.field(default_factory=dict)
    visual: dict[str, list[Event]] = dataclasses.field(default_factory=dict)
    broken: set[str] = dataclasses.field(default_factory=set)
    rejects: list[Reject] = dataclasses.field(default_factory=list)

    def of(self, entry: Entry) -> AudioVisualEvents | None:
        """The events of a video in order of time; None if no table mentions it."""
        found = names(entry)
        audio, visual = ([e for n in sorted(found) for e in t.get(n, [])] for t in (self.audio, self.visual))
        if not audio and not visual:
            return None
        return AudioVisualEvents(*(tuple(sorted(e, key=lambda e: (e.start_s, e.name))) for e in (audio, visual)))

    def lose(self, line: Reject) -> None:
        """Notes a line that cannot be used, and its video, as far as the line names it."""
        if line.id:
            self.broken.add(line.id)
            because = "the video is left out, because what is known about it is incomplete"
            line = dataclasses.replace(line, reason=f"{line.reason}; {because}")
        self.rejects.append(line)


def names(entry: Entry) -> set[str]:
    """What the tables may call the video of an annotation."""
    return {_stem(entry.name(field)) for field in ("vid", "filename") if entry.has(field)}


def read_truth(source: Source, *, folder: str, seconds: int) -> Truth | None:
    """Reads both tables; None if there are none.

    Args:
        source: of the test split.
        folder: where they are, below the root.
        seconds: length of the videos.

    Raises:
        AnnotationError: only one of the two is there, or one cannot be read or has no line that can be used.
    """
    paths = {kind: source.find_any(f"{folder}/AVVP_eval_{kind}.csv") for kind in ("audio", "visual")}
    if not any(paths.values()):
        return None
    if absent := [kind for kind, path in paths.items() if path is None]:
        (there,) = (path for path in paths.values() if path)
        missing = there.with_name(f"AVVP_eval_{absent[0]}.csv")
        raise AnnotationError(f"{missing}: no such file, but {there.name} is there; both are needed")
    truth = Truth()
    for kind, path in paths.items():
        table, before = getattr(truth, kind), len(truth.rejects)
        for entry in source.csv_entries(path, COLUMNS, delimiter=_delimiter(path), id="filename"):
            if isinstance(entry, Reject):
                truth.lose(dataclasses.replace(entry, id=_stem(entry.id)))
                continue
            video = _stem(str(entry.fields["filename"]).strip())
            try:
                entry.text("filename")
                name = entry.one_of("event_labels", AVVP_EVENTS)
                event = Event(name, *entry.seconds("onset", "offset", length=seconds))
            except BadEntry as error:
                truth.lose(source.reject(video, entry.source, str(error)))
                continue
            events = table.setdefault(video, [])
            if event in events:
                reason = f"{name}, {event.start_s} to {event.end_s} s, stands here twice; it counts once"
                truth.rejects.append(source.reject(video, entry.source, reason))
            else:
                events.append(event)
        # Names of columns and nothing below them: nobody is heard (or seen) in any of the videos.
        if not table and (len(truth.rejects) > before or not _starts_with(path, COLUMNS)):
            unfit = "".join(f"; {r.source}: {r.reason}" for r in truth.rejects[before : before + 1])
            expected = f"expected a line for each event ({', '.join(COLUMNS)})"
            raise AnnotationError(f"{path}: {expected}, found none that can be used{unfit}\n{source.layout()}")
    return truth


def _starts_with(path: pathlib.Path, columns: Iterable[str]) -> bool:
    return all(name.encode() in _first_line(path) for name in columns)


def _delimiter(path: pathlib.Path) -> str:
    return "\t" if b"\t" in _first_line(path) else ","


def _first_line(path: pathlib.Path) -> bytes:
    """The first one that is not blank; empty if there is none."""
    try:
        with path.open("rb") as file:
            return next((line for line in file if line.removeprefix(b"\xef\xbb\xbf").strip()), b"")
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error


def _stem(name: str) -> str:
    return name.removesuffix(".mp4")
