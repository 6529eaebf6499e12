"""What the three data sets of AVSBench share: their files, and clips that are asked about frame by frame."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Sequence

from crab_jax.tasks.annotations import Source
from crab_jax.tasks.base import Row, TaskSpec
from crab_jax.tasks.clips import Ask, Clip, Reject
from crab_jax.tasks.entries import Entry

SPLITS = ("train", "val", "test")


def clips(
    spec: TaskSpec,
    root: pathlib.Path,
    split: str,
    *,
    file: str,
    folder: str,
    seconds: int,
    asked: Iterable[int],
    masks: str,
    alternatives: bool = False,
) -> Iterator[Clip | Reject]:
    """One clip per video, with one frame per second.

    Args:
        spec: the task.
        root: of the data set.
        split: out of `SPLITS`.
        file: the annotations, a list of `{uid, a_obj, split, …}`.
        folder: of the videos, each a folder `<uid>` with `frames`, `audio.wav` and masks.
        seconds: length of the videos.
        asked: the seconds that are asked about.
        masks: name of the folder with the masks.
        alternatives: whether the asks of a clip are alternatives to each other.

    Source: specification 9.2.
    """
    source = Source(spec, root, split)
    asked = tuple(asked)

    def asks(uid: str, entries: Sequence[Entry]) -> Iterator[Ask]:
        (entry,) = entries
        label = entry.text("a_obj")
        for second in asked:
            yield Ask(
                id=f"{uid}_{second}",
                row=Row(label=label, second=second),
                picture=second,
                group=uid if alternatives else "",
                raw=entry.fields,
            )

    yield from source.clips(
        source.json_entries(file),
        key=lambda entry: entry.name("uid") if source.of_split(entry) else None,
        media=lambda uid, entry: {
            "pictures": tuple(source.file(f"{folder}/{uid}/frames", str(i), ".jpg", ".png") for i in range(seconds)),
            "audio": source.file(f"{folder}/{uid}", "audio", ".wav", ".mp3"),
        },
        asks=asks,
        mask=lambda uid, ask: source.root / folder / uid / masks / f"{ask.picture}.png",
    )
