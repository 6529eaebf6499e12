"""The page: findings and shards in, one HTML file out that needs nothing else. No jax here."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from crab_jax.evaluate import baselines, journal, listen_look, table
from crab_jax.evaluate.answers import understand
from crab_jax.evaluate.journal import Line
from crab_jax.evaluate.report import charts, gallery
from crab_jax.evaluate.report.exhibits import exhibits
from crab_jax.evaluate.report.findings import Findings, read_findings
from crab_jax.evaluate.report.media import Budget
from crab_jax.evaluate.score import PROBLEMS
from crab_jax.evaluate.table import TestSet
from crab_jax.tasks import TASKS, RowError, Wording
from data_pipelines.records import open_shards
from data_pipelines.stream.tables import Source

REPORT = "report.html"
GALLERY = 3  # right items of every test set, and as many others
LIMIT_BYTES = 7_500_000  # of the page; sounds are left out first
_TEXT_BYTES = 120_000  # of a test set without pictures: numbers, tables, texts
_PICTURES_BYTES = 70_000  # of an item, at most
NAMES = {
    "accuracy": "accuracy", "accuracy/audio": "audio questions", "accuracy/visual": "visual questions",
    "accuracy/audio_visual": "audio-visual questions", "segment/type": "Type, per second",
    "event/type": "Type, per event", "segment/event": "Event, per second", "event/event": "Event, per event",
    "ciou": "boxes with IoU ≥ 0.5", "auc": "area under success", "mean_iou": "mean IoU", "miou": "mean IoU",
    "f": "F", "s": "S, what is marked", "cider_d": "CIDEr-D", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L",
}  # fmt: skip
_SPLITS = {"test_s": "seen kinds", "test_u": "unseen kinds", "test_n": "nothing meant"}


class ReportError(ValueError):
    """There is nothing to report on."""


def write_report(
    out: pathlib.Path, shards: pathlib.Path | None, *, items: int = GALLERY, path: pathlib.Path | None = None
) -> list[str]:
    """Writes the page.

    Args:
        out: a folder of results, what `crab eval` was given as `--out`.
        shards: the data sets, whose media are shown; None: a page without a gallery.
        items: right items per test set in the gallery, and as many others.
        path: of the file; None: `report.html` in the folder.

    Returns:
        What could not be used, a line each.

    Raises:
        ReportError: nothing was evaluated into the folder.
        OSError: the page cannot be written.
    """
    findings = read_findings(out)
    if not findings.sets:
        reason = "".join(f"; {line}" for line in findings.broken[:1])
        raise ReportError(f"{out}: expected scores that `crab eval --out` wrote, found none{reason}")
    order = {split: n for n, split in enumerate(_SPLITS)}
    sets = sorted(findings.sets, key=lambda s: (list(TASKS).index(s.task), order.get(s.split, -1)))
    findings = dataclasses.replace(findings, sets=sets)
    budget = Budget(LIMIT_BYTES - _TEXT_BYTES * (1 + len(findings.sets)))
    told = list(findings.broken)
    sections = []
    for n, each in enumerate(findings.sets):
        following = 2 * items * _PICTURES_BYTES * (len(findings.sets) - n)
        sections.append(_section(findings, each, shards, items, budget, following, told))
    keys = [(s.task, s.split) for s in findings.sets]
    template = _templates().get_template("report.html.j2")
    text = template.render(
        style=_asset("report.css"),
        script=_asset("report.js"),
        model=table.model_in(findings.settings),
        settings={"weights": "", "dtype": "", "wording": ""} | dict(findings.settings),
        sections=sections,
        totals=_totals(findings.sets),
        generated=sorted({_world(s.main["generated"]) for s in findings.sets if s.main.get("generated")}),
        baselines=bool(findings.baselines),
        senses=baselines.SENSES,
        comparisons=listen_look.compare(findings.sets, findings.baselines),
        swaps=listen_look.SWAPS,
        ablation=findings.ablation,
        router=charts.router_maps({title(*key): findings.routers[key] for key in keys if key in findings.routers}),
        title=title,
        names=NAMES,
        times=charts.times(findings.speed),
        silent=budget.silent,
        broken=told,
        items=items,
    )
    journal.publish(out / REPORT if path is None else path, text.encode("utf-8", "replace"))
    return told


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crab_jax.evaluate.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "score": score_text, "count": lambda n: f"{n:,}".replace(",", " ")}
    return environment


def _asset(name: str) -> Markup:
    folder = resources.files("crab_jax.evaluate.report").joinpath("templates")
    return Markup(folder.joinpath(name).read_text(encoding="utf-8"))


def _totals(sets: Sequence[TestSet]) -> dict[str, Any]:
    items = sum(s.main["expected"] for s in sets)
    unparsed = [(s.main["numbers"].get("unparsed"), s.main["expected"]) for s in sets]
    lost = sum(share * n for share, n in unparsed if share is not None)
    return {"items": items, "unparsed": lost / items if items else None, "sets": len(sets),
            "tasks": len({s.task for s in sets})}  # fmt: skip


def _world(mark: Mapping[str, Any]) -> str:
    seed = f", seed {mark['seed']}" if "seed" in mark else ""
    return f"{str(mark.get('world', 'unknown')).capitalize()}{seed}"


# ---------------------------------------------------------------------------------------------------------- test set


def _section(
    findings: Findings, each: TestSet, shards: pathlib.Path | None, items: int, budget: Budget, following: int,
    told: list[str],
) -> dict[str, Any]:  # fmt: skip
    """One test set as the template wants it."""
    spec = TASKS[each.task]
    known = baselines.of(findings.baselines, each.task, each.split)
    lines = findings.lines(each)
    shown: list[dict[str, Any]] = []
    if shards is not None and items:
        try:
            source = Source(open_shards(shards, each.task, each.split), spec)
            lines = _understood(source, lines)
            chosen = gallery.choose(gallery.judge(each.task, each.split, lines), items)
            wording = Wording(findings.settings.get("wording", Wording.QUICK_START.value))
            shown = list(
                exhibits(
                    source,
                    chosen,
                    folder=findings.folder(each),
                    wording=wording,
                    budget=budget,
                    reserve=following - 2 * items * _PICTURES_BYTES,
                )
            )
        except (ValueError, OSError) as error:
            told.append(f"{each.task}/{each.split}: no gallery: {error}")
    judged = gallery.judge(each.task, each.split, lines)
    return {
        "id": f"{each.task}-{each.split}",
        "name": title(each.task, each.split),
        "about": spec.about,
        "headlines": [_headline(each, name, known) for name in each.main["headline"]],
        "unparsed": each.main["numbers"].get("unparsed"),
        "expected": each.main["expected"],
        "answered": each.main["answered"],
        "unparsed_as": each.unparsed_as,
        "notes": each.notes,
        "mode": table.COLUMNS[each.main["mode"], each.main["swap"]],
        "baselines": [dataclasses.asdict(b) for b in known],
        "columns": [each.heading(key) for key in each.keys],
        "numbers": _numbers(each),
        "why_not_paper": each.why_not_paper,
        "paper_known": bool(table.reported(each.task, each.split)),
        "remarks": [f"{r.name}: {r.remark}" for r in each.paper.values() if r.remark],
        "problems": [
            {"run": table.COLUMNS[key], "count": len(names), "kind": kind, "means": PROBLEMS.get(kind, kind),
             "names": [str(n)[:200] for n in names[:5]]}
            for key in each.keys
            for kind, names in each.runs[key]["problems"].items()
        ],
        "rule": gallery.rule_of(each.task, each.split),
        "verdicts": {v: sum(j.verdict == v for j in judged) for v in ("right", "wrong", "unparsed")},
        "exhibits": shown,
        "confusion": charts.confusion(each.task, lines),
    }  # fmt: skip


def _understood(source: Source, lines: Sequence[Line]) -> list[Line]:
    """Answers with what their text says and what is true, whatever the file says about itself."""
    rows = {ask.id: ask.row for entry in source.shards.index() for ask in entry.asks}
    found = []
    for line in lines:
        if "text" in line and line["id"] in rows:
            cut_off = line.get("tokens") if line.get("finished") is False else None
            value = understand(
                source.spec, line["text"], mask_tokens=line.get("mask_tokens"), cut_off_after=cut_off
            ).to_json()
            try:
                truth = source.spec.answer(rows[line["id"]]).to_json()
            except RowError:
                continue
            found.append(line | {"value": value, "truth": truth})
    return found


def _headline(each: TestSet, name: str, known: Sequence[baselines.Baseline]) -> dict[str, Any]:
    value = charts.finite(each.main["numbers"].get(name))
    marks = []
    for sense, words in baselines.SENSES.items():
        for b in known:
            if b.number == name and b.values[sense] is not None:
                marks.append({"sense": sense, "name": words, "value": b.values[sense]})
    paper = each.paper.get(name)
    return {
        "number": name,
        "name": NAMES.get(name, name),
        "value": value,
        "shown": score_text(value, name),
        "bar": None if value is None or name.startswith("cider") else min(max(value, 0.0), 1.0),
        "lower": bool(each.main["lower_is_better"]),
        "marks": marks,
        "paper": None if paper is None else paper.value,
    }


def _numbers(each: TestSet) -> list[dict[str, Any]]:
    """Every named variant, a value per run."""
    keys = each.keys
    names = list(dict.fromkeys([*each.main["headline"], *(n for key in keys for n in each.runs[key]["numbers"])]))
    return [
        {
            "name": name,
            "headline": name in each.main["headline"],
            "values": [score_text(charts.finite(each.runs[key]["numbers"].get(name)), name) for key in keys],
            "paper": score_text(each.paper[name].value, name) if name in each.paper else "",
        }
        for name in names
    ]


def title(task: str, split: str) -> str:
    """Name of a test set for people."""
    return task if split == "test" else f"{task}, {_SPLITS.get(split, split)}"


def percent(value: float | None) -> str:
    """A fraction as a percentage, `–` for nothing."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def score_text(value: float | None, name: str) -> str:
    """A number as people write it: counts whole, CIDEr-D as it is, everything else as a percentage."""
    if value is None or math.isnan(value):
        return "–"
    if name.split("/")[0].split(":")[0] == "items":
        return f"{value:.0f}"
    if name.startswith("cider") or name.split(":")[0] == "s":
        return f"{value:.3f}"
    return percent(value)
