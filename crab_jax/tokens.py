"""Text and token ids: tokenizer, chat template, the 17 added tokens, placeholder expansion. No jax here.

Trusted text (templates, targets) goes through `Tokenizer.encode`, which knows the added tokens. Text that a person
typed is checked with `check_user_text` before it is put into a template: a typed `<video>` is refused, never expanded.
"""

from __future__ import annotations

import enum
import operator
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from crab_jax.added_tokens import (
    ADDED_TOKENS,
    AUDIO,
    CHAT_MARKS,
    CONTROL_TOKENS,
    IMAGE,
    MASK_RUN,
    MASK_TAGS,
    MEDIA_TAGS,
    SURROGATE,
    VIDEO,
    PlaceholderError,
    UserTextError,
    check_user_text,
    expand_placeholders,
)
from crab_jax.batch import TokenIds

if TYPE_CHECKING:
    import sentencepiece

__all__ = [
    "ADDED_TOKENS", "AUDIO", "CHAT_MARKS", "CONTROL_TOKENS", "IMAGE", "MASK_RUN", "MASK_TAGS", "MEDIA_TAGS", "SYSTEM",
    "VIDEO", "PlaceholderError", "TargetSuffix", "Tokenizer", "TokenizerError", "UserTextError", "build_prompt",
    "check_user_text", "expand_placeholders", "render_chat",
]  # fmt: skip

SYSTEM = "You are a helpful assistant."

_WORD_START = "▁"  # U+2581, how SentencePiece writes a blank
_SPECIAL = frozenset({*CONTROL_TOKENS, *(t for t in ADDED_TOKENS if t not in MASK_TAGS)})  # all but the six masks
_ANY_TOKEN = re.compile("({})".format("|".join(map(re.escape, (*CONTROL_TOKENS, *ADDED_TOKENS)))))
_LARGEST_FILE = 64 * 2**20  # bytes; LLaMA-2's file has half a million
# ModelProto.normalizer_spec.add_dummy_prefix = false, serialised. A message that occurs twice in a protocol buffer is
# merged, so appending these four bytes switches the option off without a protocol-buffer library.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class TokenizerError(ValueError):
    """A tokenizer file or an id that cannot be used; the message says what was expected and what was found."""


class TargetSuffix(enum.Enum):
    """What ends a training target. The blank of the pretraining stages makes an extra word-start piece (7.3)."""

    FINETUNE = "</s>"
    PRETRAIN = " </s>"


def render_chat(instruction: str, *, system: str = SYSTEM) -> str:
    """The prompt text of one instruction.

    The system block is prepended before white space is stripped, so the instruction loses trailing white space only.

    Source: specification 7.3, Llama-2-chat's template.
    """
    content = f"<<SYS>>\n{system}\n<</SYS>>\n\n{instruction}"
    return f"<s>[INST] {content.strip()} [/INST]"


