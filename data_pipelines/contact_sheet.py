"""Examples on a page that one would rather look at than read: pictures, sound, masks, times, prompt and target.

One HTML file with everything in it, for any browser, wide or narrow, light or dark. Sound can be played.
"""

from __future__ import annotations

import base64
import html
import io
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from importlib import resources

import numpy as np
import soundfile
from PIL import Image

from crab_jax.draw.marks import mark_box, mark_classes, mark_mask, read_box
from crab_jax.draw.sheet import TRUTH
from crab_jax.tasks import Event, Row, TaskSpec, Wording
from crab_jax.tasks.answers import BOX_GRID
from crab_jax.tasks.clips import Ask
from crab_jax.tasks.vocabulary import AVSS_CLASSES
from data_pipelines.check import Summary, most_common, table
from data_pipelines.encoding import RATE
from data_pipelines.examples import heard
from data_pipelines.image import PALETTE
from data_pipelines.records import Record

_STRIP = 10  # pictures side by side
_THUMB, _STILL = 200, 420  # pixels of the longer side
_COLUMNS, _HEIGHT = 400, 56  # of the drawn wave
_BARS = 16  # answers in a histogram

Shown = Sequence[tuple[TaskSpec, Sequence[Summary]]]


def write_sheet(path: pathlib.Path, shown: Shown, *, items: int) -> None:
    """Writes the page.

    Args:
        path: of the HTML file.
        shown: tasks and the summaries of their splits.
        items: examples per split, evenly spaced.
    """
    style = resources.files("data_pipelines").joinpath("contact_sheet.css").read_text(encoding="utf-8")
    with path.open("w", encoding="utf-8") as file:
        file.write(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>Contact sheet</title><style>\n{style}</style></head><body>\n<nav>"
        )
        file.write(" ".join(f'<a href="#{spec.name}">{spec.name}</a>' for spec, _ in shown) + "</nav>\n<main>\n")
        for spec, summaries in shown:
            file.write(f'<section id="{spec.name}"><h1>{spec.name} <small>{_text(spec.about)}</small></h1>\n')
            for summary in summaries:
                file.write(f"<h2>{summary.shards.split}</h2>\n{_numbers(summary)}")
                file.write('<div class="cards">\n')
                for index, pick in _choose(summary, items):
                    file.write(_example(spec, summary, index, pick))
                file.write("</div>\n")
            file.write("</section>\n")
        file.write("</main></body></html>\n")


def _text(value: object) -> str:
    return html.escape(str(value))


