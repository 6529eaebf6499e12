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
_WRITERS = ".writers.lock"  # of a folder: shared by those who append, held alone by whoever joins their files
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
    "finished": bool, "value": dict, "notes": list,
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
    """Appends lines to a file; made by `open_journal`.

    Attributes:
        dropped: what was taken away from the end of the file because it was no complete line; empty if nothing.
    """

    def __init__(self, file: io.FileIO, dropped: str = ""):
        self._file = file
        self.dropped = dropped

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


def to_utf8(text: str) -> bytes:
    """Text for a file. Half a surrogate pair, which JSON can hold, has no UTF-8 form: its escape takes its place."""
    return text.encode("utf-8", "backslashreplace")


def encode(value: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """A line of a file of answers or, indented, a file of its own. The escape of half a surrogate pair is JSON, too."""
    return to_utf8(json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


@contextlib.contextmanager
def open_journal(folder: pathlib.Path, *, process: int = 0, processes: int = 1) -> Iterator[Journal]:
    """Opens a process' file for appending.

    A last line without an end is completed if it is an answer, as after editing by hand; otherwise a kill left it
    unfinished, and it is taken away. Waits while another process joins the files of this folder.

    Raises:
        JournalError: another run writes there.
    """
    name = part_name(process, processes)
    with contextlib.ExitStack() as stack:
        # A file of its own, because the file of answers is replaced at the end.
        if not stack.enter_context(_locked(folder / f".{name}.lock")):
            raise JournalError(f"{folder}: another run is writing there; wait for it or choose another --out")
        stack.enter_context(_locked(folder / _WRITERS, shared=True))
        fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        file = stack.enter_context(io.FileIO(fd, "r+"))
        data = file.readall()
        end = data.rfind(b"\n") + 1
        last = data[end:].strip()
        dropped = ""
        try:
            if last:
                _checked(json.loads(last))
        except (ValueError, RecursionError) as error:
            shown = last.decode("utf-8", "backslashreplace")
            dropped = f"{folder / name}: dropped its last line, which is incomplete: {shown:.80} ({error})"
            last = b""
        file.truncate(end)
        if last:
            file.seek(end)
            file.write(last + b"\n")
        yield Journal(file, dropped)


def joining(folder: pathlib.Path) -> contextlib.AbstractContextManager[bool]:
    """Gives whether no process appends to any file of the folder; if so, nobody begins to inside the context."""
    return _locked(folder / _WRITERS)


@contextlib.contextmanager
def _locked(path: pathlib.Path, *, shared: bool = False) -> Iterator[bool]:
    """Holds a lock; gives False if another one has it. For a shared lock it waits.

    Without locks, as on Windows and on some file systems, nobody notices anybody.
    """
    with path.open("a+") as file:  # NFS wants it readable to share it, and writable to hold it alone
        free = True
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:
            pass
        yield free


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
    except (OSError, ValueError, RecursionError) as error:
        raise JournalError(f"{path}: expected the settings of an evaluation, found {error}") from error
    if not isinstance(settings, dict):
        raise JournalError(f"{path}: expected the settings of an evaluation, found {type(settings).__name__}")
    for name, kind in _SHOWN.items():
        if name in settings and not isinstance(settings[name], kind):
            raise JournalError(f"{path}: expected the settings of an evaluation, found {name} = {settings[name]!r:.60}")
    return settings


# Settings that tables show, and that say what is scored; all others are only compared.
_SHOWN = {
    "model": dict, "weights": str, "dtype": str, "wording": str, "sampling": dict, "task": str, "split": str,
    "mode": str, "swap": (str, type(None)),
}  # fmt: skip


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"
