"""One item of the gallery: what was seen and heard, what is true, what was said."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from crab_jax.draw.marks import mark_classes, mark_mask
from crab_jax.draw.sheet import PREDICTION, TRUTH
from crab_jax.draw.times import stack
from crab_jax.evaluate.mask_files import MaskFileError, read_mask
from crab_jax.evaluate.report.gallery import Judged
from crab_jax.evaluate.report.media import Budget, spectrogram, strip, webp
from crab_jax.tasks import Row, Wording
from crab_jax.tasks.answers import BOX_GRID
from crab_jax.tasks.clips import Ask
from crab_jax.tasks.vocabulary import AVSS_CLASSES
from data_pipelines.display import outline, shaped, tagged
from data_pipelines.encoding import RATE
from data_pipelines.examples import heard
from data_pipelines.image import PALETTE
from data_pipelines.records import Record
from data_pipelines.stream.tables import Source

WAVE = (560, 44)  # units of the drawing
_STILL = 320  # pixels of the longer side
_MASK_TOKENS = re.compile(r"(?:<code>&lt;mask_\w+&gt;</code>\s*){3,}")
Context = dict[str, Any]


def exhibits(
    source: Source, chosen: Sequence[Judged], *, folder: pathlib.Path, wording: Wording, budget: Budget, reserve: int
) -> Iterator[Context]:
    """The items of one test set as the template wants them, in their order.

    Args:
        source: the test set.
        chosen: which, and what they are called.
        folder: of the run, for the masks.
        wording: in which was asked.
        budget: of the page.
        reserve: bytes to be kept for the test sets that follow.
    """
    wanted = {j.line["id"]: j for j in chosen}
    places = {ask.id: (entry.index, n) for entry in source.shards.index() for n, ask in enumerate(entry.asks)}
    for name, judged in wanted.items():
        about = {"id": name, "verdict": judged.verdict, "score": judged.score}
        try:
            index, n = places[name]
            record = source.shards[index]
            shown = _exhibit(source, record, record.asks[n], judged, folder, wording, budget, reserve)
        except (ValueError, TypeError, OSError, LookupError) as error:  # one clip that cannot be shown costs no other
            shown = {"broken": str(error)}
        yield about | shown


def _exhibit(
    source: Source, record: Record, ask: Ask, judged: Judged, folder: pathlib.Path, wording: Wording, budget: Budget,
    reserve: int,
) -> Context:  # fmt: skip
    spec, line = source.spec, judged.line
    wave = record.wave()
    media = spec.media[wording]
    seconds = len(wave) / RATE or float(media.seconds or len(record.frames))
    said = line.get("value") if isinstance(line.get("value"), dict) else {}
    lanes = _lanes(ask.row, said, seconds)
    context: Context = {
        "clip": record.clip_id,
        "question": ask.row.question or ask.row.exp,
        "seconds": seconds,
        "said": _shown(line["text"]),
        "true": _shown(_true_text(source, ask.row, wording)),
        "prompt": _shown(str(line.get("prompt", ""))),
        "answer": short(said),
        "truth": short(spec.answer(ask.row).to_json()),
        "reason": said.get("reason", "") if said.get("kind") == "unparsed" else "",
        "lanes": lanes,
        "strip": None, "wave": None, "spectrum": None, "sound": "", "windows": [],
        "ticks": _ticks(seconds) if len(wave) or lanes else [],
    }  # fmt: skip
    if (found := strip(record)) is not None:
        image, shown = found
        asked = ask.picture if ask.picture is not None else None
        context["strip"] = {
            "src": budget.spend(webp(image)), "width": image.width, "height": image.height, "count": len(shown),
            "asked": shown.index(asked) if asked in shown else None,
        }  # fmt: skip
    if len(wave):
        columns, height = WAVE
        context["wave"] = budget.spend(outline(wave, columns=columns, height=height))
        if media.audio is not None:
            bounds = np.clip(heard(media, ask.row, len(wave)), 0, len(wave)) / len(wave)
            # Windows one behind the other are one stretch of sound.
            joined = _joined([(float(a), float(b)) for a, b in bounds if b > a])
            context["windows"] = [] if joined and joined[0][1] - joined[0][0] > 0.98 else joined
        if (picture := spectrogram(wave)) is not None:
            context["spectrum"] = budget.spend(webp(picture, quality=60))
    context["stills"] = list(_stills(source, record, ask, line, said, folder, budget))
    if len(wave):
        context["sound"] = budget.sound(wave, reserve=reserve)
    return context


def _joined(spans: Sequence[tuple[float, float]], gap: float = 0.002) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1] + gap:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _ticks(seconds: float) -> list[tuple[float, str]]:
    """Places and names of at most six marks on the axis of seconds."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000) if seconds / s <= 5 or s == 10_000)
    return [(k * step / seconds, f"{k * step} s") for k in range(int(seconds / step + 1e-6) + 1)]


# ------------------------------------------------------------------------------------------------------- time ranges


