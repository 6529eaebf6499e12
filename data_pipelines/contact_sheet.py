"""Examples on a page that one would rather look at than read: pictures, sound, masks, times, prompt and target.

One HTML file with everything in it, for any browser, wide or narrow, light or dark. Sound can be played.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from importlib import resources

import numpy as np
from PIL import Image

from crab_jax.draw.marks import mark_box, mark_classes, mark_mask, read_box
from crab_jax.draw.sheet import TRUTH
from crab_jax.tasks import Event, Row, TaskSpec, Wording
from crab_jax.tasks.answers import BOX_GRID
from crab_jax.tasks.clips import Ask
from crab_jax.tasks.vocabulary import AVSS_CLASSES
from data_pipelines.check import Summary, most_common, table
from data_pipelines.display import jpeg, outline, playable, shaped, tagged, text
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
            file.write(f'<section id="{spec.name}"><h1>{spec.name} <small>{text(spec.about)}</small></h1>\n')
            for summary in summaries:
                file.write(f"<h2>{summary.shards.split}</h2>\n{_numbers(summary)}")
                file.write('<div class="cards">\n')
                for index, pick in _choose(summary, items):
                    file.write(_example(spec, summary, index, pick))
                file.write("</div>\n")
            file.write("</section>\n")
        file.write("</main></body></html>\n")


def _choose(summary: Summary, items: int) -> list[tuple[int, int]]:
    """(record, which of its asks) of examples that are spread over the split."""
    records = len(summary.shards)
    count = min(items, records)
    return [((2 * k + 1) * records // (2 * count), k) for k in range(count)]


# ----------------------------------------------------------------------------------------------------------- numbers


def _numbers(summary: Summary) -> str:
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in table(summary))
    return f'<div class="numbers"><dl>{rows}</dl>{_bars("answers", summary)}</div>\n'


def _bars(name: str, summary: Summary) -> str:
    """A histogram of the answers."""
    counts = summary.labels
    if not counts:
        return ""
    shown = most_common(counts, _BARS)
    largest = shown[0][1]
    lines = "".join(
        f'<li><span>{text(label)}</span><i style="--share:{n / largest:.3f}"></i><b>{n}</b></li>' for label, n in shown
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
        return f'<article><p class="bad">{text(error)}</p></article>\n'
    more = f" · one of {len(record.asks)} about this clip" if len(record.asks) > 1 else ""
    wide = "" if "<figure>" in body else ' class="wide"'
    return f"<article{wide}><h3>{text(ask.id)}<small>{more}</small></h3>{body}</article>\n"


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
            yield f'<audio controls preload="none" src="{playable(wave)}"></audio>'
    if (still := ask.picture if ask.picture is not None else 0 if len(record.frames) == 1 else None) is not None:
        yield "".join(_still(spec, record, ask, still))
    yield '<div class="texts">'
    for name, make in (("prompt", spec.prompt), ("target", spec.target)):
        try:
            said = tagged(make(ask.row))
        except ValueError as error:  # test sets need not have what a training target needs
            said = f'<span class="bad">{text(error)}</span>'
        yield f'<div class="said {name}"><h4>{name}</h4><p>{said}</p></div>'
    yield "</div>"
    about = {"clip": record.clip_id, "annotation": dict(ask.raw), "provenance": dict(record.provenance)}
    lines = json.dumps(about, indent=1, ensure_ascii=False)
    yield f"<details><summary>where it comes from</summary><pre>{text(lines)}</pre></details>"


def _strip(record: Record, ask: Ask) -> str:
    """Pictures in their order, each as wide as its share of the time; the one asked about is framed."""
    count = min(len(record.frames), _STRIP)
    if count < 2:
        return ""
    chosen = [k * len(record.frames) // count for k in range(count)]
    cells = []
    for k in chosen:
        mark = ' class="asked"' if k == ask.picture else ""
        cells.append(f'<img{mark} alt="picture {k}" src="{jpeg(shaped(record, k, _THUMB))}">')
    return f'<div class="strip" style="grid-template-columns:repeat({count},1fr)">{"".join(cells)}</div>'


def _wave(wave: np.ndarray, windows: Sequence[tuple[int, int]]) -> str:
    """The wave, its loudest moment as high as the drawing; what the model hears is shaded."""
    columns = min(_COLUMNS, len(wave))
    scale = columns / len(wave)
    shades = "".join(
        f'<rect x="{max(a, 0) * scale:.1f}" y="0" width="{(b - max(a, 0)) * scale:.1f}" height="{_HEIGHT}"/>'
        for a, b in windows
    )
    path = outline(wave, columns=_COLUMNS, height=_HEIGHT)
    seconds = len(wave) / RATE
    return (
        f'<svg class="wave" viewBox="0 0 {columns} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="sound of {seconds:.1f} seconds">{shades}<path d="{path}"/></svg>'
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
            lanes.append(f'<div class="lane {name}">{spans}<span>{text(what)} · {ranges}</span></div>')
    return "".join(lanes)


def _by_label(events: Sequence[Event]) -> dict[str, list[tuple[int, int]]]:
    times: dict[str, list[tuple[int, int]]] = {}
    for event in events:
        times.setdefault(event.name, []).append((event.start_s, event.end_s))
    return times


def _still(spec: TaskSpec, record: Record, ask: Ask, k: int) -> Iterator[str]:
    """The picture in question, and beside it what is true about it."""
    picture = np.asarray(shaped(record, k, _STILL))
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
        caption = said if said.startswith("<") else text(said)
        yield f'<figure><img alt="" src="{jpeg(shown)}"><figcaption>{caption}</figcaption></figure>'
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
            said.append(f'<i class="swatch" style="background:rgb({red},{green},{blue})"></i>{text(name)} {share}')
    return "<span>" + (" ".join(said) or "background only") + "</span>"
