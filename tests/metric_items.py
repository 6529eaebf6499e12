"""Items for every metric: right, half right, wrong, empty and unparsed ones."""

import numpy as np

from crab_jax.metrics import Item
from crab_jax.tasks import AudioVisualEvents, Box, Caption, Choice, Event, Events, MaskTokens, Unparsed

MASK = MaskTokens(order=(0, 1, 2, 3, 4, 5), emitted=6)
NOTHING = Unparsed("hm", "no tag")


def choices():
    kinds = [("Audio", "Counting"), ("Visual", "Location"), ("Audio-Visual", "Temporal"), ("Smell",), ()]
    answers = ["two", "yes", "two hundred", "more than ten"]
    said = [Choice(a) for a in answers] + [NOTHING]
    return [
        Item(id=f"q{i}", truth=Choice(answers[i % 4]), prediction=said[i * 3 % 5], kind=kinds[i % 5]) for i in range(12)
    ]


def events():
    truth = [(Event("Bark", i % 4, 5 + i % 5),) for i in range(8)]
    said = [(Event("Bark", 2, 6),), (Event("Bus", 0, 10), Event("Bark", 3, 4)), None, (Event("Bark", 9, 30),)]
    return [
        Item(id=f"e{i}", truth=Events(t), prediction=NOTHING if said[i % 4] is None else Events(said[i % 4]))
        for i, t in enumerate(truth)
    ]


def parsing():
    truth = AudioVisualEvents((Event("Speech", 0, 7), Event("Car", 1, 2)), (Event("Car", 0, 3),))
    said = [
        truth,
        AudioVisualEvents((), ()),
        AudioVisualEvents((Event("Speech", 3, 10),), (Event("Car", 1, 3), Event("Dog", 0, 1))),
        NOTHING,
    ]
    return [
        Item(id=f"v{i}", truth=truth if i % 3 else AudioVisualEvents((), ()), prediction=said[i % 4]) for i in range(9)
    ]


def boxes():
    said = [Box(10, 10, 50, 60), Box(0, 0, 223, 223), NOTHING, Box(11, 13, 47, 61), Box(7, 7, 7, 7)]
    return [Item(id=f"b{i}", truth=Box(10, 10, 50 + i, 60), prediction=said[i % 5]) for i in range(10)]


def binary():
    items = []
    for i in range(10):
        rng = np.random.default_rng(i)
        truth = rng.random((9, 7)) < (0, 0.1, 0.5)[i % 3]
        given = {"prediction": MASK, "output": rng.normal(size=(9, 7)).astype(np.float32)}
        items.append(
            Item(id=f"m{i}", mask=truth, video=f"clip{i // 4}", **(given if i % 4 else {"prediction": NOTHING}))
        )
    return items


def null():
    items = []
    for i in range(6):
        logits = np.random.default_rng(i).normal(-1, 1, (5, 5)) * (i != 3) - (i == 3)
        given = {"prediction": MASK, "output": logits}
        items.append(Item(id=f"n{i}", mask=np.zeros((5, 5), bool), **(given if i % 4 else {"prediction": NOTHING})))
    return items


def semantic():
    items = []
    for i in range(8):
        rng = np.random.default_rng(i)
        given = {"prediction": MASK, "output": rng.normal(size=(71, 6, 5)) + 3 * (np.arange(71) < 3)[:, None, None]}
        if not i % 4:
            given = {"prediction": NOTHING}
        items.append(Item(id=f"s{i}", mask=rng.integers(0, 4, (6, 5), np.uint8), **given))
    return items


def captions():
    pairs = [
        ("A man plays the guitar on a stage.", "a man is playing a guitar"),
        ("A dog barks at a passing car.", "the dog barks"),
        ("A woman is singing.", None),
        ("Someone doesn't stop clapping.", "someone doesn't stop clapping"),
        ("Two birds sing in a tree", "a man is playing a guitar"),
    ]
    return [
        Item(id=f"c{i}", truth=Caption(t), prediction=Caption(s) if s else NOTHING, references=("It is loud.",))
        for i, (t, s) in enumerate(pairs)
    ]
