"""A clip becomes a record: its media, read exactly as inference reads them, encoded; or the reason why not."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from PIL import Image

from crab_jax.tasks import TaskSpec
from crab_jax.tasks.clips import Ask, Clip
from data_pipelines import encoding
from data_pipelines.audio import RATE, read_audio
from data_pipelines.container import open_container, pick_stream
from data_pipelines.image import read_image, read_mask, read_semantic_mask
from data_pipelines.media import MediaError
from data_pipelines.records import Record
from data_pipelines.video import read_video
from data_pipelines.windows import audio_windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """What is the same for all clips of a data set; goes to worker processes.

    Attributes:
        root: paths in records and messages are relative to it.
        size: pixels per side of pictures and masks.
        pictures: format in which frames are stored.
        quality: of JPEG, 1 to 100.
        semantic: whether masks hold classes.
        sounds: (rule, seconds) of the audio windows that any wording of the task hears; empty without sound.
    """

    root: pathlib.Path
    size: int
    pictures: encoding.PictureFormat
    quality: int
    semantic: bool
    sounds: tuple[tuple[str, int | None], ...]

    @classmethod
    def of(
        cls, spec: TaskSpec, *, root: pathlib.Path, size: int, pictures: encoding.PictureFormat, quality: int
    ) -> How:
        """For the clips of a task."""
        heard = {(str(m.audio), m.seconds) for m in spec.media.values() if m.audio is not None}
        return cls(
            root=root,
            size=size,
            pictures=pictures,
            quality=quality,
            semantic=spec.semantic,
            sounds=tuple(sorted(heard, key=str)),
        )

    def name(self, path: pathlib.Path | str) -> str:
        """A path, or a text with paths in it, relative to the root."""
        return str(path).replace(f"{self.root}/", "")


@dataclasses.dataclass(frozen=True)
class Loss:
    """A clip, or one ask of it, that cannot be used.

    Attributes:
        id: of the clip or the ask.
        kind: "missing" (a file is not there), "media" (a file that is there cannot be used), "crash" (reading it ended
            the process).
        reason: what was expected and what was found.
        source: the annotation.
        asks: how many examples are lost.
        media: the files that are to blame.
    """

    id: str
    kind: str
    reason: str
    source: str
    asks: int
    media: tuple[pathlib.Path, ...]


def read_clip(clip: Clip, how: How) -> tuple[Record | None, int, list[Loss]]:
    """Reads and encodes the media of a clip.

    A picture, video or sound that fails loses the whole clip, a mask only the asks about it. A sound file that is not
    there is replaced by the sound track of the video, from which the data sets took it.

    Returns:
        The record, None if nothing of the clip is left; samples of its sound; what was lost.
    """
    missing = [p for p in (clip.video, *clip.pictures) if p is not None and not p.exists()]
    sound = (clip.audio or clip.video) if how.sounds else None
    if sound is not None and not sound.exists() and sound not in missing:
        if clip.video is None or clip.video in missing:
            missing.append(sound)
        else:
            sound = clip.video
    if missing:
        names = ", ".join(how.name(p) for p in missing[:3]) + (", …" if len(missing) > 3 else "")
        return None, 0, [_loss(clip, "missing", f"expected {names}, found no such file", how, missing)]
    try:
        frames, seen = _read_pictures(clip, how)
        wave = np.zeros(0, np.float32) if sound is None else _read_sound(sound, how)
    except (MediaError, OSError) as error:
        media = [p for p in (clip.video, *clip.pictures, sound) if p is not None]
        blamed = [p for p in media if str(p) in str(error)]
        return None, 0, [_loss(clip, "media", how.name(error), how, blamed or media)]
    masks, broken = _read_masks(clip, how)
    asks, losses = _keep(clip, broken, frames=len(frames), how=how)
    if not asks:
        return None, 0, losses
    data, exponent = encoding.encode_sound(wave)
    heard = {} if sound is None else {"audio": {"path": how.name(sound), "seconds": round(len(wave) / RATE, 3)}}
    record = Record(
        task=clip.task,
        split=clip.split,
        clip_id=clip.id,
        frames=tuple(encoding.encode_picture(f, kind=how.pictures, quality=how.quality) for f in frames),
        audio=data,
        audio_exponent=exponent,
        masks=tuple(masks),
        semantic=how.semantic and bool(masks),
        asks=tuple(asks),
        provenance={"annotation": how.name(clip.source), **seen, **heard}
        | ({"masks": [how.name(p) for i, p in enumerate(clip.masks) if i not in broken]} if masks else {}),
    )
    return record, len(wave), losses


def _loss(clip: Clip, kind: str, reason: str, how: How, media: Sequence[pathlib.Path]) -> Loss:
    return Loss(clip.id, kind, reason, how.name(clip.source), len(clip.asks), tuple(media))


def _read_pictures(clip: Clip, how: How) -> tuple[Sequence[np.ndarray], dict[str, Any]]:
    """Frames uint8 `[size size 3]`, and what there is to tell about the files."""
    if clip.video is not None:
        return read_video(clip.video, frames=clip.frames, size=how.size), {"video": _describe_video(clip.video, how)}
    frames = [read_image(path, size=how.size) for path in clip.pictures]
    return frames, {"pictures": [_describe_picture(path, how) for path in clip.pictures]} if frames else {}


def _describe_video(path: pathlib.Path, how: How) -> dict[str, Any]:
    with open_container(path, expected="a video") as container:
        stream = pick_stream(container, "video")
        seconds = round((container.duration or 0) / av.time_base, 3)
        rate = round(float(stream.average_rate or 0), 3)
        return {"path": how.name(path), "seconds": seconds, "rate": rate, "size": [stream.width, stream.height]}


def _describe_picture(path: pathlib.Path, how: How) -> dict[str, Any]:
    with Image.open(path) as image:  # only its header is read
        return {"path": how.name(path), "size": list(image.size)}


def _read_sound(path: pathlib.Path, how: How) -> np.ndarray:
    """float32 `[n]`, long enough for every wording."""
    wave = read_audio(path)
    for rule, seconds in how.sounds:
        second = 0 if rule == "one_second_of_image" else None
        audio_windows(wave, rule=rule, seconds=seconds, second=second, where=path)
    return wave


def _read_masks(clip: Clip, how: How) -> tuple[list[bytes], dict[int, tuple[str, str]]]:
    """PNG files of the masks that can be read; the numbers of the others, with kind and reason."""
    masks, broken = [], {}
    read = read_semantic_mask if how.semantic else read_mask
    for i, path in enumerate(clip.masks):
        try:
            masks.append(encoding.encode_mask(read(path, size=how.size)))
        except (MediaError, OSError) as error:
            broken[i] = ("media" if path.exists() else "missing", how.name(error))
    return masks, broken


def _keep(clip: Clip, broken: dict[int, tuple[str, str]], *, frames: int, how: How) -> tuple[list[Ask], list[Loss]]:
    """Asks that can be used, their masks counted anew; and the others."""
    good = [i for i in range(len(clip.masks)) if i not in broken]
    asks, losses = [], []
    for ask in clip.asks:
        if ask.mask is not None and ask.mask not in good:
            kind, reason = broken.get(ask.mask, ("media", f"expected mask {ask.mask}, found {len(clip.masks)} masks"))
            media = clip.masks[ask.mask : ask.mask + 1]
        elif ask.picture is not None and ask.picture >= frames:
            kind, reason = "media", f"expected at least {ask.picture + 1} pictures, found {frames}"
            media = clip.pictures
        else:
            mask = None if ask.mask is None else good.index(ask.mask)
            asks.append(dataclasses.replace(ask, mask=mask))
            continue
        losses.append(Loss(ask.id, kind, reason, how.name(clip.source), 1, tuple(media)))
    return asks, losses
