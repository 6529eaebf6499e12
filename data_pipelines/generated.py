"""Whether data were rendered by this project, so that nobody takes a score on them for one on the real data sets."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

WORLD = "bandstand"  # the folder of a world's notes, in its root
_KNOWN = ("version", "seed")


def mark_of(root: pathlib.Path) -> dict[str, Any]:
    """What `shards.json` says about data below a root: `{"generated": {"world", "version", "seed"}}`, or nothing."""
    path = root / WORLD / "world.json"
    if not path.is_file():
        return {}
    try:
        notes = json.loads(path.read_bytes())
    except (OSError, ValueError):
        notes = None  # a world all the same
    notes = notes if isinstance(notes, Mapping) else {}
    return {"generated": {"world": WORLD} | {name: notes[name] for name in _KNOWN if name in notes}}


def mark_in(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The mark in `shards.json`; None for real data, and for shards that were built before there were marks."""
    found = manifest.get("generated")
    return dict(found) if isinstance(found, Mapping) else None
