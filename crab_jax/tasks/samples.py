"""The quick-start sample file: a JSON list of questions with their media.

```json
[
  {"task": "avqa", "video_path": "clip.mp4", "question": "How many instruments are playing?"},
  {"task": "s4", "image_path": "frames/3.jpg", "audio_path": "audio.wav", "mask_path": "labels/3.png"}
]
```

| field | type | meaning |
|---|---|---|
| `task` | string | one of the nine tasks |
| `video_path`, `image_path` | string | what the task looks at; relative to the JSON file, or absolute |
| `audio_path` | string | the sound; may be left out where there is a `video_path`, whose own sound is then used |
| `mask_path` | string | the true mask of a segmentation task, only to compare with; optional |
| `question` | string | avqa |
| `exp` | string | ref-avs, the expression to segment |
| `second` | integer | which second of the sound an image belongs to; without it, the number that names the image file |
| `id` | string or integer | name of the sample in the results; without it, its index |

A field with value null counts as absent. A sample that cannot be used becomes a `BrokenSample` and does not stop the
others; a file that is no list of samples is a `SamplesError`. Whether media exist and can be decoded is found out when
they are read.

Source: specification 9.5. `second` and `id` are additions; so is that `audio_path` and `mask_path` may be absent.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from crab_jax.tasks import TASKS, Row, RowError, Wording
from crab_jax.tasks.json_file import is_name, kind, read_list
from crab_jax.tokens import UserTextError

PATHS = ("audio_path", "video_path", "image_path", "mask_path")
FIELDS = ("task", *PATHS, "question", "exp", "second", "id")

_LARGEST_FILE = 256 * 2**20  # bytes


class SamplesError(ValueError):
    """A sample file that cannot be read at all; the message says where and why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One question with its media.

    Attributes:
        index: place in the file, counted from 0.
        id: name in the results, unique in the file.
        task: key of `TASKS`.
        audio_path: the sound; None if it is taken from the video.
        video_path, image_path: what is looked at; None where the task does not.
        mask_path: the true mask, or None.
        question, exp: what was asked; empty where the task does not ask.
        second: which second is asked about, counted from 0; None where the task does not need it.
    """

    index: int
    id: str
    task: str
    audio_path: pathlib.Path | None = None
    video_path: pathlib.Path | None = None
    image_path: pathlib.Path | None = None
    mask_path: pathlib.Path | None = None
    question: str = ""
    exp: str = ""
    second: int | None = None

    @property
    def sound_path(self) -> pathlib.Path:
        """The file whose sound is heard."""
        path = self.audio_path or self.video_path
        assert path is not None, "read_sample sees to it"
        return path

    def row(self) -> Row:
        """The part of the sample that goes into the prompt."""
        return Row(question=self.question, exp=self.exp, second=self.second)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrokenSample:
    """An entry that cannot be used.

    Attributes:
        index: place in the file, counted from 0.
        reason: what was expected and what was found.
        raw: the entry as parsed.
    """

    index: int
    reason: str
    raw: Any


def read_samples(path: str | pathlib.Path, *, wording: Wording = Wording.QUICK_START) -> list[Sample | BrokenSample]:
    """Reads a sample file.

    Args:
        path: a JSON file in UTF-8.
        wording: how the tasks will be asked; it decides which media and fields a task needs.

    Returns:
        One entry per element of the list, in its order.

    Raises:
        SamplesError: no such file, no valid JSON (with line, column and the line itself), no list, or an empty one.
    """
    path = pathlib.Path(path)
    entries = read_list(path, of="samples", error=SamplesError, largest=_LARGEST_FILE, pairs=_object)
    samples: list[Sample | BrokenSample] = []
    taken: dict[str, int] = {}
    for index, entry in enumerate(entries):
        sample = read_sample(entry, index=index, folder=path.parent, wording=wording)
        if isinstance(sample, Sample):
            # Case is ignored, because results become files and some file systems ignore it too.
            before = taken.setdefault(sample.id.casefold(), index)
            if before != index:
                sample = BrokenSample(
                    index=index, reason=f"id {sample.id!r}: sample {before} has it already", raw=entry
                )
        samples.append(sample)
    return samples


def read_sample(
    entry: Any, *, index: int = 0, folder: str | pathlib.Path = "", wording: Wording = Wording.QUICK_START
) -> Sample | BrokenSample:
    """One sample from the fields of its JSON object.

    Args:
        entry: field → value; anything else is broken.
        index: place in the file.
        folder: what relative paths start from.
        wording: how the task will be asked.
    """
    try:
        return _sample(entry, index=index, folder=pathlib.Path(folder), wording=wording)
    except (_Broken, RowError, UserTextError) as error:
        raw = dict(entry) if isinstance(entry, Mapping) else entry
        return BrokenSample(index=index, reason=str(error), raw=raw)


class _Broken(Exception):
    """Why a sample cannot be used."""


class _Repeated(dict):
    """A JSON object in which a field stands twice."""

    field = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    repeated = _Repeated(fields)
    names = [name for name, _ in pairs]
    repeated.field = next(name for name in names if names.count(name) > 1)
    return repeated


def _sample(entry: Any, *, index: int, folder: pathlib.Path, wording: Wording) -> Sample:
    if not isinstance(entry, Mapping):
        raise _Broken(f"expected an object such as {{'task': 'avqa', …}}, found {kind(entry)}")
    if isinstance(entry, _Repeated):
        raise _Broken(f"field {entry.field!r} stands twice")
    if unknown := [name for name in entry if name not in FIELDS]:
        raise _Broken(f"unknown field {unknown[0]!r}; known fields: {', '.join(FIELDS)}")
    fields = {name: value for name, value in entry.items() if value is not None}

    task = _string(fields, "task")
    if task is None:
        raise _Broken(f"field 'task' is missing; tasks: {', '.join(TASKS)}")
    if task not in TASKS:
        raise _Broken(f"unknown task {task!r}; tasks: {', '.join(TASKS)}")
    spec = TASKS[task]
    media, needs = spec.media[wording], spec.needs(wording)
    paths = {name: _path(fields, name, folder) for name in PATHS}
    texts = {name: _string(fields, name) for name in ("question", "exp")}

    useless = {
        "image_path": not media.image,
        "mask_path": not spec.needs_masks,
        "question": "question" not in needs,
        "exp": "exp" not in needs,
        "second": "second" not in needs,
    }
    for name, no_use in useless.items():
        if no_use and name in fields:
            raise _Broken(f"field {name!r} has no use for task {task!r}; leave it out")
    for name in ("question", "exp"):
        if name in needs and texts[name] is None:
            raise _Broken(f"task {task!r} needs the field {name!r}")
    if media.frames and paths["video_path"] is None:
        raise _Broken(f"task {task!r} needs the field 'video_path'")
    if media.image and paths["image_path"] is None:
        raise _Broken(f"task {task!r} needs the field 'image_path'")
    if paths["audio_path"] is None and paths["video_path"] is None:
        raise _Broken("no sound: give 'audio_path', or 'video_path' for a video with sound")

    sample = Sample(
        index=index,
        id=_id(fields, index),
        task=task,
        **paths,
        question=texts["question"] or "",
        exp=texts["exp"] or "",
        second=_second(fields, paths["image_path"], media.seconds) if "second" in needs else None,
    )
    spec.prompt(sample.row(), wording)  # refuses text that would mean something to the model
    return sample


def _string(fields: Mapping[str, Any], name: str) -> str | None:
    if name not in fields:
        return None
    value = fields[name]
    if not isinstance(value, str):
        raise _Broken(f"field {name!r}: expected a string, found {kind(value)}")
    if not value.strip():
        raise _Broken(f"field {name!r} is blank")
    return value


def _path(fields: Mapping[str, Any], name: str, folder: pathlib.Path) -> pathlib.Path | None:
    value = _string(fields, name)
    if value is None:
        return None
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise _Broken(f"field {name!r}: {value!r} is no path")
    return folder / value


def _second(fields: Mapping[str, Any], image: pathlib.Path | None, seconds: int) -> int:
    if "second" in fields:
        second, origin = fields["second"], "field 'second'"
        if not isinstance(second, int) or isinstance(second, bool):
            raise _Broken(f"field 'second': expected a whole number, found {kind(second)}")
    elif image is None:
        raise _Broken("field 'second' is missing, and there is no image whose name could tell it")
    elif re.fullmatch("[0-9]{1,9}", image.stem):
        second, origin = int(image.stem), f"name of {image.name!r}"
    else:
        raise _Broken(
            f"which second does {image.name!r} belong to? Name the image by it, as in 7.jpg, or give the field 'second'"
        )
    if not 0 <= second < seconds:
        raise _Broken(f"{origin}: second {second} is not in 0 … {seconds - 1}")
    return second


def _id(fields: Mapping[str, Any], index: int) -> str:
    value = fields.get("id", index)
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise _Broken(f"field 'id': expected a string or a whole number, found {kind(value)}")
    name = str(value)
    if not is_name(name):  # results are written to files that carry it
        raise _Broken(f"field 'id': {name[:60]!r} cannot be part of a file name")
    return name
