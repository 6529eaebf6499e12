"""One picture per answer: which drawing shows what kind of answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from crab_jax import draw
from crab_jax.tasks import TASKS, AudioVisualEvents, Box, Caption, Choice, Events, MaskTokens
from crab_jax.tasks.answers import BOX_GRID
from crab_jax.tasks.vocabulary import AVSS_CLASSES
from data_pipelines.decode import RATE, probe, read_mask, read_semantic_mask
from data_pipelines.image import read_picture

if TYPE_CHECKING:
    from crab_jax.api import Result


def picture(result: Result) -> Image.Image:
    """The answer, drawn on or under the media that it is about.

    Raises:
        data_pipelines.decode.MediaError: the image or the true mask can no longer be read.
    """
    sample, value = result.sample, result.value
    spec = TASKS[sample.task]
    title = f"{sample.task} · {sample.id}" if sample.id != str(sample.index) else sample.task
    asked = sample.question or sample.exp
    image = read_picture(sample.image_path) if sample.image_path is not None else None
    media = {
        "frames": result.frames,
        "wave": result.wave,
        "duration_s": len(result.wave) / RATE,
        "aspect": _aspect(result),
    }
    match value:
        case MaskTokens() if result.mask is not None and image is not None:
            truth = None
            if sample.mask_path is not None:
                read = read_semantic_mask if spec.semantic else read_mask
                truth = read(sample.mask_path, size=result.mask.shape[0])
            if spec.semantic:
                return draw.overlay_semantic(
                    image, result.mask, AVSS_CLASSES, truth=truth, title=title, answer=result.text
                )
            heading = f"{title} · {sample.exp}" if sample.exp else title
            return draw.overlay_mask(image, result.mask, truth=truth, title=heading, answer=result.text)
        case Box() if image is not None:
            box = (value.x1, value.y1, value.x2, value.y2)
            return draw.overlay_box(image, box, label=value.label or "", text=result.text, title=title, grid=BOX_GRID)
        case Events(events=events):
            rows = [("event", [(e.name, e.start_s, e.end_s) for e in events])]
            return draw.timeline(rows, title=title, answer=result.text, **media)
        case AudioVisualEvents():
            rows = [
                (name, [(e.name, e.start_s, e.end_s) for e in events])
                for name, events in (("seen", value.visual), ("heard", value.audio))
            ]
            return draw.timeline(rows, title=title, answer=result.text, **media)
        case Choice(answer=answer):
            return draw.card(answer=answer, question=asked, text=result.text, title=title, **media)
        case Caption(text=caption):
            return draw.card(answer=caption, label="Caption", title=title, **media)
    reason = getattr(value, "reason", "the answer cannot be drawn")
    return draw.unparsed(reason, result.text, image=image, question=asked, title=title, **media)


def _aspect(result: Result) -> float | None:
    """Width over height of the video; its frames are squashed to a square."""
    if result.frames is None or result.sample.video_path is None:
        return None
    info = probe(result.sample.video_path)
    return info.width / info.height if info.width and info.height else None
