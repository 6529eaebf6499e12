"""What a data set holds, before anything is decoded: clips, and what is asked about each of them. No jax here.

A task's `clips(root, split)` reads the annotation files of its data set and yields `Clip`s in a fixed order. One clip
becomes one record of a shard; every `Ask` of it is one example of the stream. So the ten questions about one video, the
five masks of one scene and the ten frames that an expression may refer to share one copy of the media.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from crab_jax.tasks.base import Row


class AnnotationError(ValueError):
    """An annotation file that is missing or cannot be read at all; names the path and the layout expected."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """One question about a clip: one training example, one item of a test set.

    Attributes:
        id: unique among the asks of a task and split, and the same in every build.
        row: what goes into prompt, target and answer.
        picture: index of the picture of the clip that is meant: the one that is segmented, or looked at alone.
        mask: index of the true mask in `Clip.masks`; None if there is none.
        group: asks of a clip with the same name here are alternatives: the same question about different moments. A
            stream takes one of them per epoch, or all (Q-24). Empty: stands for itself.
        raw: the annotation as the data set has it, plain JSON types.
    """

    id: str
    row: Row
    picture: int | None = None
    mask: int | None = None
    group: str = ""
    raw: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """Media that belong together, and what is asked about them. Whether the files exist is found out by the builder.

    Attributes:
        task: key of `TASKS` or `PRETRAINING`.
        split: "train", "val", "test", or the data set's own further test splits ("test_s", "test_u", "test_n").
        id: unique among the clips of a task and split.
        video: a video file, of which `frames` pictures are kept.
        frames: how many, spread over the video; 0 without a video.
        pictures: image files in order of time, instead of a video; or the one image.
        audio: the sound; None: the video's own, or none where the task has no sound.
        masks: true masks, one file per mask.
        asks: at least one.
        source: the annotation file and the place in it, for messages.
    """

    task: str
    split: str
    id: str
    video: pathlib.Path | None = None
    frames: int = 0
    pictures: tuple[pathlib.Path, ...] = ()
    audio: pathlib.Path | None = None
    masks: tuple[pathlib.Path, ...] = ()
    asks: tuple[Ask, ...]
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reject:
    """An annotation that cannot be used; it stops nothing, but is counted and listed.

    Attributes:
        task, split: where it belongs.
        id: as far as it is known.
        source: the annotation file and the place in it.
        reason: what was expected and what was found.
    """

    task: str
    split: str
    id: str
    source: str
    reason: str
