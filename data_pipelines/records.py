"""One clip as it lies in a shard, and reading shards. No jax and no TFDS: the workers of a stream import this.

A data set is a folder `<out>/<task>/<schema version>` that TFDS can read (`dataset_info.json`, `features.json`,
ArrayRecord shards). Beside these lie

shards.json           how it was built, and names, records and bytes of the shards
index-<split>.jsonl   a line per record: what it holds, without the media, so that sizes are known without reading them
rejects.jsonl         a line per annotation or clip that could not be used, and why
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import operator
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module

from crab_jax.tasks.clips import Ask
from data_pipelines import encoding, example_proto
from data_pipelines.ask_json import ask_from_json, ask_to_json

SCHEMA = "1.0.0"  # of records and of the files beside them; a reader accepts its own only
MANIFEST = "shards.json"
AGAIN = "copy it again, or build it again with --overwrite"
_MOST = 2**62  # of anything that is counted; what Python calls a length is not larger


class ShardError(ValueError):
    """Shards that are missing, of another schema, or not the ones that their index describes; nothing can be read."""


class MissingFiles(ShardError):
    """Shards or an index that are not there, or shards of another size than described; building again mends it."""


class CorruptRecord(ValueError):
    """One record that cannot be read; the others can.

    Attributes:
        shard: name of the shard; empty if the record was not read from one.
        index: number of the record in its split; -1 if unknown.
        reason: what was expected and what was found.
    """

    def __init__(self, reason: str, *, shard: str = "", index: int = -1):
        super().__init__(f"{shard}, record {index}: {reason}" if shard else reason)
        self.reason, self.shard, self.index = reason, shard, index

    def __reduce__(self):
        return _corrupt, (self.reason, self.shard, self.index)


def _corrupt(reason: str, shard: str, index: int) -> CorruptRecord:
    return CorruptRecord(reason, shard=shard, index=index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One clip: its media, encoded, and what is asked about it.

    Attributes:
        task: key of `TASKS` or `PRETRAINING`.
        split: "train", "val", "test" …
        clip_id: unique in its split.
        frames: JPEG or PNG files, S by S pixels, squashed and scaled exactly as inference does.
        audio: a FLAC file, mono at 16 kHz; empty without sound.
        audio_exponent: the wave is the samples of `audio` times 2 to this power.
        masks: PNG files, S by S pixels, gray: 0 and 1, or class ids where `semantic`.
        semantic: what the masks hold.
        asks: the examples about this clip.
        provenance: where the media came from: paths below the root, durations in seconds, sizes in pixels.
    """

    task: str
    split: str
    clip_id: str
    frames: tuple[bytes, ...] = ()
    audio: bytes = b""
    audio_exponent: int = 0
    masks: tuple[bytes, ...] = ()
    semantic: bool = False
    asks: tuple[Ask, ...] = ()
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def picture(self, i: int) -> np.ndarray:
        """The i-th picture, uint8 `[S S 3]`.

        Raises:
            CorruptRecord: it cannot be decoded.
        """
        return self._decoded(f"picture {i}", encoding.decode_picture, self.frames[i])

    def mask(self, i: int) -> np.ndarray:
        """The i-th mask, uint8 `[S S]`.

        Raises:
            CorruptRecord: it cannot be decoded.
        """
        return self._decoded(f"mask {i}", encoding.decode_mask, self.masks[i])

    def wave(self, parts: Callable[[int], np.ndarray] | None = None) -> np.ndarray:
        """The sound, float32 `[n]` at 16 kHz; no samples without sound.

        Args:
            parts: which of it is needed, as in `encoding.decode_sound_parts`; None: all.

        Raises:
            CorruptRecord: it cannot be decoded; also in place of a ValueError of `parts`.
        """
        if parts is None:
            return self._decoded("sound", encoding.decode_sound, self.audio, self.audio_exponent)
        return self._decoded("sound", encoding.decode_sound_parts, self.audio, self.audio_exponent, parts)

    def _decoded(self, what: str, decode, *arguments) -> np.ndarray:
        try:
            return decode(*arguments)
        except ValueError as error:
            raise CorruptRecord(f"{self.task}/{self.split}, clip {self.clip_id}, {what}: {error}") from error

    def to_features(self) -> dict[str, Any]:
        """Plain values, by the names in `features.json`."""
        return {
            "task": self.task,
            "split": self.split,
            "clip_id": self.clip_id,
            "frames": list(self.frames),
            "audio": self.audio,
            "audio_exponent": self.audio_exponent,
            "masks": list(self.masks),
            "semantic": int(self.semantic),
            "asks": _dump([ask_to_json(ask) for ask in self.asks]),
            "provenance": _dump(dict(self.provenance)),
        }

    @classmethod
    def from_features(cls, features: Mapping[str, Any]) -> Record:
        """The inverse of `to_features`; text may also be bytes.

        Raises:
            ValueError: a feature is missing or holds what no record can.
        """
        try:
            text = {k: _text(features[k]) for k in ("task", "split", "clip_id", "asks", "provenance")}
            return cls(
                task=text["task"],
                split=text["split"],
                clip_id=text["clip_id"],
                frames=tuple(features["frames"]),
                audio=bytes(features["audio"]),
                audio_exponent=int(features["audio_exponent"]),
                masks=tuple(features["masks"]),
                semantic=bool(features["semantic"]),
                asks=tuple(ask_from_json(ask) for ask in json.loads(text["asks"])),
                provenance=json.loads(text["provenance"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a record of schema {SCHEMA} ({type(error).__name__}: {error})") from error

    def to_bytes(self) -> bytes:
        """As it lies in a shard: a `tf.train.Example`. Equal records give equal bytes."""
        return example_proto.serialize(self.to_features())

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """The inverse of `to_bytes`.

        Raises:
            ValueError: the bytes are no record.
        """
        return cls.from_features(example_proto.parse(data, many=("frames", "masks")))


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# ------------------------------------------------------------------------------------------------------------ shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What the index says about one record.

    Attributes:
        index: number of the record in its split.
        clip_id: as in the record.
        frames: how many pictures.
        samples: of sound, at 16 kHz.
        masks: how many.
        size: bytes of the record.
        asks: as in the record, without `raw`.
    """

    index: int
    clip_id: str
    frames: int
    samples: int
    masks: int
    size: int
    asks: tuple[Ask, ...]

    @classmethod
    def from_line(cls, line: str, *, index: int) -> Entry:
        """A line of the index; `index` is its number.

        Raises:
            ValueError: it does not say what a record holds.
        """
        try:
            value = json.loads(line)
            entry = cls(index=index, asks=tuple(ask_from_json(ask) for ask in value.pop("asks")), **value)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        for name in ("frames", "samples", "masks", "size"):
            if not isinstance(number := getattr(entry, name), int) or number < 0:
                raise ValueError(f"{name} {number!r:.60} instead of a whole number from 0 up")
        if not isinstance(entry.clip_id, str):
            raise ValueError(f"clip_id {entry.clip_id!r:.60} instead of text")
        return entry


def data_folder(folder: str | pathlib.Path, task: str) -> pathlib.Path:
    """The folder of a task's data set of this schema.

    Raises:
        ShardError: it has not been built below `folder`, or by another version of the program.
    """
    home = pathlib.Path(folder) / task
    path = home / SCHEMA
    if (path / MANIFEST).is_file():
        return path
    there = sorted(p.parent.name for p in home.glob(f"[0-9]*/{MANIFEST}"))
    if there:
        found = f"schema {', '.join(there)}"
        raise ShardError(f"{home}: expected records of schema {SCHEMA}, found {found}; build it again with `crab data`")
    build = f"`crab data build {task} --root DIR --out {folder}` builds it"
    raise ShardError(f"{home}: expected the data set {task} ({path / MANIFEST}), found none; {build}")


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """`shards.json` of a data set.

    Raises:
        ShardError: it cannot be read, or is of another schema.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["schema"]
        manifest["splits"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{path}: expected a description of shards, found {type(error).__name__}: {error}") from error
    if found != SCHEMA:
        raise ShardError(f"{path}: expected schema {SCHEMA}, found {found}; build it again with `crab data build`")
    return manifest


def amount(value: object) -> int:
    """A number of records, bytes or the like in `shards.json`.

    Raises:
        TypeError, ValueError: it cannot be one.
    """
    if not 0 <= (number := operator.index(value)) < _MOST:
        raise ValueError(f"expected a whole number from 0 up, found {str(value)[:30]}")
    return number


def missing_splits(manifest: Mapping[str, Any]) -> list[str]:
    """Splits that `crab data build` was asked for and of which there was nothing."""
    asked = manifest.get("asked")
    return [s for s in asked if s not in manifest["splits"]] if isinstance(asked, list) else []


def open_shards(folder: str | pathlib.Path, task: str, split: str) -> Shards:
    """Opens one split of a data set.

    Args:
        folder: what `crab data build` was given as `--out`.
        task: key of `TASKS` or `PRETRAINING`.
        split: one of the splits that were built.

    Raises:
        ShardError: not built, another schema, no such split, a shard or the index missing.
    """
    path = data_folder(folder, task)
    manifest = read_manifest(path)
    if split not in manifest["splits"]:
        built = ", ".join(manifest["splits"])
        raise ShardError(f"{path}: expected the split {split!r}, found {built}; build it with --splits")
    return Shards(path, task=task, split=split, manifest=manifest)


class Shards(Sequence[Record]):
    """The records of a split, by number, in the order of the annotations. Copies to other processes are cheap.

    Attributes:
        folder: of the data set.
        task, split: which one.
        size: pixels per side of its pictures and masks.
    """

    def __init__(self, folder: pathlib.Path, *, task: str, split: str, manifest: Mapping[str, Any]):
        """Raises:
        ShardError: the manifest is damaged.
        MissingFiles: a shard or the index is missing.
        """
        self.folder, self.task, self.split = folder, task, split
        try:
            self.size = amount(manifest["size"])
            shards = manifest["splits"][split]["shards"]
            self._names = [str(shard["file"]) for shard in shards]
            self._bytes = [amount(shard["bytes"]) for shard in shards]
            self._ends = [amount(n) for n in itertools.accumulate(amount(shard["records"]) for shard in shards)]
        except (KeyError, TypeError, ValueError) as error:
            found = f"found {type(error).__name__}: {error}"
            raise ShardError(f"{folder / MANIFEST}, {split}: expected a description of shards, {found}") from error
        self._readers: dict[int, Any] = {}
        missing = [name for name in [*self._names, self.index_path.name] if not (folder / name).is_file()]
        if missing:
            names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            total = len(self._names)
            raise MissingFiles(
                f"{folder}: expected {total} shards and their index, missing {names}; copy or build again"
            )

    def check_sizes(self) -> None:
        """Whether every shard has as many bytes as described.

        Raises:
            MissingFiles: one has not.
        """
        for number, name in enumerate(self._names):
            if unlike := self._unlike(number):
                raise MissingFiles(f"{self.folder / name}: {unlike}")

    def _unlike(self, number: int) -> str:
        """What is wrong with the size of a shard."""
        size, expected = (self.folder / self._names[number]).stat().st_size, self._bytes[number]
        if size == expected:
            return ""
        return f"expected a shard of {expected} bytes, found {size}; copy or build it again"

    @property
    def index_path(self) -> pathlib.Path:
        """The file with a line per record."""
        return self.folder / f"index-{self.split}.jsonl"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self):
        return self.__dict__ | {"_readers": {}}

    def __repr__(self) -> str:
        return f"Shards({self.task}/{self.split}, {len(self)} records in {len(self._names)} shards, {self.folder})"

    def __getitem__(self, index: int) -> Record:
        """One record.

        Raises:
            CorruptRecord: it, or its whole shard, cannot be read.
            IndexError: there is no such record.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self!r}: no record {index}")
        number = bisect.bisect_right(self._ends, index)
        first = self._ends[number - 1] if number else 0
        name = self._names[number]
        try:
            # RuntimeError is what array_record raises, for example when the hash of a chunk does not fit.
            record = Record.from_bytes(self._reader(number).read([index - first])[0])
        except (OSError, RuntimeError, ValueError) as error:
            raise CorruptRecord(str(error), shard=name, index=index) from error
        if (record.task, record.split) != (self.task, self.split):
            reason = f"expected a record of {self.task}/{self.split}, found {record.task}/{record.split}"
            raise CorruptRecord(reason, shard=name, index=index)
        return record

    def _reader(self, number: int):
        if number not in self._readers:
            if unlike := self._unlike(number):
                raise ValueError(unlike)
            path = self.folder / self._names[number]
            reader = array_record_module.ArrayRecordReader(
                str(path), options="readahead_buffer_size:0", file_reader_buffer_size=1 << 15
            )
            first = self._ends[number - 1] if number else 0
            # A shard that it cannot make sense of has 0 records for array_record.
            if (found := reader.num_records()) != self._ends[number] - first:
                raise ValueError(f"expected {self._ends[number] - first} records in the shard, found {found}")
            self._readers[number] = reader
        return self._readers[number]

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def index(self) -> Iterator[Entry]:
        """What the records hold, in their order, without reading them.

        Raises:
            ShardError: the index is damaged or does not belong to these shards.
        """
        number = -1
        with self.index_path.open("rb") as lines:
            for number, line in enumerate(lines):
                try:
                    entry = Entry.from_line(line.decode(), index=number)
                except ValueError as error:
                    where = f"{self.index_path}, line {number + 1}"
                    found = f"expected what a record holds, found {error}; {AGAIN}"
                    raise ShardError(f"{where}: {found}") from error
                yield entry
        if number + 1 != len(self):
            found = f"expected a line for each of {len(self)} records, found {number + 1}"
            raise ShardError(f"{self.index_path}: {found}; {AGAIN}")
