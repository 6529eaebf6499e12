"""Records of several tasks with made-up media, for tests of the stream."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
from shards import write_data_set

from crab_jax.tasks import Event, Row
from crab_jax.tasks.clips import Ask
from data_pipelines import encoding
from data_pipelines.records import Record, Shards, open_shards

ADJECTIVES = ("quiet", "loud", "very loud", "slow", "bright", "somewhat hoarse", "lonely")


def picture(rng, size: int) -> bytes:
    pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
    return encoding.encode_picture(pixels, kind=encoding.PictureFormat.PNG, quality=95)


def mask(rng, size: int, classes: int) -> bytes:
    return encoding.encode_mask(rng.integers(0, classes, (size, size), np.uint8))


def avqa(i: int, *, size: int, seconds: float = 60.0, questions: int = 3) -> Record:
    """A minute of video, and some questions about it."""
    rng = np.random.default_rng([1, i])
    asks = tuple(
        Ask(
            id=f"{i:04d}-{q}",
            row=Row(
                question=f"How many {ADJECTIVES[(i + q) % 7]} instruments are there in clip {i}?",
                answer=("one", "two", "cello")[q % 3],
                reasoning=" ".join(["Something sounds on the left."] * (1 + (i + q) % 5)),
            ),
        )
        for q in range(questions)
    )
    sound, exponent = encoding.encode_sound(rng.normal(size=int(seconds * 16_000)).astype(np.float32) / 8)
    frames = tuple(picture(rng, size) for _ in range(10))
    return Record(
        task="avqa", split="train", clip_id=f"v{i:04d}", frames=frames, audio=sound, audio_exponent=exponent, asks=asks
    )


def ave(i: int, *, size: int) -> Record:
    """Ten seconds of video with one event."""
    rng = np.random.default_rng([2, i])
    row = Row(events=(Event("Church bell", i % 5, 6 + i % 4),), reasoning="A bell rings." * (i % 4))
    sound, exponent = encoding.encode_sound(rng.normal(size=160_000 + 16 * i).astype(np.float32) / 8)
    frames = tuple(picture(rng, size) for _ in range(10))
    return Record(
        task="ave", split="train", clip_id=f"e{i:04d}", frames=frames, audio=sound, audio_exponent=exponent,
        asks=(Ask(id=f"e{i:04d}", row=row),),
    )  # fmt: skip


def avss(i: int, *, size: int, moments: int = 10) -> Record:
    """Ten pictures with ten masks, alternatives of each other."""
    return _segmented("avss", i, size, moments, classes=71, expressions=("",))


def s4(i: int, *, size: int) -> Record:
    """Five pictures, the first of which is asked about."""
    return _segmented("s4", i, size, 1, classes=2, expressions=("",), pictures=5)


def ref_avs(i: int, *, size: int, moments: int = 10) -> Record:
    """Ten pictures, two expressions."""
    return _segmented("ref-avs", i, size, moments, classes=2, expressions=("the left cello", "what barks"))


def _segmented(
    task: str, i: int, size: int, moments: int, *, classes: int, expressions: Sequence[str], pictures: int = 10
) -> Record:
    rng = np.random.default_rng([3, i])
    sound, exponent = encoding.encode_sound(rng.normal(size=16_000 * pictures).astype(np.float32) / 8)
    asks = tuple(
        Ask(
            id=f"{i:04d}-{n}-{t}",
            row=Row(second=t, label="cello", exp=expression),
            picture=t,
            mask=t,
            group=f"{i}-{n}" if moments > 1 else "",
        )
        for n, expression in enumerate(expressions)
        for t in range(moments)
    )
    return Record(
        task=task,
        split="train",
        clip_id=f"m{i:04d}",
        frames=tuple(picture(rng, size) for _ in range(pictures)),
        audio=sound,
        audio_exponent=exponent,
        masks=tuple(mask(rng, size, classes) for _ in range(moments)),
        semantic=task == "avss",
        asks=asks,
    )


def write_shards(out: pathlib.Path, records: Sequence[Record], *, size: int, per_shard: int = 4) -> Shards:
    """One split of one data set."""
    task, split = records[0].task, records[0].split
    shards = [records[i : i + per_shard] for i in range(0, len(records), per_shard)]
    write_data_set(out, {split: shards}, task=task, size=size)
    return open_shards(out, task, split)


def write_small_mix(out: pathlib.Path, *, size: int) -> pathlib.Path:
    """Shards of three tasks that are quick to read: two with a picture per example, one with ten and ten windows."""
    for records in (
        [s4(i, size=size) for i in range(13)],
        [avss(i, size=size) for i in range(11)],
        [ave(i, size=size) for i in range(2)],
    ):
        write_shards(out, records, size=size)
    return out