def _choose(summary: Summary, items: int) -> list[tuple[int, int]]:
    """(record, which of its asks) of examples that are spread over the split."""
    records = len(summary.shards)
    count = min(items, records)
    return [((2 * k + 1) * records // (2 * count), k) for k in range(count)]


# ----------------------------------------------------------------------------------------------------------- numbers


def _numbers(summary: Summary) -> str:
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in table(summary))
    return f'<div class="numbers"><dl>{rows}</dl>{_bars("answers", summary)}</div>\n'


def _bars(name: str, summary: Summary) -> str:
    """A histogram of the answers."""
    counts = summary.labels
    if not counts:
        return ""
    shown = most_common(counts, _BARS)
    largest = shown[0][1]
    lines = "".join(
        f'<li><span>{_text(label)}</span><i style="--share:{n / largest:.3f}"></i><b>{n}</b></li>' for label, n in shown
    )
    rest = len(counts) - len(shown)
    more = f"<li><span>and {rest} more</span></li>" if rest else ""
    return f'<ol class="bars" aria-label="{name}">{lines}{more}</ol>'


# ---------------------------------------------------------------------------------------------------------- examples


def _example(spec: TaskSpec, summary: Summary, index: int, pick: int) -> str:
    try:
        record = summary.shards[index]
        ask = record.asks[pick % len(record.asks)]
        body = "".join(_body(spec, record, ask))
    except ValueError as error:  # a CorruptRecord, or media that no wording of the task can use
        return f'<article><p class="bad">{_text(error)}</p></article>\n'
    more = f" · one of {len(record.asks)} about this clip" if len(record.asks) > 1 else ""
    wide = "" if "<figure>" in body else ' class="wide"'
    return f"<article{wide}><h3>{_text(ask.id)}<small>{more}</small></h3>{body}</article>\n"


def _body(spec: TaskSpec, record: Record, ask: Ask) -> Iterator[str]:
    media = spec.media[Wording.QUICK_START]
    wave = record.wave()
    if len(record.frames) > 1 or len(wave):
        yield f'<div class="times"><div>{_strip(record, ask)}'
        if len(wave):
            windows = heard(media, ask.row, len(wave)) if media.audio is not None else []
            yield _wave(wave, windows)
        yield f"{_lanes(ask.row, media.seconds)}</div></div>"
        if len(wave):
            yield f'<audio controls preload="none" src="{_sound(wave)}"></audio>'
    if (still := ask.picture if ask.picture is not None else 0 if len(record.frames) == 1 else None) is not None:
        yield "".join(_still(spec, record, ask, still))
    yield '<div class="texts">'
    for name, make in (("prompt", spec.prompt), ("target", spec.target)):
        try:
            said = _tagged(make(ask.row))
        except ValueError as error:  # test sets need not have what a training target needs
            said = f'<span class="bad">{_text(error)}</span>'
        yield f'<div class="said {name}"><h4>{name}</h4><p>{said}</p></div>'
    yield "</div>"
    about = {"clip": record.clip_id, "annotation": dict(ask.raw), "provenance": dict(record.provenance)}
    lines = json.dumps(about, indent=1, ensure_ascii=False)
    yield f"<details><summary>where it comes from</summary><pre>{_text(lines)}</pre></details>"


def _tagged(text: str) -> str:
    """Tags stand out from the words."""
    shown = re.sub(r"&lt;/?\w+&gt;", lambda match: f"<code>{match[0]}</code>", _text(text))
    return shown.replace("\n", "<br>")


def _strip(record: Record, ask: Ask) -> str:
    """Pictures in their order, each as wide as its share of the time; the one asked about is framed."""
    count = min(len(record.frames), _STRIP)
    if count < 2:
        return ""
    chosen = [k * len(record.frames) // count for k in range(count)]
    cells = []
    for k in chosen:
        mark = ' class="asked"' if k == ask.picture else ""
        cells.append(f'<img{mark} alt="picture {k}" src="{_jpeg(_shaped(record, k, _THUMB))}">')
    return f'<div class="strip" style="grid-template-columns:repeat({count},1fr)">{"".join(cells)}</div>'


def _wave(wave: np.ndarray, windows: Sequence[tuple[int, int]]) -> str:
    """The wave, its loudest moment as high as the drawing; what the model hears is shaded."""
    peak = max(float(np.abs(wave).max()), 1e-9)
    columns = min(_COLUMNS, len(wave))
    starts = np.arange(columns) * len(wave) // columns
    middle = _HEIGHT / 2
    tops = middle - np.maximum.reduceat(wave, starts) / peak * (middle - 1)
    bottoms = middle - np.minimum.reduceat(wave, starts) / peak * (middle - 1)
    points = [f"{x} {y:.0f}" for x, y in enumerate(tops)] + [f"{x} {y + 1:.0f}" for x, y in enumerate(bottoms)][::-1]
    scale = columns / len(wave)
    shades = "".join(
        f'<rect x="{max(a, 0) * scale:.1f}" y="0" width="{(b - max(a, 0)) * scale:.1f}" height="{_HEIGHT}"/>'
        for a, b in windows
    )
    seconds = len(wave) / RATE
    return (
        f'<svg class="wave" viewBox="0 0 {columns} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="sound of {seconds:.1f} seconds">{shades}<path d="M{"L".join(points)}Z"/></svg>'
        f'<div class="ends"><span>0</span><span>{seconds:.1f} s</span></div>'
    )


def _lanes(row: Row, seconds: int | None) -> str:
    """A bar for each event, over the same time as the wave."""
    lanes = []
    for name, events in (("", row.events), ("heard", row.audio_events), ("seen", row.visual_events)):
        for label, times in _by_label(events).items():
            spans = "".join(
                f'<i style="left:{100 * a / (seconds or b):.1f}%;width:{100 * (b - a) / (seconds or b):.1f}%"></i>'
                for a, b in times
            )
            what = f"{name}: {label}" if name else label
            ranges = ", ".join(f"{a} to {b} s" for a, b in times)
            lanes.append(f'<div class="lane {name}">{spans}<span>{_text(what)} · {ranges}</span></div>')
    return "".join(lanes)


def _by_label(events: Sequence[Event]) -> dict[str, list[tuple[int, int]]]:
    times: dict[str, list[tuple[int, int]]] = {}
    for event in events:
        times.setdefault(event.name, []).append((event.start_s, event.end_s))
    return times


def _sound(wave: np.ndarray) -> str:
    """The sound as a small file that browsers play."""
    wave = wave / max(1.0, float(np.abs(wave).max()))
    file = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(file, wave, RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.8)
        return _data("audio/mpeg", file.getvalue())
    soundfile.write(file, wave, RATE, format="FLAC", subtype="PCM_16")
    return _data("audio/flac", file.getvalue())


def _still(spec: TaskSpec, record: Record, ask: Ask, k: int) -> Iterator[str]:
    """The picture in question, and beside it what is true about it."""
    picture = np.asarray(_shaped(record, k, _STILL))
    pictures = [("picture", picture)]
    if ask.mask is not None:
        mask = record.mask(ask.mask)
        if record.semantic:
            pictures.append((_classes(mask), mark_classes(picture, mask.astype(np.int64), AVSS_CLASSES)))
        else:
            said = f"mask · {(mask > 0).mean():.1%} of the picture"
            pictures.append((said, mark_mask(picture, mask > 0, TRUTH)))
    elif spec.needs_masks:
        yield '<p class="note">no true mask</p>'
    if ask.row.box is not None:
        box = read_box(ask.row.box, BOX_GRID)
        said = f"box {', '.join(map(str, ask.row.box))} on a grid of {BOX_GRID}"
        pictures.append((said, mark_box(picture, box, ask.row.label, None, BOX_GRID)))
    yield '<div class="stills">'
    for said, shown in pictures:
        shown = Image.fromarray(shown)
        caption = said if said.startswith("<") else _text(said)
        yield f'<figure><img alt="" src="{_jpeg(shown)}"><figcaption>{caption}</figcaption></figure>'
    yield "</div>"


def _classes(mask: np.ndarray) -> str:
    """The classes of a mask, the largest first, in their colours."""
    counts = np.bincount(mask.ravel(), minlength=len(PALETTE))
    said = []
    for label in np.argsort(-counts, kind="stable"):
        if label and counts[label]:
            red, green, blue = PALETTE[label]
            name = AVSS_CLASSES[label] if label < len(AVSS_CLASSES) else f"class {label}"
            share = f"{counts[label] / mask.size:.1%}"
            said.append(f'<i class="swatch" style="background:rgb({red},{green},{blue})"></i>{_text(name)} {share}')
    return "<span>" + (" ".join(said) or "background only") + "</span>"


def _shaped(record: Record, k: int, longest: int) -> Image.Image:
    """A picture in the proportions that it had before it was squashed."""
    image = Image.fromarray(record.picture(k))
    seen = record.provenance.get("video") or (record.provenance.get("pictures") or [{}] * (k + 1))[k]
    width, height = seen.get("size") or image.size
    scale = longest / max(width, height, 1)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return image.resize(size, Image.Resampling.BICUBIC)


def _jpeg(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=82)
    return _data("image/jpeg", file.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