class Tokenizer:
    """LLaMA-2's SentencePiece tokenizer with the 17 added tokens behind its own pieces.

    Attributes:
        base: pieces of the SentencePiece model; the added tokens have ids `base … base + 16`.
        size: rows that the embedding must have, `base + 17`.
        unk, bos, eos: ids read from the model.
        pad: `eos`, because the official files have no padding token.
        model: the serialised SentencePiece model, as read.

    Source: specification 7.2.
    """

    def __init__(self, model: bytes, *, base_vocabulary: int | None, source: str = "tokenizer model"):
        """Reads a serialised SentencePiece model; see `load`."""
        self.model = model
        self._expected = base_vocabulary
        self._source = source
        pieces = _check_model(model, source)
        self._sp = _processor(model + _NO_DUMMY_PREFIX, source)
        if self._sp.normalize("a  b ") != "a▁▁b▁":
            raise TokenizerError(
                f"{source}: changes blanks ('a  b ' becomes {self._sp.normalize('a  b ')!r}); LLaMA's model keeps "
                "every character, so this file is cut short or belongs to another model"
            )
        self.base = len(pieces)
        if base_vocabulary is not None and self.base != base_vocabulary:
            raise TokenizerError(
                f"{source}: {self.base} pieces, but the weights were trained behind {base_vocabulary}. Mirrors of the "
                "model that add a piece of their own (mostly <pad>) shift the id of each added token, so that <video> "
                "would look up another token's row. Take tokenizer.model from the model that the weights were trained "
                "with (meta-llama/Llama-2-7b-chat-hf for the published ones)"
            )
        self.size = self.base + len(ADDED_TOKENS)
        self.unk, self.bos, self.eos = self._sp.unk_id(), self._sp.bos_id(), self._sp.eos_id()
        self.pad = self.eos
        controls = dict(zip(CONTROL_TOKENS, (self.unk, self.bos, self.eos)))
        self._ids = controls | {t: self.base + i for i, t in enumerate(ADDED_TOKENS)}
        self._names = [*pieces, *ADDED_TOKENS]
        for token, i in controls.items():
            self._names[i] = token  # what the chat template calls it, should the model use another name
        self._special_ids = frozenset(self._ids[t] for t in _SPECIAL)
        self.token_ids = TokenIds(
            visual=(self._ids[IMAGE], self._ids[VIDEO]),
            audio=self._ids[AUDIO],
            masks=tuple(self._ids[t] for t in MASK_TAGS),
            pad=self.pad,
            eos=self.eos,
        )

    @classmethod
    def load(cls, path: str | pathlib.Path, *, base_vocabulary: int | None) -> Tokenizer:
        """Reads `tokenizer.model`.

        Args:
            path: the file, or a folder that holds it under this name.
            base_vocabulary: how many rows the weights have before the added ones, 32000 for the published weights; None
                accepts any number.

        Raises:
            TokenizerError: no such file, not a SentencePiece model, one without unknown, begin and end of sentence, or
                one with another number of pieces than the weights expect.
        """
        path = pathlib.Path(path)
        file = path / "tokenizer.model" if path.is_dir() else path
        try:
            size = file.stat().st_size
            if not file.is_file() or size > _LARGEST_FILE:
                raise TokenizerError(f"{file}: not a file of at most {_LARGEST_FILE >> 20} MiB, so no tokenizer.model")
            model = file.read_bytes()
        except FileNotFoundError:
            raise TokenizerError(f"{file}: no such file; expected LLaMA-2's tokenizer.model") from None
        except OSError as error:
            raise TokenizerError(f"{file}: cannot be read: {error.strerror}") from error
        return cls(model, base_vocabulary=base_vocabulary, source=str(file))

    @classmethod
    def tiny(cls) -> Tokenizer:
        """The small tokenizer that ships with the project (`crab_jax/assets/train_tokenizer.py` made it)."""
        return cls.load(pathlib.Path(__file__).parent / "assets" / "tiny_tokenizer.model", base_vocabulary=None)

    def __reduce__(self):
        return _rebuild, (self.model, self._expected, self._source)

    def __repr__(self) -> str:
        return f"Tokenizer({self._source!r}, {self.base} + {len(ADDED_TOKENS)} tokens)"

    def id(self, token: str) -> int:
        """The id of an added or control token, for example `<video>` or `</s>`."""
        return self._ids[token]

    # ------------------------------------------------------------------------------------------------ text → ids

    def tokenize(self, text: str) -> list[str]:
        """Pieces of trusted text, by the non-legacy rules.

        The text is split at added and control tokens, without stripping blanks around them. One word-start mark is put
        before the whole text, and taken away again if it ends up alone before a special token; no later chunk gets one.

        Raises:
            TokenizerError: half of a surrogate pair, which has no UTF-8 form.

        Source: specification 7.2, rules 1 to 5.
        """
        if not text:
            return []
        pieces: list[str] = []
        for chunk in _ANY_TOKEN.split(_WORD_START + text.replace(_WORD_START, " ")):
            if chunk in self._ids:
                pieces.append(chunk)
            elif chunk:
                pieces.extend(self._split(chunk))
        if len(pieces) > 1 and pieces[0] == _WORD_START and pieces[1] in _SPECIAL:
            del pieces[0]
        return pieces

    def encode(self, text: str) -> list[int]:
        """Ids of trusted text: added and control tokens in it become their ids; nothing is added at either end.

        Raises:
            TokenizerError: half of a surrogate pair.
        """
        return [self._ids[p] if p in self._ids else self._sp.piece_to_id(p) for p in self.tokenize(text)]

    def encode_target(self, text: str, *, suffix: TargetSuffix = TargetSuffix.FINETUNE) -> list[int]:
        """Ids of a training target, tokenised on its own, so that its first word carries a word-start mark.

        Raises:
            PlaceholderError: the target holds a media tag, which the sequence builder would replace by features, or a
                control token, which would end the answer early.

        Source: specification 7.2 rule 5, 7.3, Q-34.
        """
        for token in (*MEDIA_TAGS, *CONTROL_TOKENS):
            if token in text:
                place = text.index(token)
                raise PlaceholderError(f"target: {token} at character {place} is no word of an answer: {text!r}")
        return self.encode(text + suffix.value)

    def _split(self, chunk: str) -> list[str]:
        if found := SURROGATE.search(chunk):
            raise TokenizerError(f"half of a surrogate pair (U+{ord(found[0]):04X}) in the text {chunk!r}")
        return self._sp.encode(chunk, out_type=str)

    # ------------------------------------------------------------------------------------------------ ids → text

    def decode(self, ids: Iterable[int], *, skip_special: bool) -> str:
        """Text with a blank around each added token, as transformers 4.37.2 writes it; for comparison with its logs.

        Args:
            ids: any ids below `size`.
            skip_special: leave out `<unk>`, `<s>`, `</s>` and the first eleven added tokens. The six `<mask_k>` stay.

        Raises:
            TokenizerError: an id outside the vocabulary.

        Source: specification 7.2; recorded case c07a.
        """
        parts: list[str] = []
        run: list[str] = []

        def close() -> None:
            if run and (text := self._join(run)):
                parts.append(text)
            run.clear()

        for i in map(operator.index, ids):
            if not 0 <= i < self.size:
                raise TokenizerError(f"id {i}: the vocabulary has {self.size}; do tokenizer and weights match?")
            if skip_special and i in self._special_ids:
                continue
            if i >= self.base:
                close()
                parts.append(self._names[i])
            else:
                run.append(self._names[i])
        if run:
            parts.append(self._join(run))  # the last run counts even if it is empty, unlike those before a token
        return " ".join(parts)

    def decode_plain(self, ids: Iterable[int]) -> str:
        """The answer in `ids`, to show or to parse: `decode_plain(encode_target(text)) == text`.

        Stops at the first `</s>`. Begin of sentence, unknown and the nine media tokens are left out; `<mask_start>`,
        `<mask_k>` and `<mask_end>` stay, without blanks around them. Any integer is accepted: an id outside the
        vocabulary (a head with padded rows can emit one) and bytes that form no character show as U+FFFD, so that one
        bad token neither stops a batch nor goes unseen.
        """
        text: list[str] = []
        run: list[str] = []

        def close() -> None:
            if run:
                text.append(self._sp.decode(run))
            run.clear()

        first = True
        for i in map(operator.index, ids):
            if i == self.eos:
                break
            name = self._names[i] if 0 <= i < self.size else "\ufffd"
            if i in self._special_ids and name not in ("<mask_start>", "<mask_end>"):
                continue
            if first and name.startswith(_WORD_START):
                name = name[1:]
            first = False
            if 0 <= i < self.base:
                run.append(name)
            else:
                close()
                text.append(name)
        close()
        return "".join(text)

    def _join(self, pieces: Sequence[str]) -> str:
        """Pieces of the base vocabulary as text; control tokens stay visible, without blanks."""
        pieces = [pieces[0].removeprefix(_WORD_START), *pieces[1:]]
        text, run = "", []
        for piece in pieces:
            if piece in CONTROL_TOKENS:
                text += (self._sp.decode(run) if run else "") + piece
                run = []
            else:
                run.append(piece)
        return text + (self._sp.decode(run) if run else "")

    # ------------------------------------------------------------------------------------------------ sequences

    def expand(self, ids: Iterable[int], slots: Mapping[str, int | Sequence[int]]) -> list[int]:
        """Replaces each media id by as many copies of itself as it stands for features.

        Args:
            ids: a prompt, or a prompt and its target.
            slots: `<image>`, `<video>` or `<audio>` → its number of feature rows (32 for each frame or window of the
                published model). One integer holds for every occurrence of the tag, because the same media stands
                behind each of them; a list gives one number per occurrence.

        Returns:
            The ids; their number is `len(ids) - #tags + Σ rows`.

        Raises:
            PlaceholderError: a tag without media, media without a tag, another number of occurrences than numbers, or
                a number below one.

        Source: specification 7.4.
        """
        return expand_placeholders(ids, slots, {tag: self._ids[tag] for tag in MEDIA_TAGS})

    def mask_positions(self, ids: Sequence[int]) -> list[int]:
        """Positions whose state predicts a `<mask_k>`: the one before each of them, in order of occurrence.

        Args:
            ids: expanded ids of prompt and target.

        Raises:
            PlaceholderError: the sequence begins with a mask token, which nothing predicts.

        Source: specification 7.6.
        """
        masks = frozenset(self.token_ids.masks)
        positions = [p - 1 for p, i in enumerate(ids) if i in masks]
        if positions and positions[0] < 0:
            raise PlaceholderError(f"{self._names[ids[0]]}: at position 0 there is no state that predicts it")
        return positions


