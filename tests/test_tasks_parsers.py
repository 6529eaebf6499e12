"""What the parsers of all tasks read out of an answer: examples by hand, then any string whatever."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crab_jax import tokens
from crab_jax.tasks import ALL, TASKS, AudioVisualEvents, Box, Caption, Choice, Event, Events, MaskTokens, Unparsed
from crab_jax.tasks.vocabulary import AVE_EVENTS

# ------------------------------------------------------------------------------------------------------- parsers


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("So the answer is <answer> Two </answer>.", Choice("two")),
        ("< ANSWER >more   than\nten</ answer>", Choice("more than ten")),
        ("two", "0 <answer> tags"),
        ("<answer> a </answer> <answer> b </answer>", "2 <answer> tags"),
        ("<answer>  </answer>", "nothing inside"),
        ("<answer> two", "0 <answer> tags"),
        ("<answer> a </answer></s> <answer> b </answer>", Choice("a")),
    ],
)
def test_avqa(text, want):
    check("avqa", text, want)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("<event> Bark </event> … <range> 0,9 </range>.", [("Bark", 0, 9)]),
        ("<event>fixed wing aircraft AIRPLANE</event><range>( 3 , 10 )</range>", [(AVE_EVENTS[11], 3, 10)]),
        (
            "<event>Frying (food)</event> <range>1,2</range> <range>4 5</range>",
            [(AVE_EVENTS[13], 1, 2), (AVE_EVENTS[13], 4, 5)],
        ),
        ("<event>Frying (food) (1 2)</event>", [("Frying (food)", 1, 2)]),
        ("<event>Rodents, rats, mice,(1 2),(3 4)</event>", [(AVE_EVENTS[21], 1, 2), (AVE_EVENTS[21], 3, 4)]),
        ("<range>0,4</range> a <event>Bus</event> <range>5,6</range>", [("Bus", 0, 4), ("Bus", 5, 6)]),
        ("<event>Bus</event><range>0,4</range><event>Cat</event><range>5,6</range>", [("Bus", 0, 4), ("Cat", 5, 6)]),
        ("<event>Bus</event><range>0,4</range><event>Moo</event><range>5,6</range>", [("Bus", 0, 4)]),
        ("<event>Bus</event><range>0,4</range><range>9,2</range>", [("Bus", 0, 4)]),
        ("Bus from 0 to 4", "no <event> tag"),
        ("<event>Moo</event><range>0,4</range>", "'Moo' is not among the 28 events"),
        ("<event>Bus</event>", "Bus: no time range"),
        ("<event>Bus</event><range>zero to four</range>", "'zero to four' is not two whole seconds"),
        ("<event>Bus</event><range>4,0</range>", "from 4 to 0 s runs backwards"),
        ("<event> </event><range>4,5</range>", "an empty <event> tag"),
        ("<event>.</event>", "an empty <event> tag"),
        ("<event>Bus</event><range>4,5", "<range> is not closed"),
    ],
)
def test_ave(text, want):
    answer = want if isinstance(want, str) else Events(tuple(Event(*e) for e in want))
    check("ave", text, answer)


def test_what_was_ignored_is_named():
    text = "<event>Bus</event><range>0,4</range><range>9,2</range><event>Moo</event><range>1,2</range>"
    assert TASKS["ave"].parse(text).ignored == ("Bus: from 9 to 2 s runs backwards", "'Moo' is not among the 28 events")


@pytest.mark.parametrize(
    ("text", "audio", "visual"),
    [
        (
            "<audio>Chainsaw,(0 10)</audio> <visual>chainsaw, ( 0,10 )</visual>",
            [("Chainsaw", 0, 10)],
            [("Chainsaw", 0, 10)],
        ),
        ("<audio_event>Speech,(0 2) (4 5)</audio_event>", [("Speech", 0, 2), ("Speech", 4, 5)], []),
        ("<VISUAL_EVENT> frying food (1 2)</Visual>", [], [("Frying_(food)", 1, 2)]),
        ("<audio_event>Car,(0 2) Dog,(4 5)</audio_event>", [("Car", 0, 2), ("Dog", 4, 5)], []),
        ("<audio_event>Car,(0 2)</audio_event>, <audio_event>Moo,(4 5)</audio_event>", [("Car", 0, 2)], []),
        ("Therefore, there are no visual or audio events.", [], []),
    ],
)
def test_avvp(text, audio, visual):
    want = AudioVisualEvents(tuple(Event(*e) for e in audio), tuple(Event(*e) for e in visual))
    check("avvp", text, want)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Speech (0 10)", "no <audio_event> or <visual_event> tag"),
        ("<audio_event>Speech</audio_event>", "Speech: no time range"),
        ("<audio_event>Moo,(1 2)</audio_event>", "'Moo' is not among the 25 events"),
        ("<audio_event></audio_event>", "an empty <audio_event> tag"),
        ("<audio_event>;</audio_event>", "an empty <audio_event> tag"),
        ("<audio_event>Dog,(1 2)", "<audio_event> is not closed"),
        ("<audio_event>Dog,(3 2)</audio_event>", "runs backwards"),
        ("<audio_event>Dog,(1 2)</visual_event>", "<audio_event> is not closed"),
        ("No visual or audio events. <visual_event>Moo,(1 2)</visual_event>", "'Moo'"),
    ],
)
def test_avvp_unparsed(text, reason):
    check("avvp", text, reason)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (
            "The sounding object is dog. Its coordinate of top left corner is (15,60) and coordinate of bottom right "
            "corner is (150,201)",
            Box(15, 60, 150, 201, "dog"),
        ),
        (
            "The sounding object is A dog. Its coordinates are <obj>(15,60)(150,201)</obj>.",
            Box(15, 60, 150, 201, "A dog"),
        ),
        ("the sounding object is a car. (12,34),(150,201)", Box(12, 34, 150, 201)),
        ("The sounding object is f16. Its coordinates: 1 2 3 4 5", Box(1, 2, 3, 4, "f16")),
        ("2 dogs at coordinate 1, 2, 3, 4", Box(1, 2, 3, 4)),
        ("coordinates x1=5, y1=6, x2=7, y2=8", Box(5, 6, 7, 8)),
        ("The sounding object is  a \n dog .  Its coordinates (1,2)(3,4)", Box(1, 2, 3, 4, "a dog")),
        ("<OBJ> ( 5 , 6 ), ( 7 , 8 ) </OBJ>", Box(5, 6, 7, 8)),
        ("coordinates (-5,999) (300,12)", Box(0, 12, 223, 223)),
        ("coordinates (9,8) (1,2)", Box(1, 2, 9, 8)),
        (f"coordinates ({'9' * 5000},8) (1,2)", Box(1, 2, 223, 8)),
        ("coordinates (9,8) (1,", "3 of 4 coordinates"),
        ("coordinates (0.5,0.25) (0.75,1)", "coordinate 0.5 is not a whole number"),
        ("a dog at 1 2 3 4", "neither 'coordinate' nor <obj>"),
        ("", "neither 'coordinate' nor <obj>"),
    ],
)
def test_arig(text, want):
    check("arig", text, want)


def test_box_is_clipped_and_sorted():
    assert Box.spanned(300, -4, 10, 224, label="x") == Box(10, 0, 223, 223, "x")
    assert Box(1, 2, 3, 4, "dog").to_json() == {"kind": "box", "x1": 1, "y1": 2, "x2": 3, "y2": 4, "label": "dog"}


MASKS = "".join(tokens.MASK_TAGS)


@pytest.mark.parametrize("name", ["s4", "ms3", "avss", "ref-avs"])
def test_masks(name):
    parse = TASKS[name].parse
    found = parse(f"<s> It is a dog.  <mask_start>{MASKS}<mask_end></s>")
    assert found == MaskTokens(tuple(range(6)), 6)
    assert found.in_order
    assert found.text == "It is a dog."
    assert parse(" ".join(tokens.MASK_TAGS)) == found
    more = parse(f"<mask_3><mask_3>{MASKS[:-8]}<mask_0>")
    assert (more.order, more.emitted, more.in_order) == ((0, 1, 2, 3, 4, 0), 8, False)
    check(name, "It is <mask_start><mask_0><mask_1><mask_end>", "2 of 6 mask tokens")
    check(name, MASKS.upper(), "0 of 6 mask tokens")
    check(name, "</s>" + MASKS, "0 of 6 mask tokens")


def test_avcap():
    check("avcap", " A dog\nbarks. </s><unk>", Caption("A dog\nbarks."))
    check("avcap", "<s> </s>", "no text")


def check(name: str, text: str, want) -> None:
    found = TASKS[name].parse(text)
    if isinstance(want, str):
        assert isinstance(found, Unparsed)
        assert found.text == text
        assert want in found.reason
    else:
        assert found == want
    json.dumps(found.to_json())


# ------------------------------------------------------------------------------------------------- hostile strings


TAGS = (
    "<answer> </answer> <event> </event> <range> </range> <audio> </audio_event> <visual_event> </visual> <obj> </obj>"
)
PARTS = "< > / ( ) , . (0 5) (9,2) 0,5 -7 1.5 coordinate dog Its Speech Bus é ٣ ² \x00 \ud800"
FRAGMENTS = (
    *TAGS.split(" "),
    *PARTS.split(" "),
    *tokens.CONTROL_TOKENS,
    *tokens.MASK_TAGS,
    *(" ", "\n", "\u2028", "9" * 40, "(0 5)", "The sounding object is", "Frying (food)", "no visual or audio events"),
)
ALPHABET = [chr(c) for c in range(0x250)] + list("<>()/,.　ａ０\ud800\U0001f600")
ANY = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))


PARSERS = list({spec.parse: spec for spec in ALL.values()}.values())  # one task for each parser


def some_strings(number: int):
    """Checks as many strings, fifty from each seed: a string costs hypothesis more than it costs a parser."""

    @settings(max_examples=number // 50, deadline=None)
    @given(st.randoms(use_true_random=False), st.sampled_from([ALPHABET, FRAGMENTS]))
    def check(draw, pool):
        for _ in range(50):
            text = "".join(draw.choices(pool, k=draw.randrange(60)))
            for spec in PARSERS:
                survives(spec, text)

    check()


@settings(max_examples=1000, deadline=None)
@given(ANY)
def test_parsers_survive_any_string(text):
    for spec in PARSERS:
        survives(spec, text)


def test_parsers_survive_five_thousand_strings():
    some_strings(5_000)


@pytest.mark.slow
def test_parsers_survive_a_hundred_thousand_strings():
    some_strings(100_000)


def survives(spec, text: str) -> None:
    found = spec.parse(text)
    if isinstance(found, Unparsed):
        assert found.text == text
        assert found.reason
    if isinstance(found, Box):
        assert 0 <= found.x1 <= found.x2 < 224
        assert 0 <= found.y1 <= found.y2 < 224
    assert json.loads(json.dumps(found.to_json()))["kind"]


@pytest.mark.parametrize(
    "unit", [" ", "<", "(", "<answer>", "<event>", "<range> ", "< ", "(1 ", "\n", ". ", "9", "<mask_0>", "coordinate "]
)
@pytest.mark.parametrize("start", ["", "The sounding object is", "<event>"])
def test_degenerate_answers_are_read_at_once(unit, start):
    """A model that repeats itself for 500 tokens; a pattern with nested repetition would not come back from this."""
    for spec in PARSERS:
        survives(spec, start + unit * (8000 // len(unit)) + "x.")
