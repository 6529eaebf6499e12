"""The 17 added tokens, and the strings that mean something to the model: what a person may type, what media stand for.

No jax and no tokenizer here.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence

IMAGE, VIDEO, AUDIO = MEDIA_TAGS = ("<image>", "<video>", "<audio>")  # replaced by features
MASK_TAGS = tuple(f"<mask_{k}>" for k in range(6))  # each is predicted by the state that prompts one mask vector
MASK_RUN = f"<mask_start>{''.join(MASK_TAGS)}<mask_end>"
ADDED_TOKENS = (
    "<image>", "<image_start>", "<image_end>",
    "<video>", "<video_start>", "<video_end>",
    "<audio>", "<audio_start>", "<audio_end>",
    "<mask_start>", "<mask_end>", *MASK_TAGS,
)  # fmt: skip
CONTROL_TOKENS = ("<unk>", "<s>", "</s>")
# Words of the chat template. For the tokenizer they are ordinary text, but typed by a person they would close the
# instruction or open a second system message; LLaMA-2's own chat code refuses them for that reason, and so do we.
CHAT_MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")

# Case is ignored because some templates lower-case what they are given: `<VIDEO>` would come out as `<video>`.
_RESERVED = re.compile("|".join(map(re.escape, (*CONTROL_TOKENS, *ADDED_TOKENS, *CHAT_MARKS))), re.IGNORECASE)
SURROGATE = re.compile("[\ud800-\udfff]")


class PlaceholderError(ValueError):
    """Media tags of a text and the media given for them do not agree; the message names the tag."""


class UserTextError(ValueError):
    """Text typed by a person contains a string that means something to the model.

    Attributes:
        token: the string as typed.
        position: its first character in the text, counted from 0.
    """

    def __init__(self, message: str, *, token: str, position: int):
        super().__init__(message)
        self.token = token
        self.position = position


def check_user_text(text: str, *, field: str = "text") -> None:
    """Refuses text in which a person typed an added token, a control token or a mark of the chat template.

    Args:
        text: what the person typed.
        field: what to call it in the message, for example `question`.

    Raises:
        UserTextError: naming the string and its position; also for half of a surrogate pair, which is no character.
    """
    if found := _RESERVED.search(text):
        raise UserTextError(
            f"{field}: {found[0]!r} at character {found.start()} has a meaning for the model and cannot be part of "
            "what a person types; leave it out or write it differently",
            token=found[0],
            position=found.start(),
        )
    if found := SURROGATE.search(text):
        raise UserTextError(
            f"{field}: half of a surrogate pair (U+{ord(found[0]):04X}) at character {found.start()}; the text was "
            "decoded wrongly",
            token=found[0],
            position=found.start(),
        )


def expand_placeholders(
    ids: Iterable[int], slots: Mapping[str, int | Sequence[int]], tags: Mapping[str, int]
) -> list[int]:
    """`Tokenizer.expand` without a tokenizer.

    Args:
        ids: as there, like `slots`.
        tags: the id of each of `MEDIA_TAGS`.

    Raises:
        PlaceholderError: as there.
    """
    ids = list(ids)
    if unknown := sorted(set(slots) - set(MEDIA_TAGS)):
        raise PlaceholderError(f"{unknown[0]}: no media tag; the tags are {', '.join(MEDIA_TAGS)}")
    counts: dict[int, list[int]] = {}
    for tag in MEDIA_TAGS:
        found = ids.count(tags[tag])
        if tag not in slots:
            if found:
                raise PlaceholderError(f"{tag}: occurs {found} times in the text, but no media were given for it")
            continue
        given = slots[tag]
        listed = isinstance(given, Sequence)
        rows = [operator.index(n) for n in given] if listed else [operator.index(given)] * found
        if not found and (rows or not listed):
            raise PlaceholderError(f"{tag}: media were given for it, but the text does not contain it")
        if len(rows) != found:
            raise PlaceholderError(f"{tag}: occurs {found} times in the text, but {len(rows)} numbers were given")
        if any(n < 1 for n in rows):
            raise PlaceholderError(f"{tag}: cannot stand for {min(rows)} feature rows")
        counts[tags[tag]] = rows[::-1]
    expanded: list[int] = []
    for i in ids:
        expanded.extend([i] * (counts[i].pop() if i in counts else 1))
    return expanded
