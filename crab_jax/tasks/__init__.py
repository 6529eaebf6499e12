"""The nine tasks, and the four of pretraining. A new one is one file and one line here."""

from __future__ import annotations

from crab_jax.tasks import (
    arig,
    avcap,
    ave,
    avqa,
    avss,
    avvp,
    ms3,
    pretrain_audio,
    pretrain_image,
    pretrain_seg,
    pretrain_video,
    ref_avs,
    s4,
)
from crab_jax.tasks.answers import Answer, AudioVisualEvents, Box, Caption, Choice, Event, Events, MaskTokens, Unparsed
from crab_jax.tasks.base import AudioRule, Media, Row, RowError, TaskSpec, Wording

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
# What the parts are trained on before they meet (specification 1.3); no one asks a trained model these.
PRETRAINING: dict[str, TaskSpec] = {
    "pretrain-image": pretrain_image.SPEC,
    "pretrain-video": pretrain_video.SPEC,
    "pretrain-audio": pretrain_audio.SPEC,
    "pretrain-seg": pretrain_seg.SPEC,
}
ALL: dict[str, TaskSpec] = TASKS | PRETRAINING

__all__ = [
    "ALL",
    "PRETRAINING",
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
