"""Segmenting the object that an expression refers to, through what it does and how it sounds (Ref-AVS)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from crab_jax import tokens
from crab_jax.tasks import segmentation
from crab_jax.tasks.annotations import Source
from crab_jax.tasks.base import AUDIO, IMAGE, VIDEO, AudioRule, Media, Row, TaskSpec, Wording, fill
from crab_jax.tasks.clips import Ask, Clip, Reject
from crab_jax.tasks.entries import Entry

LAYOUT = """
ref-avs/REFAVS/metadata.csv                                 vid,uid,split,fid,exp; uid is <video>_<object>_<number>;
                                                            split is train, val, test_s, test_u or test_n
ref-avs/REFAVS/media/<video>/frames/{0..9}.jpg
ref-avs/REFAVS/media/<video>/audio.wav
ref-avs/REFAVS/gt_mask/<video>/fid_<fid>/0000{0..9}.png     not for test_n, whose expressions refer to nothing
"""
SECONDS = 10

INSTRUCTION = {
    Wording.QUICK_START: IMAGE + AUDIO + "Please segment out {exp_lowercase} in the image.",
    Wording.RELEASE_TRAIN: VIDEO + AUDIO + "Please segment out {exp_lowercase} at the {ordinal} second in the video.",
    Wording.RELEASE_TEST: VIDEO + AUDIO + IMAGE + "Please segment out the corresponding object in the image based on "
    "the referential expression: {exp}",
}
_EXPRESSION_IS_MASK = "{exp} is " + tokens.MASK_RUN
TARGET = {
    Wording.QUICK_START: _EXPRESSION_IS_MASK,  # recommended in 9.3; the quick-start data have no targets
    Wording.RELEASE_TRAIN: "At the {ordinal} second in the video, {exp} is {obj}. Its mask is " + tokens.MASK_RUN,
    Wording.RELEASE_TEST: _EXPRESSION_IS_MASK,
}


def compose(row: Row, wording: Wording) -> str:
    """The expression, what it refers to, and its mask tokens."""
    return fill(TARGET[wording], row)


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip per video, with the masks of all its objects; each expression asks about ten frames, as alternatives.

    Expressions of one object share its masks. Those of test_n refer to nothing that is there: no mask.

    Source: specification 9.2, Q-24.
    """
    source = Source(SPEC, root, split)
    table = source.find("ref-avs/REFAVS/metadata.csv")

    def asks(video: str, entries: Sequence[Entry]) -> Iterator[Ask]:
        (entry,) = entries
        entry.name("fid")
        uid, exp = entry.name("uid"), entry.text("exp")
        group = source.distinct(entry, uid, exp)
        for second in range(SECONDS):
            yield Ask(
                id=f"{group}_{second}",
                row=Row(exp=exp, label=uid.split("_")[-2], second=second),
                picture=second,
                group=group,
                raw=entry.fields,
            )

    def media(video: str, entry: Entry) -> dict[str, Any]:
        place = f"ref-avs/REFAVS/media/{video}"
        return {
            "pictures": tuple(source.file(f"{place}/frames", str(i), ".jpg", ".png") for i in range(SECONDS)),
            "audio": source.file(place, "audio", ".wav", ".mp3"),
        }

    def mask(video: str, ask: Ask) -> pathlib.Path | None:
        if split == "test_n":
            return None
        return (
            source.root / "ref-avs/REFAVS/gt_mask" / video / f"fid_{ask.raw['fid'].strip()}" / f"0000{ask.picture}.png"
        )

    yield from source.clips(
        source.csv_entries(table, ("vid", "uid", "split", "fid", "exp")),
        key=lambda entry: _video(entry) if source.of_split(entry) else None,
        media=media,
        asks=asks,
        same="share",
        mask=mask,
    )


def _video(entry: Entry) -> str:
    parts = entry.name("uid").split("_")
    if len(parts) < 3 or not all(part for part in parts[-2:]):
        raise entry.bad(f"field 'uid': expected <video>_<object>_<number>, found {entry.name('uid')!r}")
    return "_".join(parts[:-2])


SPEC = TaskSpec(
    name="ref-avs",
    about="segments the object that an expression refers to",
    instruction=INSTRUCTION,
    media={
        Wording.QUICK_START: Media(image=True, audio=AudioRule.EACH_SECOND, seconds=SECONDS),
        Wording.RELEASE_TRAIN: segmentation.all_frames(SECONDS, image=False),
        Wording.RELEASE_TEST: segmentation.all_frames(SECONDS, image=True),
    },
    compose=compose,
    answer=segmentation.answer,
    parse=segmentation.parse,
    max_new_tokens=segmentation.MAX_NEW_TOKENS,
    clips=clips,
    splits=("train", "val", "test_s", "test_u", "test_n"),
    layout=LAYOUT,
    needs_masks=True,
)
