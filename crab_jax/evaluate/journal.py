"""The file of answers: a line per item, on disk soon after its batch, so that a kill costs two batches at most.

A process appends to a file of its own. `items.jsonl` holds all lines in the order of the items once all are there. No
jax here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: two runs into one folder are not noticed there
    fcntl = None

ITEMS = "items.jsonl"
SETTINGS = "run.json"
SCHEMA = 1  # of the lines and of what they mean; counts up when older ones can no longer be used

Line = dict[str, Any]


class JournalError(ValueError):
    """A folder that belongs to another evaluation, or is in use, or a file that holds no answers."""


@dataclasses.dataclass(frozen=True)
class Read:
    """What files of answers hold.

    Attributes:
        lines: in the order of the files. Of an item that failed and was answered later, the answer only; of one that
            failed several times, the last failure.
        broken: lines that are no answers, each with file, number and reason.
    """

    lines: list[Line]
    broken: list[str]


def part_name(process: int, processes: int) -> str:
    """The file of one process: `items.jsonl` itself where there is only one."""
    return ITEMS if processes == 1 else f"items.{process:05d}-of-{processes:05d}.jsonl"


def parts(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files of answers in a folder, of any number of processes."""
    whole = folder / ITEMS
    return [p for p in (whole, *sorted(folder.glob("items.*-of-*.jsonl"))) if p.is_file()]


def read_lines(files: Iterable[pathlib.Path]) -> Read:
    """Reads answers; whatever is no answer is named and left out.

    Raises:
        JournalError: a file cannot be read at all.
    """
    lines: list[Line] = []
    broken: list[str] = []
    for path in files:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise JournalError(f"{path}: expected a file of answers, one JSON object per line: {error}") from error
        for number, text in enumerate(data.split(b"\n"), 1):
            if not text.strip():
                continue
            try:
                lines.append(_checked(json.loads(text)))
            except (ValueError, RecursionError) as error:
                broken.append(f"{path.name}, line {number}: {error}")
    last = {line["id"]: i for i, line in enumerate(lines)}  # of failures only, in the end
    last |= {line["id"]: -1 for line in lines if "error" not in line}
    return Read([line for i, line in enumerate(lines) if "error" not in line or last[line["id"]] == i], broken)


_TYPES = {
    "id": str, "text": str, "error": str, "mask": str, "number": int, "mask_tokens": int, "tokens": int,
    "finished": bool, "value": dict,
}  # fmt: skip


def _checked(line: Any) -> Line:
    if not isinstance(line, dict):
        raise ValueError(f"expected a JSON object, found {type(line).__name__}")
    for name, kind in _TYPES.items():
        if name in line and type(line[name]) is not kind:
            raise ValueError(f"field {name!r}: expected {kind.__name__}, found {type(line[name]).__name__}")
    if not line.get("id") or ("text" in line) == ("error" in line):
        raise ValueError("expected an object with 'id' and either 'text' or 'error'")
    return line


class Journal:
    """Appends lines to a file; made by `open_journal`."""

    def __init__(self, file: io.FileIO):
        self._file = file

    def add(self, lines: Iterable[Line]) -> None:
        """Writes some lines and waits until the disk has them.

        Raises:
            OSError: the disk is full, say; a line that is there in part is taken away again.
        """
        data = b"".join(encode(line) for line in lines)
        start = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(start)
            raise


def encode(line: Mapping[str, Any]) -> bytes:
    """One line of a file. Half a surrogate pair has no UTF-8 form; its escape is JSON, too."""
    return (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


@contextlib.contextmanager
def open_journal(folder: pathlib.Path, *, process: int = 0, processes: int = 1) -> Iterator[Journal]:
    """Opens a process' file for appending, without the line that a kill left unfinished.

    Raises:
        JournalError: another run writes there.
    """
    name = part_name(process, processes)
    with contextlib.ExitStack() as stack:
        # A file of its own, because the file of answers is replaced at the end.
        lock = stack.enter_context((folder / f".{name}.lock").open("w"))
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JournalError(
                    f"{folder}: another run is writing there; wait for it or choose another --out"
                ) from None
            except OSError:
                pass  # a file system without locks: two runs are not noticed there
        fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        file = stack.enter_context(io.FileIO(fd, "r+"))
        data = file.readall()
        file.truncate(data.rfind(b"\n") + 1)
        yield Journal(file)


def publish(path: pathlib.Path, data: bytes) -> None:
    """Replaces a file whole or not at all, also if the power fails."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def claim(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Makes a folder and writes down what it is for; one that is for something else is refused.

    Args:
        folder: of answers.
        settings: everything that an answer depends on, plain JSON types.

    Raises:
        JournalError: it holds answers of other settings; says which.
        OSError: it cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise JournalError(f"{folder}: expected a folder, found a file")
    folder.mkdir(parents=True, exist_ok=True)
    found = read_settings(folder)
    if found is None:
        publish(folder / SETTINGS, json.dumps(settings, indent=2).encode() + b"\n")
        return
    if found != settings:
        names = [k for k in dict.fromkeys([*settings, *found]) if settings.get(k) != found.get(k)]
        differ = "; ".join(f"{k}: there {_short(found.get(k))}, now {_short(settings.get(k))}" for k in names)
        raise JournalError(f"{folder}: holds answers of another evaluation ({differ}); choose another --out")


def read_settings(folder: pathlib.Path) -> dict[str, Any] | None:
    """What a folder is for; None if it is not said.

    Raises:
        JournalError: the file that says it is broken.
    """
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise JournalError(f"{path}: expected the settings of an evaluation, found {error}") from error
    if not isinstance(settings, dict):
        raise JournalError(f"{path}: expected the settings of an evaluation, found {type(settings).__name__}")
    return settings


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"
