"""Tokenizer, chat template, placeholder expansion; with the tiny tokenizer that ships, and with hostile input."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import pickle
import random

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from crab_jax import tokens
from crab_jax.assets import train_tokenizer
from crab_jax.tasks import TASKS, Row, Wording
from crab_jax.tokens import PlaceholderError, TargetSuffix, Tokenizer, TokenizerError, UserTextError

PROMPTS = json.loads((pathlib.Path(__file__).parent / "data" / "prompts.json").read_text())
RESERVED = (*tokens.ADDED_TOKENS, *tokens.CONTROL_TOKENS, *tokens.CHAT_MARKS)

# Text as people type it: no half surrogate pairs, and no U+2581, which SentencePiece writes for a blank.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60)


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return Tokenizer.tiny()


def make_model(**options) -> bytes:
    """A SentencePiece model of other settings."""
    model = io.BytesIO()
    settings = {
        "vocab_size": 300,
        "model_type": "bpe",
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "minloglevel": 2,
    }
    lines = ["a quick dog barks at the lazy cat", "one two three four five six"] * 3
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **(settings | options))
    return model.getvalue()


# ------------------------------------------------------------------------------------------------------- constants


def test_tokens_and_templates_are_the_recorded_ones():
    assert list(tokens.ADDED_TOKENS) == PROMPTS["added_tokens"]
    assert PROMPTS["mask_string"] == tokens.MASK_RUN
    assert PROMPTS["chat"]["system"] == tokens.SYSTEM
    want = PROMPTS["chat"]["rendered"].format(system=tokens.SYSTEM, instruction="Say it.")
    assert tokens.render_chat("Say it.") == want
    suffixes = PROMPTS["chat"]["target_suffix"]
    assert TargetSuffix.FINETUNE.value == suffixes["finetune_and_quick_start"]
    assert TargetSuffix.PRETRAIN.value == suffixes["pretrain"]


def test_chat_strips_trailing_but_not_leading_white_space():
    assert tokens.render_chat("  Q? \n", system="S") == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n  Q? [/INST]"


# ----------------------------------------------------------------------------------------------------- text → ids


def test_ids_of_added_and_control_tokens(tiny):
    assert [tiny.id(t) for t in tokens.ADDED_TOKENS] == list(range(tiny.base, tiny.base + 17))
    assert [tiny.id(t) for t in ("<unk>", "<s>", "</s>")] == [0, 1, 2] == [tiny.unk, tiny.bos, tiny.eos]
    assert tiny.size == tiny.base + 17
    assert tiny.pad == tiny.eos
    assert tiny.token_ids.visual == (tiny.id("<image>"), tiny.id("<video>"))
    assert tiny.token_ids.audio == tiny.id("<audio>")
    assert tiny.token_ids.masks == tuple(tiny.id(f"<mask_{k}>") for k in range(6))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("<s>[INST] the", ["<s>", "[", "INST", "]", "▁the"]),  # rule 2: the lone mark goes away
        (" <s>", ["▁", "▁", "<s>"]),  # rule 1: the blank stays, so the mark is not alone
        ("<image>\nthe", ["<image>", "<0x0A>", "t", "he"]),  # rule 3: no mark behind a token
        ("the <mask_start>", ["▁the", "▁", "<mask_start>"]),  # rule 4: a piece for the blank
        ("the", ["▁the"]),  # rule 5: a text of its own begins with a mark
        ("<mask_0>", ["▁", "<mask_0>"]),  # the six mask tokens are not special, so the mark stays
        ("x</s>y", ["▁x", "</s>", "y"]),
        ("<mask_6>", ["▁<", "ma", "sk", "_", "6", ">"]),  # no token
        ("a▁b", ["▁a", "▁b"]),
        ("\x00é", ["▁", "<0x00>", "<0xC3>", "<0xA9>"]),
    ],
)
def test_rules(tiny, text, pieces):
    assert tiny.tokenize(text) == pieces
    assert tiny.encode(text) == [tiny.id(p) if p in RESERVED else tiny._sp.piece_to_id(p) for p in pieces]


def test_dummy_prefix_is_switched_off_as_a_protocol_buffer_library_would(tiny):
    pb = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    proto = pb.ModelProto.FromString(tiny.model)
    proto.normalizer_spec.add_dummy_prefix = False
    other = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    for text in ("the dog", " the dog", "the", "\nThe 12,3", "▁the"):
        assert tiny._sp.encode(text) == other.encode(text)
        assert tiny._sp.decode(other.encode(text)) == other.decode(other.encode(text))


def test_half_a_surrogate_pair_is_refused(tiny):
    with pytest.raises(TokenizerError, match=r"U\+D800"):
        tiny.encode("a\ud800")
    with pytest.raises(TokenizerError, match=r"U\+DFFF"):
        tiny.encode("\udfff")


@pytest.mark.parametrize("token", RESERVED)
def test_user_text_with_a_reserved_string_is_refused(token):
    for typed in (token, token.upper(), token.lower()):
        with pytest.raises(UserTextError) as caught:
            tokens.check_user_text(f"What is {typed}?", field="question")
        assert caught.value.token == typed
        assert caught.value.position == 8
        assert "question" in str(caught.value)
        assert repr(typed) in str(caught.value)
        assert "character 8" in str(caught.value)


def test_user_text_that_lower_cases_to_a_token_is_refused():
    kelvin = "<MAS\u212a_0>"  # KELVIN SIGN
    assert kelvin.lower() == "<mask_0>"
    with pytest.raises(UserTextError):
        tokens.check_user_text(kelvin)


@pytest.mark.parametrize(
    "text", ["", "a < b > c", "<video", "video>", "< video >", "[inst", "<answer> x </answer>", "é 中"]
)
def test_harmless_user_text_passes(text):
    tokens.check_user_text(text)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(TEXT, st.sampled_from(("<", ">", "video", "_0", "<mask", "[INST", "]", "<<SYS"))), max_size=6)
)
def test_prompts_from_accepted_user_text_hold_the_tokens_of_the_template_alone(parts):
    tokenizer, text = Tokenizer.tiny(), "".join(parts)
    for name, field in (("avqa", "question"), ("ref-avs", "exp")):
        for wording in Wording:
            row = Row(**{field: text, "second": 3})
            try:
                instruction = TASKS[name].prompt(row, wording)
            except ValueError:
                continue
            ids = tokens.build_prompt(tokenizer, instruction)
            plain = tokens.build_prompt(tokenizer, TASKS[name].prompt(Row(**{field: "x", "second": 3}), wording))
            special = {tokenizer.bos, tokenizer.eos, *range(tokenizer.base, tokenizer.size)}
            assert [i for i in ids if i in special] == [i for i in plain if i in special]


def test_targets(tiny):
    text = f"It is {tokens.MASK_RUN}"
    assert tiny.encode_target(text) == [*tiny.encode(text), tiny.eos]
    blank = tiny._sp.piece_to_id("▁")
    assert tiny.encode_target(text, suffix=TargetSuffix.PRETRAIN) == [*tiny.encode(text), blank, tiny.eos]
    for stray in ("<audio>", "<image>", "<video>", "</s>", "<s>", "<unk>"):
        with pytest.raises(PlaceholderError, match=stray):
            tiny.encode_target(f"x {stray} y")


# ----------------------------------------------------------------------------------------------------- ids → text


def test_decode_keeps_the_last_empty_run(tiny):
    blank = tiny._sp.piece_to_id("▁")
    mask = tiny.id("<mask_0>")
    assert tiny.decode([blank, mask], skip_special=False) == "<mask_0>"
    assert tiny.decode([mask, blank], skip_special=False) == "<mask_0> "


def test_decode_names_an_id_outside_the_vocabulary(tiny):
    for bad in (-1, tiny.size):
        with pytest.raises(TokenizerError, match=f"id {bad}"):
            tiny.decode([5, bad], skip_special=True)


def test_decode_plain_stops_at_the_end_and_keeps_mask_tokens(tiny):
    ids = [tiny.bos, *tiny.encode(f"A dog, {tokens.MASK_RUN}"), tiny.eos, tiny.unk, tiny.unk, 300]
    assert tiny.decode_plain(ids) == f"A dog, {tokens.MASK_RUN}"
    assert tiny.decode_plain([tiny.id("<video>"), tiny.unk, *tiny.encode("hm")]) == "hm"
    assert tiny.decode_plain([]) == tiny.decode_plain([tiny.eos, 300]) == ""


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(TEXT, st.sampled_from(("<mask_start>", *tokens.MASK_TAGS, "<mask_end>"))), max_size=6))
def test_decode_plain_gives_a_target_back(parts):
    tokenizer, text = Tokenizer.tiny(), "".join(parts)
    if any(t in text for t in (*tokens.CONTROL_TOKENS, *tokens.MEDIA_TAGS)):
        return
    assert tokenizer.decode_plain(tokenizer.encode_target(text)) == text


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(-5, 1100), max_size=40))
def test_decode_plain_takes_any_ids(ids):
    tokenizer = Tokenizer.tiny()
    text = tokenizer.decode_plain(ids)
    outside = [i < 0 or i >= tokenizer.size for i in ids[: (*ids, tokenizer.eos).index(tokenizer.eos)]]
    assert text.count("\ufffd") >= sum(outside)
    text.encode()  # valid text


def test_decode_plain_takes_numbers_of_any_size(tiny):
    assert tiny.decode_plain([-(2**31), 2**31, 10**20]) == "\ufffd" * 3


# ------------------------------------------------------------------------------------------------------ sequences


def test_expand(tiny):
    v, a = tiny.id("<video>"), tiny.id("<audio>")
    ids = [7, v, 8, a, 9, v]
    assert tiny.expand(ids, {"<video>": 2, "<audio>": 3}) == [7, v, v, 8, a, a, a, 9, v, v]
    assert tiny.expand(ids, {"<video>": [1, 3], "<audio>": [2]}) == [7, v, 8, a, a, 9, v, v, v]
    assert tiny.expand([7, 8], {}) == [7, 8]
    assert tiny.expand([7, 8], {"<image>": []}) == [7, 8]


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"<video>": 2}, "<audio>: occurs 1 times in the text, but no media"),
        ({"<video>": 2, "<audio>": 3, "<image>": 1}, "<image>: media were given for it, but the text does not"),
        ({"<video>": [2], "<audio>": 3}, "<video>: occurs 2 times in the text, but 1 numbers"),
        ({"<video>": [2, 0], "<audio>": 3}, "<video>: cannot stand for 0"),
        ({"<video>": -32, "<audio>": 3}, "<video>: cannot stand for -32"),
        ({"<video>": 2, "<audio>": 3, "<mask_0>": 1}, "<mask_0>: no media tag"),
    ],
)
def test_expand_names_the_tag(tiny, slots, message):
    ids = tiny.encode("<video> <audio> <video>")
    with pytest.raises(PlaceholderError, match=message):
        tiny.expand(ids, slots)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("wording", Wording)
def test_expanded_length_and_mask_positions_of_every_task(tiny, name, wording):
    """Specification 7.4 point 4, and 7.6 with its own formula."""
    spec = TASKS[name]
    row = Row(question="How many?", exp="the dog", label="dog", second=2, caption="A dog.", answer="yes")
    prompt = tokens.build_prompt(tiny, spec.prompt(row, wording))
    rows = {tag: 32 * (i + 1) for i, tag in enumerate(spec.tags(wording))}
    target = tiny.encode_target(spec.target(row, wording)) if spec.needs_masks else []
    full = tiny.expand([*prompt, *target], rows)
    assert len(full) == len(prompt) + len(target) - len(rows) + sum(rows.values())
    if spec.needs_masks:
        shift = sum(n - 1 for n in rows.values())
        places = [i for i, t in enumerate([*prompt, *target]) if t in tiny.token_ids.masks]
        assert tiny.mask_positions(full) == [p + shift - 1 for p in places]
        inputs = [full[p] for p in tiny.mask_positions(full)]
        assert inputs == [tiny.id("<mask_start>"), *tiny.token_ids.masks[:5]]
    assert tiny.mask_positions(prompt) == []


def test_a_mask_token_at_the_beginning_has_no_state(tiny):
    with pytest.raises(PlaceholderError, match="<mask_3>"):
        tiny.mask_positions([tiny.id("<mask_3>"), 5])


# ---------------------------------------------------------------------------------------------------------- files


def test_pickles(tiny):
    other = pickle.loads(pickle.dumps(tiny))
    assert other.encode("<s>the dog") == tiny.encode("<s>the dog")
    assert other.size == tiny.size


def test_loads_a_file_or_its_folder(tmp_path, tiny):
    (tmp_path / "tokenizer.model").write_bytes(tiny.model)
    for path in (tmp_path, tmp_path / "tokenizer.model", str(tmp_path)):
        assert Tokenizer.load(path, base_vocabulary=tiny.base).size == tiny.size


def test_refuses_another_base_vocabulary_with_the_reason(tmp_path):
    mirror = make_model(user_defined_symbols="<pad>", vocab_size=301)
    (tmp_path / "tokenizer.model").write_bytes(mirror)
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(tmp_path, base_vocabulary=300)
    for part in ("301 pieces", "300", "<pad>", "shift", str(tmp_path)):
        assert part in str(caught.value)
    assert Tokenizer.load(tmp_path, base_vocabulary=301).id("<image>") == 301
    assert Tokenizer.load(tmp_path, base_vocabulary=None).base == 301


def test_ids_come_from_the_model():
    model = make_model(unk_id=2, bos_id=0, eos_id=1)
    tokenizer = Tokenizer(model, base_vocabulary=300)
    assert (tokenizer.unk, tokenizer.bos, tokenizer.eos, tokenizer.pad) == (2, 0, 1, 1)
    assert tokenizer.encode("<s><unk></s>") == [0, 2, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b'{"version": "1.0"}', "a JSON file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!doctype html>", "a web page"),
        (b"\x00\x01garbage", "not a SentencePiece model, or cut short"),
    ],
)
def test_refuses_other_files(tmp_path, content, message):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(file, base_vocabulary=None)
    assert str(file) in str(caught.value)


def test_refuses_absent_files_and_huge_ones(tmp_path):
    with pytest.raises(TokenizerError, match="no such file"):
        Tokenizer.load(tmp_path / "absent", base_vocabulary=None)
    with pytest.raises(TokenizerError, match="no such file"):
        Tokenizer.load(tmp_path, base_vocabulary=None)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(TokenizerError, match="64 MiB"):
        Tokenizer.load(tmp_path / "huge", base_vocabulary=None)


def test_no_cut_of_the_file_is_taken_for_the_model(tiny):
    for cut in range(0, len(tiny.model) - 1, 97):
        with pytest.raises(TokenizerError):
            Tokenizer(tiny.model[:cut], base_vocabulary=tiny.base)


def test_damaged_files_are_refused_or_usable(tiny):
    draw = random.Random(0)
    for _ in range(150):
        damaged = bytearray(tiny.model)
        for _ in range(draw.randint(1, 20)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        with contextlib.suppress(TokenizerError):
            Tokenizer(bytes(damaged), base_vocabulary=None).encode("<s>The dog")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}, "changes blanks"),
        ({"bos_id": -1}, "no <s>"),
        ({"user_defined_symbols": "<video>"}, "already has a piece <video>"),
    ],
)
def test_refuses_models_of_other_kinds(options, message):
    with pytest.raises(TokenizerError, match=message):
        Tokenizer(make_model(**options), base_vocabulary=None)


# ------------------------------------------------------------------------------------------- the tokenizer that ships


def test_training_again_gives_the_tokenizer_that_ships(tiny):
    """If this fails after a change of prompts: weights may have been trained with the shipped file."""
    assert Tokenizer(train_tokenizer.train(), base_vocabulary=None)._names == tiny._names


def test_tiny_tokenizer_has_llamas_settings(tiny):
    assert tiny.base == 1024
    assert (tiny.unk, tiny.bos, tiny.eos) == (0, 1, 2)
    assert tiny._sp.pad_id() == -1
    assert [tiny._sp.id_to_piece(3 + b) for b in range(256)] == [f"<0x{b:02X}>" for b in range(256)]
    assert all(sum(c.isdigit() for c in p) <= 1 for p in tiny._names[259 : tiny.base])
    assert sentencepiece.SentencePieceProcessor(model_proto=tiny.model).encode("a", out_type=str) == ["▁a"]


def test_tiny_tokenizer_reads_every_prompt_in_pieces_longer_than_bytes(tiny):
    for name, task in PROMPTS["tasks"].items():
        for variant in task["variants"].values():
            ids = tokens.build_prompt(tiny, variant["instruction"])
            assert tiny.unk not in ids, name
            pieces = [tiny._names[i] for i in ids]
            assert not [p for p in pieces if p.startswith("<0x") and p != "<0x0A>"], name
            assert len(ids) < 110, name
            assert tiny.decode_plain(ids[1:]) != ""


# -------------------------------------------------------------------------------------------------- the gated tokenizer


@pytest.mark.skipif(
    "CRAB_LLAMA_TOKENIZER" not in os.environ, reason="CRAB_LLAMA_TOKENIZER names no LLaMA-2 tokenizer.model"
)
def test_llama_2():
    """The vector of specification 7.2: from `<s>` through the blank line that closes the system block."""
    tokenizer = Tokenizer.load(os.environ["CRAB_LLAMA_TOKENIZER"], base_vocabulary=32000)
    head = [1, 29961, 25580, 29962, 3532, 14816, 29903, 6778, 13, 3492, 526, 263, 8444, 20255, 29889, 13]
    tail = [29966, 829, 14816, 29903, 6778, 13, 13]
    assert tokens.build_prompt(tokenizer, "This is a video:")[:23] == head + tail
    assert tokenizer.encode("It is <mask_start>")[-2:] == [29871, 32009]
