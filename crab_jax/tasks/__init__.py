"""The nine tasks. A new one is one file and one line here."""

from __future__ import annotations

from crab_jax.tasks import arig, avcap, ave, avqa, avss, avvp, ms3, ref_avs, s4
from crab_jax.tasks.base import (
    Answer,
    AudioRule,
    AudioVisualEvents,
    Box,
    Caption,
    Choice,
    Event,
    Events,
    MaskTokens,
    Media,
    Row,
    RowError,
    TaskSpec,
    Unparsed,
    Wording,
)

# In the order in which the reference joins its data sets (specification 9.1).
TASKS: dict[str, TaskSpec] = {
    "avqa": avqa.SPEC,
    "ave": ave.SPEC,
    "avvp": avvp.SPEC,
    "ms3": ms3.SPEC,
    "s4": s4.SPEC,
    "avss": avss.SPEC,
    "ref-avs": ref_avs.SPEC,
    "arig": arig.SPEC,
    "avcap": avcap.SPEC,
}

__all__ = [
    "TASKS",
    "Answer",
    "AudioRule",
    "AudioVisualEvents",
    "Box",
    "Caption",
    "Choice",
    "Event",
    "Events",
    "MaskTokens",
    "Media",
    "Row",
    "RowError",
    "TaskSpec",
    "Unparsed",
    "Wording",
]
