"""Trains the tiny tokenizer that ships with the project, on text that the project itself writes.

    python -m crab_jax.assets.train_tokenizer                      # writes crab_jax/assets/tiny_tokenizer.model
    python -m crab_jax.assets.train_tokenizer --out other.model

It has LLaMA-2's settings (identity normaliser, every blank kept, digits apart, bytes for what is unknown, ids 0, 1 and
2 for unknown, begin and end), so all rules of `crab_jax.tokens` hold for it, and it stands in wherever the gated file
is not at hand. The corpus is deterministic: prompts and targets of all tasks in all wordings, all label vocabularies,
numbers, and sentences filled from a few templates. SentencePiece 0.2.0 and 0.2.3 make the same pieces from it.
"""

from __future__ import annotations

import argparse
import io
import itertools
import pathlib
import re
import string
from collections.abc import Iterator

import sentencepiece

from crab_jax import tokens
from crab_jax.tasks import TASKS, Event, Row, Wording
from crab_jax.tasks.base import ORDINALS
from crab_jax.tasks.vocabulary import AVE_EVENTS, AVSS_CLASSES, AVVP_EVENTS, MUSIC_AVQA_ANSWERS

PIECES = 1024
SHIPPED = pathlib.Path(__file__).parent / "tiny_tokenizer.model"

_QUESTIONS = (
    "How many instruments are playing in the video?",
    "How many kinds of instruments are there, and which of them can be heard?",
    "How many {thing}s are there in the entire video?",
    "How many sounding {thing}s are in the video?",
    "Is the {thing} in the video always playing?",
    "Is this sound from the instrument on the {side}?",
    "Is the {thing} on the {side} louder than the {other} on the {far}?",
    "Is the {thing} longer than the {other}?",
    "Is there a voiceover or a person speaking in the video?",
    "Where is the {thing} that sounds first?",
    "Where is the loudest instrument?",
    "What is the {side} instrument of the {ordinal} sounding instrument?",
    "What kind of instrument makes the {ordinal} sound that comes in?",
    "What color is the circle that sounds at the {ordinal} second?",
    "Which instrument makes the sound before the {thing}?",
    "Which is the musical instrument that sounds at the same time as the {thing}?",
    "Which shape moves while the {thing} is silent, and where does it go?",
)
_SENTENCES = (
    "The {thing} on the {side} is playing, and then the {other} on the {far} begins to play.",
    "A {color} {shape} moves from the {side} to the {far} while a {thing} is heard.",
    "In the video we can see a {thing} and a {other}, but only the {thing} makes a sound.",
    "We hear a {thing} from the {ordinal} second to the end; the {other} is silent.",
    "There are two objects: a {color} {shape} and a {thing}. The sound is high and loud.",
    "The {color} {shape} is small and quiet, the {thing} is large and its sound is low.",
    "Someone is speaking near the camera, and a {thing} can be heard in the background.",
    "making the loudest sound",
    "the {color} {shape} that sounds {order} the {thing}",
    "the {thing} on the {side} that is playing",
    "The object that is heard first is the {thing}. It stops when the {other} starts.",
)
_SIDES = ("left", "right", "middle", "top", "bottom", "front", "back")
_COLORS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple", "gray", "brown", "pink")
_SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "bar", "ball", "box")


def corpus() -> Iterator[str]:
    """Lines of text without added or control tokens, always the same."""
    things = [n.replace("_", " ").replace("-", " ") for n in (*MUSIC_AVQA_ANSWERS, *AVSS_CLASSES[1:])]
    pools = {
        "thing": things,
        "other": things[17:] + things[:17],
        "side": _SIDES,
        "far": _SIDES[3:] + _SIDES[:3],
        "color": _COLORS,
        "shape": _SHAPES,
        "ordinal": ORDINALS,
        "order": ("before", "after", "together with"),
    }

    def filled(template: str, turn: int) -> str:
        return template.format(**{name: pool[turn % len(pool)] for name, pool in pools.items()})

    questions = [filled(t, i) for i, t in enumerate(_QUESTIONS * 7)]
    sentences = [filled(t, i) for i, t in enumerate(_SENTENCES * 13)]
    for index, (question, sentence) in enumerate(zip(itertools.cycle(questions), sentences)):
        start, end = index % 9, index % 9 + 1 + index % 2
        row = Row(
            question=question,
            answer=MUSIC_AVQA_ANSWERS[index % len(MUSIC_AVQA_ANSWERS)],
            exp=sentence.rstrip("."),
            events=(Event(AVE_EVENTS[index % len(AVE_EVENTS)], start, end),),
            audio_events=(Event(AVVP_EVENTS[index % len(AVVP_EVENTS)], start, end),),
            visual_events=(Event(AVVP_EVENTS[(index + 7) % len(AVVP_EVENTS)], 0, end),),
            box=(index % 100, index * 7 % 100, 100 + index % 124, 100 + index * 3 % 124),
            label=things[index % len(things)],
            second=index % len(ORDINALS),
            caption=sentence,
            reasoning=sentence,
        )
        for spec in TASKS.values():
            for wording in Wording:
                yield from _plain_lines(tokens.render_chat(spec.prompt(row, wording)))
                yield from _plain_lines(spec.target(row, wording))
    for text in (*questions, *sentences):
        yield from _plain_lines(text)
    for name in (*MUSIC_AVQA_ANSWERS, *AVE_EVENTS, *AVVP_EVENTS, *AVSS_CLASSES):
        # As stored, as one would say it, and in the middle of a sentence.
        yield from (name, name.lower(), name.replace("_", " "), f"the {name.lower().replace('_', ' ')}")
    yield from (f"({n},{223 - n}) ({n % 10} {n % 11})" for n in range(224))
    # Every character of ASCII becomes a piece, so that bytes are left to other scripts and to line breaks.
    yield " ".join(c for c in string.printable if not c.isspace())


def _plain_lines(text: str) -> Iterator[str]:
    """What SentencePiece gets to see of a text: the stretches between tokens that it never sees, line by line."""
    for part in re.split("|".join(map(re.escape, (*tokens.ADDED_TOKENS, *tokens.CONTROL_TOKENS))), text):
        yield from (line for line in part.split("\n") if line.strip())


def train() -> bytes:
    """The serialised model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        byte_fallback=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,  # so that two runs agree
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    """Trains and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=SHIPPED, help="file to write")
    parser.parse_args().out.write_bytes(train())


if __name__ == "__main__":
    main()
