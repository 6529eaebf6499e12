"""What every task consists of: rows, media, and the table entry that ties them together. No jax here.

A task is one file with one `TaskSpec`. Its parts obey one law: `parse(target(row, wording)) == answer(row)`.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import string
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from crab_jax import tokens
from crab_jax.tasks.answers import Answer, Event, Unparsed

if TYPE_CHECKING:
    from crab_jax.tasks.clips import Clip, Reject


class Wording(enum.Enum):
    """Which of the reference's three ways of asking is used; they differ in prompts and in media (Q-22)."""

    QUICK_START = "quick-start"  # what the published weights most probably expect
    RELEASE_TRAIN = "release-train"
    RELEASE_TEST = "release-test"


class RowError(ValueError):
    """A row lacks a field that its task needs, or a field cannot be part of a target; the message names the field."""


# ---------------------------------------------------------------------------------------------------------- media


class AudioRule(enum.StrEnum):
    """Which windows of the sound are heard. A nominal second is 1/`seconds` of the file (4.2)."""

    EACH_SECOND = "each_second"  # [j, j + 1) for every second j
    SIX_SECOND_GRID = "six_second_grid"  # [t - 0.5, t + 1.5) for t = 0, 6, 12, …
    ONE_SECOND_OF_IMAGE = "one_second_of_image"  # [j, j + 1), j the number that names the image file
    WHOLE_SECONDS = "whole_seconds"  # [j, j + 1) in real seconds, as many as there are; a begun one is filled up


@dataclasses.dataclass(frozen=True, kw_only=True)
class Media:
    """What a sample shows and plays.

    Attributes:
        audio: which windows of the sound are heard; None where there is no sound.
        seconds: nominal length of the sound; None without sound, and where seconds are real ones (`WHOLE_SECONDS`).
        frames: pictures of the video, spread over a video file, or all pictures of a folder; 0 if there is no video.
            A video shorter than this gives what it has.
        image: whether a single image is looked at. The mask decoder always works on it, even where no `<image>` stands
            in the prompt.

    Source: specification 4.2 and 9.3.
    """

    audio: AudioRule | None = None
    seconds: int | None = None
    frames: int = 0
    image: bool = False

    def __post_init__(self):
        counted = self.audio not in (None, AudioRule.WHOLE_SECONDS)
        assert counted == (self.seconds is not None), f"{self.audio}: {self.seconds} nominal seconds"

    @property
    def windows(self) -> int | None:
        """Audio windows of a sample; None where their number depends on how long the sound is."""
        match self.audio:
            case None:
                return 0
            case AudioRule.WHOLE_SECONDS:
                return None
            case AudioRule.EACH_SECOND:
                return self.seconds
            case AudioRule.SIX_SECOND_GRID:
                return len(range(0, self.seconds, 6))
            case AudioRule.ONE_SECOND_OF_IMAGE:
                return 1

    @property
    def window_seconds(self) -> int:
        """Length of one window, in nominal seconds (real ones for `WHOLE_SECONDS`)."""
        return 2 if self.audio is AudioRule.SIX_SECOND_GRID else 1

    @property
    def needs_second(self) -> bool:
        """Whether the sample has to say which second it is about."""
        return self.audio is AudioRule.ONE_SECOND_OF_IMAGE


