"""One example from a row and its media: what inference asks and what the stream trains on are built here. No jax here.

    row → prompt, target → ids ┐
    pictures                   ├→ `assemble` → `Example`
    wave → windows → log-mel   ┘

`measure` says how large an example will be from lengths alone, before any media are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from crab_jax.batch import Example, FeatureSizes, TokenIds
from crab_jax.tasks import Media, Row, TaskSpec, Wording
from crab_jax.tokens import AUDIO, IMAGE, MEDIA_TAGS, VIDEO, Tokenizer, build_prompt, expand_placeholders
from data_pipelines.fbank import frame_count
from data_pipelines.media import bad
from data_pipelines.video import frame_indices
from data_pipelines.windows import log_mel_windows, usable_bounds


class ExampleSize(NamedTuple):
    """What an example takes of a `Layout`."""

    tokens: int
    frames: int
    windows: int
    masks: int
    patch_rows: int  # of its windows; not added up, the layout's slots must only be as high


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """What there is of a clip, as far as sizes of examples depend on it.

    Attributes:
        pictures: how many are kept.
        samples: of sound at 16 kHz; 0 without sound.
    """

    pictures: int
    samples: int


def assemble(
    *,
    name: str,
    prompt: Sequence[int],
    target: Sequence[int] = (),
    video: np.ndarray | None = None,
    image: np.ndarray | None = None,
    fbank: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    mask_semantic: bool = False,
    ids: TokenIds,
    sizes: FeatureSizes,
) -> Example:
    """Ids and media → `Example`: placeholders expanded, pictures in the order of their tags.

    Every occurrence of a tag stands for the same media. An image without a tag is segmented all the same, so it comes
    behind the other pictures; other media without a tag are not looked at. The mask belongs to the image.

    Args:
        name: for messages.
        prompt: ids of the instruction, one id per media tag.
        target: ids of the answer; holds no media tag.
        video: uint8 [t S S 3] (or float32, normalised), `<video>`.
        image: [n S S 3], usually one picture, `<image>`.
        fbank: float32 [a F 128], `<audio>`.
        mask: uint8 [S S], what the image should give.
        mask_semantic: whether it holds class ids.
        ids: of the added tokens.
        sizes: of the features.

    Raises:
        crab_jax.tokens.PlaceholderError: a tag without media.

    Source: specification 7.4, 9.3.
    """
    tags = _tag_ids(ids)
    given = {
        IMAGE: (image, sizes.frame_tokens),
        VIDEO: (video, sizes.frame_tokens),
        AUDIO: (fbank, sizes.window_tokens),
    }
    present = set(prompt)
    slots = {tag: each * len(x) for tag, (x, each) in given.items() if x is not None and tags[tag] in present}
    pictures = {tags[tag]: x for tag, (x, _) in given.items() if tag != AUDIO and x is not None}
    shown = [i for i in prompt if i in pictures]
    frames = [pictures[i] for i in shown]
    mask_frame, unplaced = 0, 0
    if image is not None:
        first = shown.index(tags[IMAGE]) if tags[IMAGE] in shown else len(shown)
        mask_frame = sum(map(len, frames[:first]))
        if first == len(shown):
            unplaced = len(image)
            frames.append(image)
    heard = list(prompt).count(tags[AUDIO])
    return Example(
        name=name,
        prompt=expand_placeholders(prompt, slots, tags),
        target=target,
        frames=None if not frames else frames[0] if len(frames) == 1 else np.concatenate(frames),
        unplaced=unplaced,
        fbank=None if fbank is None or not heard else fbank if heard == 1 else np.concatenate([fbank] * heard),
        mask=mask,
        mask_frame=mask_frame,
        mask_semantic=mask_semantic,
    )


def build_example(
    spec: TaskSpec,
    wording: Wording,
    row: Row,
    *,
    name: str,
    tokenizer: Tokenizer,
    sizes: FeatureSizes,
    with_target: bool,
    video: np.ndarray | None = None,
    image: np.ndarray | None = None,
    wave: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    where: object = "the sound",
) -> Example:
    """The example that a task makes of a row and its media.

    Args:
        spec: the task.
        wording: how it asks, and which of the media below it wants.
        row: what goes into prompt and target; its `second` chooses the window of a task that hears one second.
        name: for messages.
        tokenizer: the model's.
        sizes: of the features.
        with_target: whether the answer is part of the example (training).
        video: uint8 [t S S 3], where `Media.frames` is not zero.
        image: uint8 [S S 3], where `Media.image` is set.
        wave: float32 [n] at 16 kHz, where `Media.audio` is set.
        mask: uint8 [S S], the true mask of the image.
        where: what to call the sound in messages.

    Raises:
        data_pipelines.media.MediaError: sound too short or too long for the task, a second outside the clip, no picture
            although the task looks at one.
        crab_jax.tasks.RowError: the row lacks what its task needs.
        crab_jax.tokens.UserTextError: text of the row contains a string that means something to the model.
        crab_jax.tokens.PlaceholderError: a medium that the prompt mentions is missing.

    Source: specification 9.3.
    """
    media = spec.media[wording]
    fbank = None
    if media.audio is not None:
        fbank = log_mel_windows(wave, **_rule(media, row), where=where)
    if (media.frames and video is None) or (media.image and image is None):
        raise bad(name, expected="a picture, which this task looks at", found="none")
    prompt, target = _texts(spec, wording, row, tokenizer, with_target)
    return assemble(
        name=name,
        prompt=prompt,
        target=target,
        video=video if media.frames else None,
        image=image[None] if media.image else None,
        fbank=fbank,
        mask=mask if media.image else None,
        mask_semantic=spec.semantic and mask is not None,
        ids=tokenizer.token_ids,
        sizes=sizes,
    )


def measure(
    spec: TaskSpec,
    wording: Wording,
    row: Row,
    *,
    stored: Stored,
    picture: int | None,
    has_mask: bool,
    tokenizer: Tokenizer,
    sizes: FeatureSizes,
    with_target: bool = True,
    where: object = "the sound",
) -> ExampleSize:
    """The size of what `build_example` will make of a row, from lengths alone.

    Args:
        spec, wording, row, tokenizer, sizes, with_target, where: as in `build_example`.
        stored: what there is of the clip.
        picture: which of its pictures is looked at alone, if the task does that.
        has_mask: whether there is a true mask.

    Raises:
        ValueError: the errors of `build_example`.
    """
    media = spec.media[wording]
    windows = height = 0
    if media.audio is not None:
        bounds = heard(media, row, stored.samples, where=where)
        windows, height = len(bounds), frame_count(int(bounds[0, 1] - bounds[0, 0])) // sizes.patch
    if (media.frames and not stored.pictures) or (media.image and picture is None):
        raise bad(where, expected="a picture, which this task looks at", found="none")
    prompt, target = _texts(spec, wording, row, tokenizer, with_target)
    tags = _tag_ids(tokenizer.token_ids)
    times = {tag: prompt.count(i) for tag, i in tags.items()}
    shown = min(media.frames, stored.pictures)
    frames = times[VIDEO] * shown + (max(times[IMAGE], 1) if media.image else 0)
    placed = sizes.frame_tokens * (times[VIDEO] * shown + times[IMAGE]) + sizes.window_tokens * windows * times[AUDIO]
    return ExampleSize(
        tokens=len(prompt) - sum(times.values()) + placed + len(target),
        frames=frames,
        windows=windows * times[AUDIO],
        masks=int(has_mask and media.image),
        patch_rows=height,
    )


def chosen_pictures(media: Media, stored: int) -> list[int]:
    """Which pictures of a stored clip make up its video: all of them, or as many as the task wants, evenly spaced."""
    return list(frame_indices(stored, frames=media.frames)) if media.frames else []


def heard(media: Media, row: Row, samples: int, *, where: object = "the sound") -> np.ndarray:
    """Which samples of a sound an example listens to: int64 `[A 2]`, as `usable_bounds`."""
    return usable_bounds(samples, **_rule(media, row), where=where)


def _rule(media: Media, row: Row) -> Mapping[str, object]:
    """Arguments for `window_bounds`."""
    return {"rule": media.audio.value, "seconds": media.seconds, "second": row.second if media.needs_second else None}


def _texts(
    spec: TaskSpec, wording: Wording, row: Row, tokenizer: Tokenizer, with_target: bool
) -> tuple[list[int], list[int]]:
    """Ids of prompt and target, one id per media tag."""
    prompt = build_prompt(tokenizer, spec.prompt(row, wording))
    if not with_target:
        return prompt, []
    return prompt, tokenizer.encode_target(spec.target(row, wording), suffix=spec.target_end)


def _tag_ids(ids: TokenIds) -> Mapping[str, int]:
    return dict(zip(MEDIA_TAGS, (*ids.visual, ids.audio), strict=True))