def build_prompt(tokenizer: Tokenizer, instruction: str, *, system: str = SYSTEM) -> list[int]:
    """Ids of the chat prompt of one instruction, media tags not yet expanded.

    The instruction is trusted: `TaskSpec.prompt` has checked what a person contributed to it.

    With LLaMA-2's own file the prompt begins, up to the blank line that closes the system block, with
    `[1, 29961, 25580, 29962, 3532, 14816, 29903, 6778, 13, 3492, 526, 263, 8444, 20255, 29889, 13, 29966, 829, 14816,
    29903, 6778, 13, 13]` (specification 7.2; `tests/test_tokens.py` compares where that file is at hand).
    """
    return tokenizer.encode(render_chat(instruction, system=system))


def _rebuild(model: bytes, base_vocabulary: int | None, source: str) -> Tokenizer:
    return Tokenizer(model, base_vocabulary=base_vocabulary, source=source)


def _processor(model: bytes, source: str) -> sentencepiece.SentencePieceProcessor:
    import sentencepiece  # only where a model is read: tasks and metrics want this module's text, not its tokenizer

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{source}: {_what_it_is(model)}; expected a SentencePiece tokenizer.model") from error
    return processor


def _check_model(model: bytes, source: str) -> list[str]:
    """The pieces of a usable model."""
    if not model:
        raise TokenizerError(f"{source}: empty file; expected a SentencePiece tokenizer.model")
    sp = _processor(model, source)
    absent = [t for t, i in zip(CONTROL_TOKENS, (sp.unk_id(), sp.bos_id(), sp.eos_id())) if i < 0]
    if absent:
        raise TokenizerError(f"{source}: the model has no {' and no '.join(absent)}, which LLaMA's tokenizer has")
    try:
        pieces = [sp.id_to_piece(i) for i in range(sp.vocab_size())]
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{source}: a piece is not UTF-8, the file is damaged") from error
    if taken := sorted(set(pieces) & set(ADDED_TOKENS)):
        raise TokenizerError(f"{source}: already has a piece {taken[0]}; the added tokens must be new")
    return pieces


def _what_it_is(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (git lfs pull)"
    if head.lstrip()[:1] in (b"{", b"["):
        return "a JSON file (tokenizer.json is another format)"
    if head.lstrip()[:1] == b"<":
        return "a web page"
    return "not a SentencePiece model, or cut short"
