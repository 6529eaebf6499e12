"""What counts as right: one dataclass for each kind of answer, and one for what could not be read. No jax here."""

from __future__ import annotations

import dataclasses
from typing import Any

from crab_jax import tokens


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happens in `[start_s, end_s)`, in seconds from the beginning."""

    name: str
    start_s: int
    end_s: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The answer to a question, in lower case."""

    answer: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"kind": "choice", "answer": self.answer}


@dataclasses.dataclass(frozen=True)
class Events:
    """What is heard and seen, and when. `ignored` says what else stood in the text and why it does not count."""

    events: tuple[Event, ...]
    ignored: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"kind": "events", "events": [e.to_json() for e in self.events], "ignored": list(self.ignored)}


@dataclasses.dataclass(frozen=True)
class AudioVisualEvents:
    """What is heard and what is seen, each with its own times. `ignored` as in `Events`."""

    audio: tuple[Event, ...]
    visual: tuple[Event, ...]
    ignored: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "kind": "audio_visual_events",
            "audio": [e.to_json() for e in self.audio],
            "visual": [e.to_json() for e in self.visual],
            "ignored": list(self.ignored),
        }


BOX_GRID = 224  # boxes are in pixels of the image squashed to this size


@dataclasses.dataclass(frozen=True)
class Box:
    """Where something is, in pixels 0 … 223 of the squashed image; `(x1, y1)` is the upper left corner."""

    x1: int
    y1: int
    x2: int
    y2: int
    label: str | None = None

    @classmethod
    def spanned(cls, x1: int, y1: int, x2: int, y2: int, *, label: str | None = None) -> Box:
        """The box between two opposite corners, clipped to the grid.

        Corners given in another order than upper left, lower right are sorted: two opposite corners name the same
        rectangle in any order, and without sorting its area would be negative.

        Source: specification 10.5; the order of corners is silent there.
        """
        x1, y1, x2, y2 = (min(max(v, 0), BOX_GRID - 1) for v in (x1, y1, x2, y2))
        return cls(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2), label)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"kind": "box", **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class MaskTokens:
    """Six mask tokens were emitted, so there is a mask.

    Attributes:
        order: numbers of the last six mask tokens as they came; the mask decoder uses the last six.
        emitted: how many mask tokens came in all.
        text: what was said before them. It depends on the wording and is not part of what counts as right.

    Source: specification 7.7, Q-12.
    """

    order: tuple[int, ...]
    emitted: int
    text: str = dataclasses.field(default="", compare=False)

    @property
    def in_order(self) -> bool:
        """Whether they came as `<mask_0>` … `<mask_5>`; the reference does not look."""
        return self.order == tuple(range(len(tokens.MASK_TAGS)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        order = list(self.order)
        return {"kind": "mask", "order": order, "emitted": self.emitted, "in_order": self.in_order, "text": self.text}


@dataclasses.dataclass(frozen=True)
class Caption:
    """A description."""

    text: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"kind": "caption", "text": self.text}


@dataclasses.dataclass(frozen=True)
class Unparsed:
    """A prediction that the parser could not read. It is data, not an error: it scores zero and is counted."""

    text: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"kind": "unparsed", "text": self.text, "reason": self.reason}


Answer = Choice | Events | AudioVisualEvents | Box | MaskTokens | Caption