def _lanes(row: Row, said: Mapping[str, Any], seconds: float) -> list[Context]:
    """Lanes of the timeline, truth above what was said; none where the task has no times."""
    if row.audio_events or row.visual_events or said.get("kind") == "audio_visual_events":
        streams = (("heard", row.audio_events, "audio"), ("seen", row.visual_events, "visual"))
    elif row.events or said.get("kind") == "events":
        streams = (("", row.events, "events"),)
    else:
        return []
    lanes = []
    for name, events, key in streams:
        true = [dataclasses.asdict(e) for e in events]
        given = said.get(key) if isinstance(said.get(key), list) else []
        for role, what in (("truth", true), ("said", given)):
            rows = stack([(str(e["name"]), float(e["start_s"]), float(e["end_s"])) for e in what])
            spans = [[_span(*event, seconds) for event in row] for row in rows]
            lanes.append({"role": role, "stream": name, "rows": spans})
    return lanes


def _span(name: str, start: float, end: float, seconds: float) -> Context:
    left, right = (min(max(t / seconds, 0.0), 1.0) for t in (start, end))
    return {"left": left, "width": max(right - left, 0.006), "name": name.replace("_", " "), "start": start, "end": end}


# ------------------------------------------------------------------------------------------------------------- texts


def _shown(text: str) -> Markup:
    """HTML of a text; a row of mask tokens becomes one sign."""
    return Markup(_MASK_TOKENS.sub("<code>mask tokens</code>", tagged(text)))


def _true_text(source: Source, row: Row, wording: Wording) -> str:
    try:
        return source.spec.target(row, wording)
    except ValueError:  # test sets need not have what a training target needs
        return ""


def short(value: Mapping[str, Any]) -> str:
    """An answer in a few words; empty where it is drawn, is the whole text, or was not understood."""
    match value.get("kind"):
        case "choice":
            return str(value["answer"])
        case "box":
            return str(value.get("label") or "")
    return ""


# ---------------------------------------------------------------------------------------------------------- pictures


def _stills(
    source: Source, record: Record, ask: Ask, line: Mapping[str, Any], said: Mapping[str, Any], folder: pathlib.Path,
    budget: Budget,
) -> Iterator[Context]:  # fmt: skip
    """The picture in question with boxes, or the true mask and the given one."""
    spec = source.spec
    if ask.row.box is not None or said.get("kind") == "box":
        picture = shaped(record, ask.picture or 0, _STILL)
        boxes = [("truth", ask.row.box)] if ask.row.box is not None else []
        if said.get("kind") == "box":
            boxes.append(("said", tuple(said[k] for k in ("x1", "y1", "x2", "y2"))))
        yield {
            "src": budget.spend(webp(picture)), "size": picture.size, "role": "both",
            "caption": "",
            "boxes": [{"role": role} | _place(box) for role, box in boxes],
        }  # fmt: skip
    if not spec.needs_masks:
        return
    picture = np.asarray(shaped(record, ask.picture or 0, _STILL))
    size = (picture.shape[1], picture.shape[0])
    true = record.mask(ask.mask) if ask.mask is not None else None
    given, reason = None, "no mask: the answer was not understood"
    if "mask" in line:
        try:
            given, _ = read_mask(folder / line["mask"], semantic=spec.semantic)
        except MaskFileError as error:
            reason = str(error)
    for role, mask, words in (("truth", true, "truth"), ("said", given, "answer")):
        if mask is None:
            note = "nothing is meant" if role == "truth" else reason
            yield {"src": budget.spend(webp(_plain(picture))), "size": size, "role": role, "boxes": [],
                   "caption": f"{words}: {note}"}  # fmt: skip
            continue
        if spec.semantic:
            image, caption = mark_classes(picture, mask.astype(np.int64), AVSS_CLASSES), _classes(mask)
        else:
            marked = np.asarray(mask) > 0
            image = mark_mask(picture, marked, TRUTH if role == "truth" else PREDICTION)
            caption = [(None, f"{marked.mean():.1%} of the picture")]
        src = budget.spend(webp(Image.fromarray(image)))
        yield {"src": src, "size": size, "role": role, "boxes": [], "caption": words, "classes": caption}


def _plain(picture: np.ndarray) -> Image.Image:
    return Image.fromarray((0.45 * picture).astype(np.uint8))


def _place(box: Sequence[int]) -> Context:
    x1, y1, x2, y2 = box
    return {"left": x1 / BOX_GRID, "top": y1 / BOX_GRID, "width": (x2 + 1 - x1) / BOX_GRID,
            "height": (y2 + 1 - y1) / BOX_GRID}  # fmt: skip


def _classes(mask: np.ndarray) -> list[tuple[str | None, str]]:
    """Colour and name of each class in a mask, the largest first."""
    counts = np.bincount(np.asarray(mask, np.int64).ravel(), minlength=len(PALETTE))
    names = []
    for label in np.argsort(-counts, kind="stable").tolist():
        if label and counts[label]:
            red, green, blue = PALETTE[label].tolist()
            name = AVSS_CLASSES[label] if label < len(AVSS_CLASSES) else f"class {label}"
            names.append((f"rgb({red},{green},{blue})", f"{name} {counts[label] / mask.size:.1%}"))
    return names[:6] or [(None, "background only")]
