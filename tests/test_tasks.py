"""Every task: exact wordings, its media, its vocabulary, and the law `parse(target(row)) == answer(row)`."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crab_jax import tokens
from crab_jax.tasks import ALL, PRETRAINING, TASKS, AudioRule, Event, Row, RowError, Wording
from crab_jax.tasks.base import ORDINALS, slots_of
from crab_jax.tasks.vocabulary import AVE_EVENTS, AVSS_CLASSES, AVVP_EVENTS, MUSIC_AVQA_ANSWERS
from crab_jax.tokens import UserTextError

PROMPTS = json.loads((pathlib.Path(__file__).parent / "data" / "prompts.json").read_text())
QUICK, TRAIN, TEST = Wording.QUICK_START, Wording.RELEASE_TRAIN, Wording.RELEASE_TEST

# Recorded variant of each wording. Tasks that say the same in all have one name three times.
VARIANTS = {
    "avqa": ("all", "all", "all"),
    "ave": ("all", "all", "all"),
    "avvp": ("quick_start", "train_test", "train_test"),
    "arig": ("quick_start", "train", "test"),
    "avcap": ("test", "train", "test"),
    "s4": ("quick_start", "train_test", "train_test"),
    "ms3": ("quick_start", "train", "test"),
    "avss": ("quick_start", "train", "test"),
    "ref-avs": ("quick_start", "train", "test"),
}
EVERY = [(name, wording) for name in TASKS for wording in Wording]
ALWAYS = [(name, wording) for name in ALL for wording in Wording]


def recorded(name: str, wording: Wording) -> dict[str, str]:
    return PROMPTS["tasks"][name]["variants"][VARIANTS[name][list(Wording).index(wording)]]


# -------------------------------------------------------------------------------------------------- exact wordings


def test_the_table():
    assert list(TASKS) == ["avqa", "ave", "avvp", "ms3", "s4", "avss", "ref-avs", "arig", "avcap"]
    assert all(spec.name == name for name, spec in TASKS.items())
    assert set(TASKS) == set(PROMPTS["tasks"])
    assert list(PRETRAINING) == ["pretrain-image", "pretrain-video", "pretrain-audio", "pretrain-seg"]
    assert list(ALL) == [*TASKS, *PRETRAINING]
    assert all(spec.name == name for name, spec in ALL.items())
    assert {n for n, s in PRETRAINING.items() if s.needs_masks} == {"pretrain-seg"}
    assert [w.value for w in Wording] == ["quick-start", "release-train", "release-test"]
    assert list(ORDINALS) == PROMPTS["ordinals"]
    assert {n for n, s in TASKS.items() if s.needs_masks} == {"s4", "ms3", "avss", "ref-avs"}
    assert {n for n, s in TASKS.items() if s.semantic} == {"avss"}
    assert {n: s.max_new_tokens for n, s in TASKS.items()} == {
        n: 100 if s.needs_masks else 500 for n, s in TASKS.items()
    }


@pytest.mark.parametrize(("name", "wording"), EVERY)
def test_instruction_is_the_recorded_one(name, wording):
    # Only here ours differs from the constant: the reference asks for the third second of every frame.
    ours = TASKS[name].instruction[wording]
    if (name, wording) == ("ms3", TEST):
        ours = ours.replace("{ordinal}", "third")
        assert TASKS[name].prompt(Row(second=2), wording) == recorded(name, wording)["instruction"]
    assert ours == recorded(name, wording)["instruction"]


def test_instructions_of_pretraining_are_the_recorded_ones():
    for name, spec in PRETRAINING.items():
        assert set(spec.instruction.values()) == {PROMPTS["pretraining"][name]["instruction"]}


def test_what_ends_a_target():
    """7.3: pretraining puts a blank before `</s>`."""
    tokenizer = tokens.Tokenizer.tiny()
    for name, spec in ALL.items():
        suffix = "pretrain" if name in PRETRAINING else "finetune_and_quick_start"
        assert spec.target_end.value == PROMPTS["chat"]["target_suffix"][suffix]
        ids = tokenizer.encode_target(spec.target(ROW), suffix=spec.target_end)
        assert ids[-1] == tokenizer.eos
        assert (ids[-2] == tokenizer.encode("a ")[-1]) == (name in PRETRAINING)


ROW = Row(
    question="How many?",
    answer="two",
    exp="The Loud Dog",
    events=(Event("Bark", 1, 5),),
    audio_events=(Event("Dog", 0, 2),),
    visual_events=(Event("Car", 3, 10),),
    box=(1, 20, 200, 223),
    label="dog",
    definition="a barking animal",
    second=3,
    caption="A dog barks.",
)
VALUES = {
    "question": "How many?",
    "answer": "two",
    "exp": "The Loud Dog",
    "exp_lowercase": "the loud dog",
    "ordinal": "fourth",
    "a_obj": "dog",
    "obj": "dog",
    "desc": "A dog barks.",
    "caption": "A dog barks.",
    **{"name": "dog", "def": "a barking animal"},
    **{"x1": 1, "y1": 20, "x2": 200, "y2": 223},
    **{"event": "Bark", "start": 1, "end": 5},
}


@pytest.mark.parametrize(("name", "wording"), EVERY)
def test_prompt_fills_the_recorded_constant(name, wording):
    want = recorded(name, wording)["instruction"].replace("third", "fourth").format(**VALUES)
    assert TASKS[name].prompt(ROW, wording) == want
    if wording is QUICK:
        assert TASKS[name].prompt(ROW) == want


@pytest.mark.parametrize("name", ["arig", "s4", "ms3", "avss", "ref-avs", "avcap"])
def test_targets_are_the_recorded_ones(name):
    spec, variants = TASKS[name], PROMPTS["tasks"][name]["variants"]
    train = recorded(name, TRAIN)["target_train"]
    test = recorded(name, TEST).get("reference_test", train)
    quick = {
        "arig": train,
        "avcap": train,
        "s4": PROMPTS["tasks"]["ms3"]["variants"]["image_variant"]["target_train"],
        "ms3": variants.get("image_variant", {}).get("target_train"),
        "avss": PROMPTS["tasks"]["ms3"]["variants"]["image_variant"]["target_train"],
        "ref-avs": test,
    }[name]
    test = test.replace("third", "fourth")
    for wording, want in ((QUICK, quick), (TRAIN, train), (TEST, test)):
        assert spec.target(ROW, wording) == want.format(**VALUES), wording
    assert spec.target(ROW) == spec.target(ROW, QUICK)


def test_targets_of_pretraining_are_the_recorded_ones():
    def stopped(said: str) -> str:
        return PRETRAINING["pretrain-video"].target(Row(question="?", caption=said))

    for name in ("pretrain-audio", "pretrain-seg"):
        want = PROMPTS["pretraining"][name]["target_train"].format(**VALUES)
        assert {PRETRAINING[name].target(ROW, wording) for wording in Wording} == {want}
        assert PRETRAINING[name].prompt(ROW) == PROMPTS["pretraining"][name]["instruction"].format(**VALUES)
    for mark in ".!?":
        assert stopped(f"A dog barks{mark}") == f"A dog barks{mark}"
    assert stopped("A dog barks \n") == "A dog barks."
    assert stopped("A dog (barking)") == "A dog (barking)."


def test_clauses_of_reasoned_answers_are_the_recorded_ones():
    recorded_tail = {n: t["target_tail_example"] for n, t in PROMPTS["tasks"].items() if "target_tail_example" in t}
    for name, tail in recorded_tail.items():
        assert TASKS[name].target(ROW) == tail.format(**VALUES)
        assert TASKS[name].target(Row(**{**vars(ROW), "reasoning": "I look."})) == "I look. " + tail.format(**VALUES)
    avvp = PROMPTS["tasks"]["avvp"]
    tail = avvp["target_tail_example_before_replacement"]
    for stored, used in avvp["label_tag_replacement"].items():
        tail = tail.replace(stored, used)
    saw = (Event("Chainsaw", 0, 10),)
    assert TASKS["avvp"].target(Row(audio_events=saw, visual_events=saw)) == tail


def test_stored_targets_are_used_as_they_are():
    assert TASKS["avqa"].target(Row(label_text="Well <answer> yes </answer>")) == "Well <answer> yes </answer>"
    stored = "Now <visual>Car,(0 2)</visual> and <audio>Dog,(1 2) (4 5)</audio>"
    text = TASKS["avvp"].target(Row(label_text=stored))
    assert text == "Now <visual_event>Car,(0 2)</visual_event> and <audio_event>Dog,(1 2) (4 5)</audio_event>"
    assert TASKS["avvp"].parse(text) == TASKS["avvp"].parse(stored)


def test_stray_tokens_in_targets_are_refused():
    """Q-34: `<audio>` in a target would be replaced by features."""
    for name, row in (
        ("avvp", Row(label_text="<audio>Dog,(0 1)</audio> <video>")),
        ("avqa", Row(label_text="<image> <answer> yes </answer>")),
        ("ave", Row(label_text="</s>")),
        ("avqa", Row(answer="<audio>")),
        ("avqa", Row(answer="yes", reasoning="I hear <audio>")),
        ("avcap", Row(caption="A dog.</s>")),
        ("arig", Row(label="<mask_0>", box=(1, 2, 3, 4))),
        ("ref-avs", Row(exp="<mask_0>")),
    ):
        with pytest.raises(UserTextError):
            TASKS[name].target(row)


@pytest.mark.parametrize(("name", "wording"), ALWAYS)
def test_user_text_reaches_no_prompt_with_reserved_strings(name, wording):
    for field in ALL[name].needs(wording) - {"second"}:
        for reserved in (*tokens.ADDED_TOKENS, *tokens.CHAT_MARKS, "<VIDEO>", "<MAS\u212a_0>"):
            with pytest.raises(UserTextError, match=field):
                ALL[name].prompt(Row(**{**vars(ROW), field: f"the {reserved} dog"}), wording)


@pytest.mark.parametrize(("name", "wording"), ALWAYS)
def test_missing_fields_are_named(name, wording):
    spec = ALL[name]
    for field in spec.needs(wording) - {"second"}:
        for blank in ("", " \n"):
            with pytest.raises(RowError, match=field):
                spec.prompt(Row(**{**vars(ROW), field: blank}), wording)
    if "ordinal" in slots_of(spec.instruction[wording]):
        for bad in (None, -1, 10):
            with pytest.raises(RowError, match="second"):
                spec.prompt(Row(exp="x", second=bad), wording)


def test_braces_in_user_text_stay_text():
    assert TASKS["avqa"].prompt(Row(question="{answer} {0} {")).endswith("question: {answer} {0} {")


# --------------------------------------------------------------------------------------------------------- media


@pytest.mark.parametrize(("name", "wording"), ALWAYS)
def test_tags_of_the_prompt_have_media(name, wording):
    spec = ALL[name]
    media, tags = spec.media[wording], spec.tags(wording)
    assert ("<audio>" in tags) == (media.audio is not None) == (name in TASKS or name == "pretrain-audio")
    assert ("<video>" in tags) == (media.frames > 0)
    # s4 and ms3 in the test wording give the mask decoder an image that the prompt does not mention.
    assert media.image or "<image>" not in tags
    if media.image and "<image>" not in tags:
        assert (name, wording) in {("s4", TEST), ("ms3", TEST)}
    text = spec.instruction[wording]
    assert all(text.count(tag) == 1 for tag in tags)
    assert list(tags) == re.findall(r"<(?:image|video|audio)>", text)


def test_media_are_those_of_specification_9_3():
    """(frames, image, nominal seconds, windows, seconds of a window) by wording."""
    av10, image1 = (10, False, 10, 10, 1), (0, True, 5, 1, 1)
    table = {
        "avqa": [(10, False, 60, 10, 2)] * 3,
        "ave": [av10] * 3,
        "avvp": [av10] * 3,
        "avcap": [av10] * 3,
        "arig": [image1, (0, True, 5, 5, 1), (0, True, 5, 5, 1)],
        "s4": [image1, (5, False, 5, 5, 1), (5, True, 5, 5, 1)],
        "ms3": [image1, (5, False, 5, 5, 1), (5, True, 5, 5, 1)],
        "avss": [(0, True, 10, 1, 1), av10, (0, True, 10, 1, 1)],
        "ref-avs": [(0, True, 10, 10, 1), av10, (10, True, 10, 10, 1)],
        "pretrain-image": [(0, True, None, 0, 1)] * 3,
        "pretrain-video": [(8, False, None, 0, 1)] * 3,
        "pretrain-audio": [(0, False, None, None, 1)] * 3,
        "pretrain-seg": [(0, True, None, 0, 1)] * 3,
    }
    assert set(table) == set(ALL)
    for name, rows in table.items():
        for wording, want in zip(Wording, rows):
            m = ALL[name].media[wording]
            assert (m.frames, m.image, m.seconds, m.windows, m.window_seconds) == want, (name, wording)
    assert [r.value for r in AudioRule] == ["each_second", "six_second_grid", "one_second_of_image", "whole_seconds"]


# --------------------------------------------------------------------------------------------------- vocabularies


def test_vocabularies():
    from crab_jax.tasks.parsing import known

    for names, number in ((MUSIC_AVQA_ANSWERS, 42), (AVE_EVENTS, 28), (AVVP_EVENTS, 25), (AVSS_CLASSES, 71)):
        assert len(names) == len(set(names)) == number
        for name in names:
            assert known(name.upper().replace("_", "  ").replace(",", " ,"), names) == name
    assert AVSS_CLASSES[0] == "background"
    assert AVVP_EVENTS[0] == "Speech"
    assert known("Speech", AVE_EVENTS) is None


# ------------------------------------------------------------------------------------------------------- the law


SECONDS = st.tuples(st.integers(0, 10), st.integers(0, 10)).map(sorted)
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>[]▁"), min_size=1, max_size=40).filter(
    lambda t: bool(t.strip())
)


def events(names):
    event = st.builds(lambda name, times: Event(name, *times), st.sampled_from(names), SECONDS)
    return st.lists(event, min_size=1, max_size=5).map(tuple)


ROWS = st.builds(
    Row,
    question=WORDS,
    answer=WORDS,
    exp=WORDS,
    events=events(AVE_EVENTS),
    audio_events=st.one_of(st.just(()), events(AVVP_EVENTS)),
    visual_events=st.one_of(st.just(()), events(AVVP_EVENTS)),
    box=st.tuples(*[st.integers(-5, 300)] * 4),
    label=st.sampled_from((*AVSS_CLASSES, *MUSIC_AVQA_ANSWERS, "coordinates (3,4)", "7 cats. The dog")),
    second=st.integers(0, 9),
    definition=WORDS,
    caption=WORDS,
    reasoning=st.one_of(st.just(""), WORDS),
)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=120, deadline=None)
@given(row=ROWS)
def test_law(name, row):
    """What a target says is what is read from it, also after the tokenizer has been over it."""
    spec, tokenizer = ALL[name], tokens.Tokenizer.tiny()
    for wording in Wording:
        text = spec.target(row, wording)
        assert spec.parse(text) == spec.answer(row)
        ids = [tokenizer.bos, *tokenizer.encode_target(text, suffix=spec.target_end), *[tokenizer.unk] * 3]
        assert tokenizer.decode_plain(ids) == text + spec.target_end.value.removesuffix("</s>")
        for said in (tokenizer.decode(ids, skip_special=False), f"<s> {text}</s><unk><unk>"):
            assert spec.parse(said) == spec.answer(row)
        json.dumps(spec.answer(row).to_json())


def test_a_target_that_cannot_be_read_back_is_refused():
    for name, row in (
        ("arig", Row(label="x. Its coordinate is 7 8 9", box=(1, 2, 3, 4))),
        ("avqa", Row(answer="a </answer> b")),
        ("avqa", Row(answer="yes", reasoning="so <answer> no </answer>")),
        ("ave", Row(events=ROW.events, reasoning="<event> Bus </event>")),
    ):
        with pytest.raises(RowError):
            TASKS[name].target(row)
    with pytest.raises(RowError, match="Moo"):
        TASKS["ave"].target(Row(events=(Event("Moo", 0, 1),)))
    with pytest.raises(RowError, match="backwards"):
        TASKS["avvp"].target(Row(audio_events=(Event("Dog", 2, 1),)))
    for name in ("ave", "arig"):
        with pytest.raises(RowError, match="missing"):
            TASKS[name].target(Row(label="dog"))


# --------------------------------------------------------------------------------------------------------- imports


def test_text_side_imports_no_jax():
    modules = "crab_jax.tokens, crab_jax.tasks.samples, crab_jax.assets.train_tokenizer"
    code = f"import sys, {modules}; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