# ------------------------------------------------------------------------------------------------------------ rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One question with what is known about its answer. A task reads the fields it needs; prompts need few of them.

    Attributes:
        question: avqa, pretrain-image, pretrain-video.
        answer: avqa, as in its vocabulary.
        exp: ref-avs, the expression that refers to an object.
        events: ave.
        audio_events, visual_events: avvp.
        box: arig, `(x1, y1, x2, y2)` in the 224 grid.
        label: arig, s4, ms3, avss, ref-avs, pretrain-seg: name of the object.
        definition: pretrain-seg, what this name means.
        second: arig, s4, ms3, avss, ref-avs: the second that is asked about, counted from 0.
        caption: avcap and the captions of pretraining.
        reasoning: avqa, ave, avvp: what is said before the clause with the answer.
        label_text: avqa, ave, avvp: the whole target as a data set stores it, instead of `reasoning` and our clause.
    """

    question: str = ""
    answer: str = ""
    exp: str = ""
    events: tuple[Event, ...] = ()
    audio_events: tuple[Event, ...] = ()
    visual_events: tuple[Event, ...] = ()
    box: tuple[int, int, int, int] | None = None
    label: str = ""
    definition: str = ""
    second: int | None = None
    caption: str = ""
    reasoning: str = ""
    label_text: str = ""


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def words(row: Row, field: str) -> str:
    """A text field of a row, fit to stand in a prompt or a target.

    Raises:
        RowError: the field is empty or blank.
        crab_jax.tokens.UserTextError: it contains a string that means something to the model.
    """
    text = getattr(row, field)
    if not text.strip():
        raise RowError(f"{field}: missing or blank, but this text needs it")
    tokens.check_user_text(text, field=field)
    return text


def _ordinal(row: Row) -> str:
    if row.second is None:
        raise RowError("second: missing, but this text asks about one second of the video")
    if not 0 <= row.second < len(ORDINALS):
        raise RowError(f"second: {row.second} is not in 0 … {len(ORDINALS) - 1}")
    return ORDINALS[row.second]


def _corner(index: int) -> Callable[[Row], str]:
    def value(row: Row) -> str:
        if row.box is None:
            raise RowError("box: missing, but this text gives coordinates")
        return str(row.box[index])

    return value


# Slot of a format constant → (field of the row, its text)
SLOTS: Mapping[str, tuple[str, Callable[[Row], str]]] = {
    "question": ("question", lambda row: words(row, "question")),
    "answer": ("answer", lambda row: words(row, "answer")),
    "exp": ("exp", lambda row: words(row, "exp")),
    "exp_lowercase": ("exp", lambda row: words(row, "exp").lower()),
    "a_obj": ("label", lambda row: words(row, "label")),
    "obj": ("label", lambda row: words(row, "label")),
    "name": ("label", lambda row: words(row, "label")),
    "def": ("definition", lambda row: words(row, "definition")),
    "desc": ("caption", lambda row: words(row, "caption")),
    "ordinal": ("second", _ordinal),
    **{name: ("box", _corner(i)) for i, name in enumerate(("x1", "y1", "x2", "y2"))},
}


def slots_of(template: str) -> tuple[str, ...]:
    """Names in curly braces."""
    return tuple(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)


def fill(template: str, row: Row) -> str:
    """Fills the slots of a format constant from a row; braces in the row's own text stay what they are.

    Raises:
        RowError: a field that the template needs is missing.
        crab_jax.tokens.UserTextError: a text of the row contains a string that means something to the model.
    """
    return template.format(**{name: SLOTS[name][1](row) for name in slots_of(template)})


# ------------------------------------------------------------------------------------------------------------ tasks

# Beginnings of every instruction: which media there are, and where their features go.
VIDEO = "This is a video:\n<video_start><video><video_end>\n"
AUDIO = "This is an audio:\n<audio_start><audio><audio_end>\n"
IMAGE = "This is an image:\n<image_start><image><image_end>\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task. `parse(target(row, wording)) == answer(row)` for every wording and row without a stored target.

    Attributes:
        name: as in sample files, for example `ref-avs`.
        about: one line for people.
        instruction: the format constants of the prompts.
        media: what is shown and played.
        compose: row, wording → the training target; `target` checks what it returns.
        answer: row → what counts as right.
        parse: text → the answer in it. Accepts any string and never raises.
        max_new_tokens: limit of an answer; the reference sets none for avss (Q-5).
        needs_masks: whether the answer is a mask, made from the states of the six mask tokens.
        semantic: whether this mask holds class ids instead of foreground.
        target_end: what ends a training target; the pretraining stages put a blank before `</s>` (7.3).
        clips: root of the data set, split → what its annotation files hold, in a fixed order. Whatever cannot be used
            comes as a `Reject`; `AnnotationError` for a file that is missing or cannot be read at all.
        splits: the splits that `clips` knows.
        layout: the files below the root, one per line, for messages and docs/data.md.
        reasoning: whether targets of avqa, ave and avvp say what leads to the answer; without, they are its clause.
    """

    name: str
    about: str
    instruction: Mapping[Wording, str]
    media: Mapping[Wording, Media]
    compose: Callable[[Row, Wording], str]
    answer: Callable[[Row], Answer]
    parse: Callable[[str], Answer | Unparsed]
    max_new_tokens: int
    clips: Callable[[pathlib.Path, str], Iterator[Clip | Reject]]
    splits: tuple[str, ...]
    layout: str
    needs_masks: bool = False
    semantic: bool = False
    target_end: tokens.TargetSuffix = tokens.TargetSuffix.FINETUNE
    reasoning: bool = True

    def __post_init__(self):
        for table in (self.instruction, self.media):
            assert set(table) == set(Wording), f"{self.name}: each wording needs an entry"

    def prompt(self, row: Row, wording: Wording = Wording.QUICK_START) -> str:
        """The instruction for one row, before the chat template.

        Raises:
            RowError: a field that the instruction needs is missing.
            crab_jax.tokens.UserTextError: question or expression contains a string that means something to the model.
        """
        return fill(self.instruction[wording], row)

    def target(self, row: Row, wording: Wording = Wording.QUICK_START) -> str:
        """The training target of one row, without its end token.

        Raises:
            RowError: a field that the target needs is missing, or the answer could not be read back from the target
                (an object called `x. Its coordinate`, say).
            crab_jax.tokens.UserTextError: a text of the row contains a string that means something to the model (Q-34).
        """
        if not self.reasoning:
            row = dataclasses.replace(row, reasoning="", label_text="")
        text = self.compose(row, wording)
        if not row.label_text and (read := self.parse(text)) != (answer := self.answer(row)):
            raise RowError(f"{self.name}: {answer} would be read back from {text!r} as {read}")
        return text

    def needs(self, wording: Wording) -> frozenset[str]:
        """Fields of a row without which there is no prompt or no sound window: `question`, `exp`, `second`."""
        fields = {SLOTS[name][0] for name in slots_of(self.instruction[wording])}
        return frozenset(fields | ({"second"} if self.media[wording].needs_second else set()))

    def tags(self, wording: Wording) -> tuple[str, ...]:
        """Media tags in the order in which they stand in the prompt, for example `("<video>", "<audio>")`."""
        text = self.instruction[wording]
        return tuple(sorted((t for t in tokens.MEDIA_TAGS if t in text), key=text.index))
