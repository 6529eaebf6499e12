"""`table.md` and `table.json` of results, with baselines and swapped media beside the scores. No jax here."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from crab_jax.evaluate import baselines, journal, listen_look, table
from crab_jax.evaluate.baselines import Baseline
from crab_jax.evaluate.table import TABLE, TestSet


def write_table(out: pathlib.Path) -> tuple[str, list[str]]:
    """Writes `table.md` and `table.json` from all scores below a folder.

    Args:
        out: the folder.

    Returns:
        The Markdown, and files that could not be used.

    Raises:
        OSError: it cannot be written.
    """
    sets, broken = table.read_results(out)
    try:
        settings = journal.read_settings(out) or {}
    except journal.JournalError:
        settings = {}
    known, unusable = baselines.read_baselines(out)
    return write(out, sets, settings, known), [*broken, *unusable]


def write(
    out: pathlib.Path, sets: Sequence[TestSet], settings: Mapping[str, Any], known: Sequence[Baseline] = ()
) -> str:
    """Writes `table.md` and `table.json`; returns the Markdown.

    Raises:
        OSError: they cannot be written.
    """
    lines = listen_look.compare(sets, known)
    text = table.to_markdown(sets, settings, listen_look.to_markdown(lines))
    journal.publish(out / f"{TABLE}.md", text.encode())
    more = {"baselines": baselines.to_json(known), "listen_look": [line.to_json() for line in lines]}
    data = json.dumps(table.to_json(sets, settings, more), ensure_ascii=False, indent=1)
    journal.publish(out / f"{TABLE}.json", data.encode() + b"\n")
    return text
