"""Small data sets for tests, written without media and without TFDS."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from crab_jax.tasks import Row
from crab_jax.tasks.clips import Ask
from data_pipelines import encoding
from data_pipelines.records import SCHEMA, Record
from data_pipelines.shard_writer import ShardWriter, write_lines, write_manifest


def noise_record(number: int, *, frames: int = 2, size: int = 16, seconds: float = 0.5, masks: int = 0) -> Record:
    """An avqa record of noise with two questions, exact in everything (PNG)."""
    random = np.random.default_rng(number)
    pictures = random.integers(0, 256, (frames, size, size, 3), dtype=np.uint8)
    planes = random.integers(0, 2, (masks, size, size), dtype=np.uint8)
    audio, exponent = encoding.encode_sound(random.standard_normal(round(16_000 * seconds)).astype(np.float32))
    return Record(
        task="avqa",
        split="train",
        clip_id=f"clip {number}",
        frames=tuple(encoding.encode_picture(p, kind=encoding.PictureFormat.PNG, quality=95) for p in pictures),
        audio=audio,
        audio_exponent=exponent,
        masks=tuple(encoding.encode_mask(plane) for plane in planes),
        asks=tuple(
            Ask(id=f"{number}-{k}", row=Row(question=f"How many, {k}?", answer="two"), raw={"line": number})
            for k in range(2)
        ),
        provenance={"video": {"path": f"{number}.mp4", "size": [size, size]}},
    )


def write_data_set(
    folder: pathlib.Path, splits: Mapping[str, Sequence[Sequence[Record]]], *, task: str = "avqa", size: int = 16
) -> pathlib.Path:
    """Shards of the given records; what `open_shards(folder, task, split)` reads. Returns the folder of the data set.

    Args:
        folder: stands for `--out`.
        splits: name → shards → records, of the same task and split.
        task: of all records.
        size: of their pictures.
    """
    home = folder / task / SCHEMA
    home.mkdir(parents=True)
    described = {}
    for split, shards in splits.items():
        files, lines = [], []
        for k, records in enumerate(shards):
            path = home / f"{task}-{split}.array_record-{k:05d}-of-{len(shards):05d}"
            with ShardWriter(path) as writer:
                for record in records:
                    writer.add(record, samples=len(record.wave()))
            lines += writer.entries
            files.append({"file": path.name, "records": len(records), "bytes": path.stat().st_size})
        write_lines(home / f"index-{split}.jsonl", lines)
        described[split] = {"shards": files}
    write_manifest(home, options={"task": task, "size": size}, splits=described)
    return home
