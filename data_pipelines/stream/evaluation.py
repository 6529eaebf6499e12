"""Every example of a split once, in the order of its records, without packing: what evaluation asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from crab_jax.batch import Example, FeatureSizes
from crab_jax.tasks import Wording
from crab_jax.tasks.clips import Ask
from crab_jax.tokens import Tokenizer
from data_pipelines.records import Entry, Record
from data_pipelines.stream.rows import read_example
from data_pipelines.stream.tables import Source, StreamError

Swap = Literal["sound", "picture"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One example of a split.

    Attributes:
        number: in the split, the same for any number of processes.
        name: such as `avqa/test, 00000042`.
        clip: id of the record that it belongs to.
        ask: what is asked; where the record could not be read, without `raw`.
        example: prompt and media for `crab_jax.evaluate.engine`; None if it could not be made.
        mask: the true mask, uint8 [S S], or None.
        media_of: id of the clip whose sound or pictures are shown instead; empty if nothing is swapped.
        reason: why there is no example; empty if there is.
    """

    number: int
    name: str
    clip: str
    ask: Ask
    example: Example | None
    mask: np.ndarray | None
    media_of: str = ""
    reason: str = ""


def evaluation_items(
    source: Source,
    *,
    wording: Wording,
    tokenizer: Tokenizer,
    sizes: FeatureSizes,
    process: int = 0,
    processes: int = 1,
    with_target: bool = False,
    swap: Swap | None = None,
    wanted: Callable[[int, Ask], bool] = lambda number, ask: True,
) -> Iterator[Item]:
    """All examples of a split, one after the other; what cannot be read comes as an item with a reason.

    A process gets every `processes`-th record, so that each record is read once. Buckets of shapes are the engine's.

    Args:
        source: the split.
        wording, tokenizer, sizes: as in `build_example`.
        process, processes: which part.
        with_target: whether the examples hold the true answer's text, for teacher forcing.
        swap: show every question with the sound, or the pictures, of another clip (`donors`).
        wanted: number and ask → whether to give it; a record of which nothing is wanted is not read.

    Raises:
        data_pipelines.records.ShardError: the index is damaged.
        StreamError: media are to be swapped among fewer than two videos.
    """
    if not 0 <= process < processes:
        raise ValueError(f"expected a process below {processes}, found {process}")
    other = None if swap is None else donors([_video(entry) for entry in source.shards.index()])
    number = 0
    for entry in source.shards.index():
        numbers = range(number, number + len(entry.asks))
        number += len(entry.asks)
        if entry.index % processes != process:
            continue
        chosen = [i for i, (n, ask) in enumerate(zip(numbers, entry.asks)) if wanted(n, ask)]
        if not chosen:
            continue
        asks, record, reason, media_of = entry.asks, None, "", ""
        try:
            record = source.shards[entry.index]
            if len(record.asks) != len(entry.asks):
                raise ValueError(f"the index promises {len(entry.asks)} questions, the record has {len(record.asks)}")
            asks = record.asks
            if other is not None:
                donor = source.shards[int(other[entry.index])]
                record, media_of = swapped(record, donor, swap), donor.clip_id
        except (ValueError, OSError) as error:
            record, reason = None, str(error)
        for i in chosen:
            ask = asks[i]
            item = Item(
                number=numbers[i], name=f"{source.name}, {ask.id}", clip=entry.clip_id, ask=ask, example=None,
                mask=None, media_of=media_of, reason=reason,
            )  # fmt: skip
            if record is None:
                yield item
                continue
            try:
                example = read_example(
                    record, ask, source.spec, wording=wording, tokenizer=tokenizer, sizes=sizes,
                    with_target=with_target, name=item.name,
                )  # fmt: skip
                mask = None if ask.mask is None else record.mask(ask.mask)
            except (ValueError, IndexError, OSError) as error:
                yield dataclasses.replace(item, reason=str(error))
            else:
                yield dataclasses.replace(item, example=dataclasses.replace(example, mask=None), mask=mask)


def donors(videos: Sequence[str]) -> np.ndarray:
    """For every record of a split the one whose media it gets: int64 [records], the same at any time.

    One cycle through all videos in a shuffled order, so that nobody keeps its own and every video gives once. Where
    videos have several records, the first gets the first of the other video's, and so on.

    Args:
        videos: of every record, the video that it was taken from.

    Raises:
        StreamError: there is no other video.
    """
    records: dict[str, list[int]] = {}
    for i, video in enumerate(videos):
        records.setdefault(video, []).append(i)
    if len(records) < 2:
        raise StreamError(f"media can be swapped among two videos and more, the split has {len(records)}")
    groups = list(records.values())
    order = np.random.default_rng(0).permutation(len(groups))
    other = np.empty(len(videos), np.int64)
    for mine, theirs in zip(order, np.roll(order, -1)):
        other[groups[mine]] = np.resize(groups[theirs], len(groups[mine]))
    return other


def _video(entry: Entry) -> str:
    """The video of a record. Single pictures are records of their own, named after their video and second (ARIG)."""
    second = entry.asks[0].row.second if entry.frames == 1 and entry.asks else None
    return entry.clip_id if second is None else entry.clip_id.removesuffix(f"_{second}")


def swapped(record: Record, donor: Record, swap: Swap) -> Record:
    """A record with the sound or the pictures of another one; questions and true masks stay.

    Where the other clip has fewer pictures, its last one is repeated.
    """
    if swap == "sound":
        return dataclasses.replace(record, audio=donor.audio, audio_exponent=donor.audio_exponent)
    if not donor.frames:
        return dataclasses.replace(record, frames=())
    count = len(donor.frames)
    return dataclasses.replace(record, frames=tuple(donor.frames[min(i, count - 1)] for i in range(len(record.frames))))
