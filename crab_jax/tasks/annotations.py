"""From annotation files to clips: where the files are, what is in them, and which annotations share media.

Every task's `clips(root, split)` is a few lines over `Source`. One annotation that cannot be used costs itself and
nothing else; a file that cannot be read at all is an `AnnotationError`.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from crab_jax.tasks.base import Row, RowError, TaskSpec, Wording
from crab_jax.tasks.clips import AnnotationError, Ask, Clip, Reject
from crab_jax.tasks.entries import BadEntry, Entry
from crab_jax.tasks.json_file import kind, read_list
from crab_jax.tokens import UserTextError

# What an odd annotation may raise; `BadEntry`, which says it best, is a ValueError.
_ODD = (ValueError, TypeError, OverflowError, OSError)


class Source:
    """The annotations of one split of one task below a root.

    Paths are given relative to the root, as in the task's `layout`. Where they begin with `data/`, the folder of the
    reference's own annotation files, they are also found without it.
    """

    def __init__(self, spec: TaskSpec, root: pathlib.Path, split: str):
        """Raises:
        AnnotationError: an unknown split, or no such folder.
        """
        self.spec, self.root, self.split = spec, pathlib.Path(root), split
        self._said: dict[str, list[str]] = {}
        if split not in spec.splits:
            raise AnnotationError(f"{spec.name}: no split {split!r}; there are {', '.join(spec.splits)}")
        if not self.root.is_dir():
            raise AnnotationError(f"{self.root}: no such folder; {self.layout()}")

    # ---------------------------------------------------------------------------------------------- files

    def find(self, *places: str) -> pathlib.Path:
        """The first of these files or folders that exists.

        Raises:
            AnnotationError: none does; says what the task expects below the root.
        """
        if path := self.find_any(*places):
            return path
        absent, hint = self.root / places[0], ""
        below = sorted(p for p in self.root.iterdir() if p.is_dir())
        for folder in (self.root.absolute().parent, self.root.absolute().parent.parent, *below):
            if any((folder / place).exists() for place in places):
                hint = f" It is there below {folder}; should that be the root?"
                break
        raise AnnotationError(f"{absent}: no such file or folder.{hint} {self.layout()}")

    def find_any(self, *places: str) -> pathlib.Path | None:
        """The first of these files or folders that exists, or None."""
        for place in places:
            for path in (self.root / place, self.root / place.removeprefix("data/")):
                if path.exists():
                    return path
        return None

    def media(self, written: str, *suffixes: str) -> pathlib.Path:
        """A media path as an annotation writes it: relative to the root, or absolute.

        Annotations made on another machine name a folder that is not here; then the part of the path that exists below
        the root counts. If none does, the path as written: the builder will find it missing.

        Args:
            written: the path.
            suffixes: further suffixes that the file may have here.

        Raises:
            OSError: no file can have this path; it is too long, for example.
        """
        parts = pathlib.PurePosixPath(written).parts
        paths = [self.root / written]  # an absolute path stays what it is
        paths += [self.root.joinpath(*parts[i:]) for i in range(1, len(parts))]
        either = (p if s is None else p.with_suffix(s) for p in paths for s in (None, *suffixes))
        if found := next((p for p in either if _exists(p)), None):
            return found
        paths[0].exists()
        return paths[0]

    def file(self, folder: str, name: str, *suffixes: str) -> pathlib.Path:
        """A media file by its name; the first suffix whose file exists, or else the first of all."""
        paths = [self.root / folder / (name + suffix) for suffix in suffixes]
        return next((p for p in paths if p.exists()), paths[0])

    def sound(self, folder: str, name: str) -> pathlib.Path | None:
        """The sound of a video; None, the video's own, if nobody ever took the sounds out into `folder`."""
        return self.file(folder, name, ".mp3", ".wav") if (self.root / folder).is_dir() else None

    def read_text(self, entry: Entry, path: pathlib.Path) -> str:
        """A text file that belongs to an annotation; its lines end as on Unix, wherever it was written.

        Raises:
            BadEntry: missing, unreadable, not UTF-8 or blank.
        """
        try:
            text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").strip()
        except FileNotFoundError:
            raise entry.bad(f"no text {self._short(path)}") from None
        except OSError as error:
            raise entry.bad(f"{self._short(path)}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise entry.bad(f"{self._short(path)}: not UTF-8 at byte {error.start}") from error
        if not text:
            raise entry.bad(f"{self._short(path)} is blank")
        return text

    def _short(self, path: pathlib.Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def layout(self) -> str:
        """What the task expects below the root, for messages."""
        lines = "\n".join(f"  {line}" for line in self.spec.layout.strip().splitlines())
        return f"{self.spec.name} expects below {self.root}:\n{lines}"

    # ---------------------------------------------------------------------------------------------- entries

    def json_entries(self, *places: str) -> Iterator[Entry | Reject]:
        """The objects of a JSON list, the first of `places` that exists. NaN, as pandas writes it, is null."""
        path = self.find(*places)
        values = read_list(path, of="annotations", error=AnnotationError, nan_is_null=True, may_be_empty=True)
        for index, value in enumerate(values):
            source = f"{self._short(path)}[{index}]"
            if not isinstance(value, dict):
                yield self.reject("", source, f"expected an object with fields, found {kind(value)}")
                continue
            try:  # it will be stored beside the media
                json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
            except (ValueError, RecursionError) as error:
                yield self.reject("", source, f"cannot be written as JSON again: {error}")
                continue
            yield Entry(value, source)

    def csv_entries(
        self, path: pathlib.Path, columns: Sequence[str], *, delimiter: str = ",", id: str | None = None
    ) -> Iterator[Entry | Reject]:
        """The lines of a table, without blank ones.

        A first line of column names, in any order and with further columns, is used and left out; without it, the
        columns are `columns`. Lines are read one by one, so that a quote that is never closed costs only its own line.

        Args:
            path: of the table.
            columns: that it must have.
            delimiter: between two cells.
            id: the column that names what a line is about. Rejects have it as their id as far as it can be read.
        """
        try:
            lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
        except OSError as error:
            raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error
        names, first = list(columns), True
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            source = f"{self._short(path)}:{number}"
            may_be_names, first = first, False
            about = "" if id is None else _cell(line, names.index(id), delimiter)
            try:
                cells = next(csv.reader([line.decode()], delimiter=delimiter, strict=True), [])
            except UnicodeDecodeError as error:
                yield self.reject(about, source, f"not UTF-8 at byte {error.start} of the line")
                continue
            except csv.Error as error:
                yield self.reject(about, source, f"{error}: {line[:80].decode(errors='replace')!r}")
                continue
            if may_be_names and set(columns) <= {c.strip() for c in cells}:
                names = [c.strip() for c in cells]
            elif len(cells) != len(names):
                shown = line[:80].decode(errors="replace")
                reason = f"expected {len(names)} columns ({', '.join(names)}), found {len(cells)}: {shown!r}"
                yield self.reject(about, source, reason)
            else:
                yield Entry(dict(zip(names, cells)), source)

    def of_split(self, entry: Entry) -> bool:
        """Whether the field `split` names this split. What names none is reported once, with the first split."""
        first = self.split == self.spec.splits[0]
        try:
            found = entry.text("split")
        except BadEntry:
            if first:
                raise
            return False
        if found not in self.spec.splits and first:
            raise entry.bad(f"field 'split': expected one of {', '.join(self.spec.splits)}, found {found[:60]!r}")
        return found == self.split

    # ---------------------------------------------------------------------------------------------- clips

    def distinct(self, entry: Entry, id: str, words: str) -> str:
        """The id of an ask where a data set uses one for several: `id`, for further words `id-2`, `id-3` …

        Raises:
            BadEntry: the same words were there before.
        """
        before = self._said.setdefault(id, [])
        if words in before:
            raise entry.bad(f"the same was there before: {id!r}, {words[:60]!r}")
        before.append(words)
        return id if len(before) == 1 else f"{id}-{len(before)}"

    def reject(self, id: str, source: str, reason: str) -> Reject:
        """An annotation of this split that cannot be used."""
        return Reject(task=self.spec.name, split=self.split, id=id, source=source, reason=reason)

    def clips(
        self,
        entries: Iterable[Entry | Reject],
        *,
        key: Callable[[Entry], str | None],
        media: Callable[[str, Entry], Mapping[str, Any]],
        asks: Callable[[str, Sequence[Entry]], Iterable[Ask | Reject]],
        same: Literal["refuse", "share", "merge"] = "refuse",
        mask: Callable[[str, Ask], pathlib.Path | None] | None = None,
    ) -> Iterator[Clip | Reject]:
        """Clips in the order in which they are first mentioned, each with what is asked about it.

        Args:
            entries: annotations; rejects among them are passed on.
            key: the id of the clip that an annotation is about; None leaves the annotation out.
            media: id and the clip's first annotation → the fields of `Clip` that hold its media.
            asks: id and annotations → what is asked. Each ask's row must give prompt, target and answer. A `Reject`
                among the asks is passed on and costs nothing else.
            same: what becomes of annotations about one clip: all but the first are refused; they share its media, each
                with its own asks; or they are merged, one call of `asks` with all of them, so that one that is bad
                costs the whole clip.
            mask: id and ask → the file of its true mask, or None. Asks that name the same file share it.
        """
        groups: dict[str, list[Entry]] = {}
        for entry in entries:
            if isinstance(entry, Reject):
                yield entry
                continue
            try:
                id = key(entry)
            except _ODD as error:
                yield self._odd("", entry, error)
                continue
            if id is None:
                continue
            if same == "refuse" and id in groups:
                yield self.reject(id, entry.source, f"{groups[id][0].source} has the id {id!r} already")
            else:
                groups.setdefault(id, []).append(entry)
        taken: dict[str, str] = {}
        for id, members in groups.items():
            kept: list[Ask] = []
            for together in [members] if same == "merge" else [[m] for m in members]:
                try:
                    found = list(asks(id, together))
                    new = [ask for ask in found if isinstance(ask, Ask)]
                    for ask in new:
                        self._check(together[0], ask, taken)
                except _ODD as error:
                    yield self._odd(id, together[0], error)
                    continue
                yield from (reject for reject in found if isinstance(reject, Reject))
                taken.update((ask.id, together[0].source) for ask in new)
                kept += new
            if not kept:
                continue
            try:
                files = media(id, members[0])
            except _ODD as error:
                yield self._odd(id, members[0], error)
                continue
            masks: dict[pathlib.Path, int] = {}
            if mask is not None:
                for i, ask in enumerate(kept):
                    if (path := mask(id, ask)) is not None:
                        kept[i] = dataclasses.replace(ask, mask=masks.setdefault(path, len(masks)))
            yield Clip(
                task=self.spec.name,
                split=self.split,
                id=id,
                asks=tuple(kept),
                masks=tuple(masks),
                source=members[0].source,
                **files,
            )

    def _odd(self, id: str, entry: Entry, error: Exception) -> Reject:
        """What became of an annotation that raised an error."""
        if isinstance(error, BadEntry):
            return self.reject(id, error.entry.source, str(error))
        return self.reject(id, entry.source, f"{type(error).__name__}: {error}")

    def _check(self, entry: Entry, ask: Ask, taken: Mapping[str, str]) -> None:
        """Refuses an id that was there before, and a row without prompt, target or answer."""
        if ask.id in taken:
            raise entry.bad(f"{taken[ask.id]} has the id {ask.id!r} already")
        try:
            self.check_row(ask.row)
        except (RowError, UserTextError) as error:
            raise entry.bad(str(error)) from error

    def check_row(self, row: Row) -> None:
        """Prompt, target and answer of a row, in every wording.

        Raises:
            RowError, UserTextError: one of them cannot be made.
        """
        for wording in Wording:
            self.spec.prompt(row, wording)
            self.spec.target(row, wording)
        self.spec.answer(row)


def _exists(path: pathlib.Path) -> bool:
    """Whether a file is there; none has a path that is too long."""
    try:
        return path.exists()
    except OSError:
        return False


def _cell(line: bytes, index: int, delimiter: str) -> str:
    """A cell of a line that may be malformed, or written with another delimiter; empty if it cannot be read."""
    mark = delimiter.encode()
    cells = line.split(mark) if mark in line else re.split(rb"[\s,;]+", line.strip())
    try:
        return cells[index].decode().strip(' "')
    except (IndexError, UnicodeDecodeError):
        return ""
