"""`table.md` and `table.json` of results, with baselines and swapped media beside the scores. No jax here."""

from __future__ import annotations

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
    found = table.read_results(out)
    known, unusable = baselines.read_baselines(out)
    return write(out, found.sets, found.settings, known), [*found.broken, *unusable]


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
    journal.publish(out / f"{TABLE}.json", journal.encode(table.to_json(sets, settings, more), indent=1))
    return text
