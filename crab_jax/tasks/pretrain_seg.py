"""Segmenting what a name and its definition say, for pretraining the mask decoder (LVIS)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from crab_jax import tokens
from crab_jax.tasks import segmentation
from crab_jax.tasks.annotations import Source
from crab_jax.tasks.base import IMAGE, Media, Row, TaskSpec, Wording, fill
from crab_jax.tasks.clips import Ask, Clip, Reject
from crab_jax.tasks.entries import Entry

LAYOUT = """
LVIS/train_samples.json                              [{id, image_id, category_id, bbox, name, def, area}, …]
LVIS/train2017/<image_id, padded to 12 digits>.jpg
LVIS/binary_mask/<id>.png
"""
SMALLEST_AREA = 1000  # pixels; smaller objects are left out

INSTRUCTION = IMAGE + "Please segment out the object that corresponding to the {name}, {def} in the image."
TARGET = "It is " + tokens.MASK_RUN


def compose(row: Row, wording: Wording) -> str:
    """The mask tokens."""
    return fill(TARGET, row)


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip per picture, with the masks of all its objects.

    Source: specification 9.2.
    """
    source = Source(SPEC, root, split)

    def key(entry: Entry) -> str | None:
        image = entry.whole("image_id")
        if image < 0:
            raise entry.bad(f"field 'image_id': expected a number from 0, found {image}")
        return f"{image:012d}" if entry.number("area") >= SMALLEST_AREA else None

    def asks(image: str, entries: Sequence[Entry]) -> Iterator[Ask]:
        (entry,) = entries
        row = Row(label=entry.text("name"), definition=entry.text("def"))
        yield Ask(id=entry.name("id"), row=row, picture=0, raw=entry.fields)

    yield from source.clips(
        source.json_entries("LVIS/train_samples.json"),
        key=key,
        media=lambda image, entry: {"pictures": (source.file("LVIS/train2017", image, ".jpg"),)},
        asks=asks,
        same="share",
        mask=lambda image, ask: source.root / "LVIS/binary_mask" / f"{ask.id}.png",
    )


SPEC = TaskSpec(
    name="pretrain-seg",
    about="segments what a name and its definition say (pretraining)",
    instruction=dict.fromkeys(Wording, INSTRUCTION),
    media=dict.fromkeys(Wording, Media(image=True)),
    compose=compose,
    answer=segmentation.answer,
    parse=segmentation.parse,
    max_new_tokens=segmentation.MAX_NEW_TOKENS,
    clips=clips,
    splits=("train",),
    layout=LAYOUT,
    needs_masks=True,
    target_end=tokens.TargetSuffix.PRETRAIN,
)
