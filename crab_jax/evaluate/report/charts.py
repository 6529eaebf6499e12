"""Numbers that are drawn: router heat maps, confusions, where the time went. Plain values for the template."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crab_jax.evaluate.journal import Line
from crab_jax.evaluate.report.findings import Router

LABELS = 10  # rows of a confusion
OTHER, NOTHING = "other", "not understood"
Context = dict[str, Any]


def router_maps(routers: Mapping[str, Router]) -> Context | None:
    """Mean weight of every head in every layer, a map per test set, all on one scale; None without routers."""
    maps = []
    for name, router in routers.items():
        weights = router.weights.mean(axis=1)  # [layers heads]
        maps.append({"name": name, "items": router.items, "weights": weights})
    if not maps:
        return None
    low = min(float(m["weights"].min()) for m in maps)
    high = max(float(m["weights"].max()) for m in maps)
    span = max(high - low, 1e-9)
    for m in maps:
        m["rows"] = [[{"value": float(v), "share": float(v - low) / span} for v in head] for head in m["weights"].T]
    heads = max(len(m["rows"]) for m in maps)
    return {"maps": maps, "low": low, "high": high, "heads": heads, "even": 1 / heads}


def confusion(task: str, lines: Sequence[Line]) -> Context | None:
    """What was said for which truth, for tasks whose answer is one of some words; None for others.

    Rows are true answers, the most frequent first, columns what was said.
    """
    pairs = [p for line in lines if (p := _pair(task, line)) is not None]
    if not pairs:
        return None
    common = [name for name, _ in _ordered(collections.Counter(t for t, _ in pairs))[:LABELS]]
    names = [*common, *([OTHER] if {n for p in pairs for n in p} - {*common, NOTHING} else [])]
    columns = [*names, *([NOTHING] if any(said == NOTHING for _, said in pairs) else [])]
    place = lambda name: name if name in columns else OTHER  # noqa: E731
    counts = collections.Counter((place(t), place(s)) for t, s in pairs)
    rows = []
    for true in names:
        total = sum(counts[true, said] for said in columns)
        if total:
            cells = [
                {"count": counts[true, said], "share": counts[true, said] / total, "right": said == true != OTHER}
                for said in columns
            ]
            rows.append({"name": true, "cells": cells, "total": total})
    return {"columns": columns, "rows": rows, "of": "events" if task == "ave" else "answers"}


def _ordered(counts: collections.Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def _pair(task: str, line: Line) -> tuple[str, str] | None:
    true, said = line.get("truth"), line.get("value")
    if not isinstance(true, dict):
        return None
    name = {"avqa": _choice, "ave": _events}.get(task)
    try:
        if name is None or not (wanted := name(true)):
            return None
        return wanted, (name(said) if isinstance(said, dict) else "") or NOTHING
    except (LookupError, TypeError):  # without shards the file is believed, and somebody may have edited it
        return None


def _choice(value: Mapping[str, Any]) -> str:
    return str(value.get("answer", "")) if value.get("kind") == "choice" else ""


def _events(value: Mapping[str, Any]) -> str:
    if value.get("kind") != "events":
        return ""
    return " + ".join(sorted({str(e["name"]) for e in value["events"]})) or "none"


def times(speed: Mapping[str, Mapping[str, Any]]) -> Context | None:
    """Seconds of every run, compiling apart; None if nothing was measured."""
    runs = []
    for name, run in speed.items():
        seconds, compiling = float(run["seconds"]), min(float(run["compile_s"]), float(run["seconds"]))
        runs.append(
            {
                "name": name, "items": int(run["items"]), "seconds": seconds, "compile_s": compiling,
                "rate": run["items"] / seconds if seconds else None,
                "rate_compiled": run["items"] / (seconds - compiling) if seconds > compiling else None,
            }
        )  # fmt: skip
    total = sum(r["seconds"] for r in runs)
    if not runs or not total:
        return None
    longest = max(r["seconds"] for r in runs)
    device = next((f"{r.get('devices', 1)} × {r['device']}" for r in speed.values() if r.get("device")), "")
    share = sum(r["compile_s"] for r in runs) / total
    return {"runs": runs, "total": total, "longest": longest, "compile_share": share, "device": device}


def finite(value: Any) -> float | None:
    """A number that can be drawn, or None."""
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else None
