"""Writing shards: ArrayRecord files, the index beside them and the description of both."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from array_record.python import array_record_module

from data_pipelines.ask_json import ask_to_json
from data_pipelines.records import MANIFEST, SCHEMA, Record

# One record per group, so that any of them can be read alone. Media are compressed already: trying again costs time.
_OPTIONS = "group_size:1,uncompressed"


class ShardWriter:
    """One ArrayRecord file; the same records give the same bytes. A context: the file is complete after its end.

    Attributes:
        entries: a line of the index for each record so far, as plain JSON types.
    """

    def __init__(self, path: pathlib.Path):
        self._writer = array_record_module.ArrayRecordWriter(str(path), _OPTIONS)
        self.entries: list[dict[str, Any]] = []

    def add(self, record: Record, *, samples: int) -> None:
        """Writes a record.

        Args:
            record: what to write.
            samples: of its sound, for the index.

        Raises:
            OSError: the disk is full, for example.
        """
        data = record.to_bytes()
        try:
            self._writer.write(data)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        self.entries.append(
            {
                "clip_id": record.clip_id,
                "frames": len(record.frames),
                "samples": samples,
                "masks": len(record.masks),
                "size": len(data),
                "asks": [ask_to_json(ask, raw=False) for ask in record.asks],
            }
        )

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exception) -> None:
        try:
            self._writer.close()
        except RuntimeError as error:
            raise OSError(str(error)) from error


def write_lines(path: pathlib.Path, values: Iterable[object]) -> None:
    """A JSON value per line, in UTF-8."""
    with path.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_manifest(folder: pathlib.Path, *, options: Mapping[str, Any], splits: Mapping[str, Any]) -> None:
    """`shards.json`; whoever finds it finds a complete data set, so it is written last.

    Args:
        folder: of the data set.
        options: how it was built; `size` is needed to read it.
        splits: name → `shards`, a list of `{"file", "records", "bytes"}`, and counts for people.
    """
    whole = {"schema": SCHEMA, **options, "splits": splits}
    (folder / MANIFEST).write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
