"""c07a: every recorded text, decoding and chat rendering of the reference's tokenizer."""

from __future__ import annotations

import pytest

from crab_jax import tokens


def open_tokenizer(case) -> tokens.Tokenizer:
    (folder,) = [f["path"] for f in case.manifest["files"] if (case.folder / f["path"] / "tokenizer.model").exists()]
    return tokens.Tokenizer.load(case.folder / folder, base_vocabulary=case.config["base_vocab_size"])


def report(case, what: str, wrong: list, number: int) -> None:
    case.note(f"values/{what}", float("inf") if wrong else 0.0, float(len(wrong)))
    assert not wrong, f"{case.name}/{what}: {len(wrong)} of {number} differ, first {wrong[0]}"


@pytest.mark.case("c07a")
def test_tokenizer(case):
    tokenizer = open_tokenizer(case)
    values = case.manifest["values"]

    added = {t: tokenizer.id(t) for t in tokens.ADDED_TOKENS}
    report(case, "added_tokens", [added] if added != case.config["added_tokens"] else [], len(added))
    assert tokenizer.pad == case.config["pad_token_id"]

    wrong = []
    for entry in values["tokenize"]:
        ids = tokenizer.encode(entry["text"])
        pieces = tokenizer.tokenize(entry["text"])
        if ids != entry["ids"] or pieces != entry.get("tokens", pieces):
            wrong.append((entry["text"], ids, entry["ids"]))
    report(case, "tokenize", wrong, len(values["tokenize"]))

    wrong = []
    for entry in values["decode"]:
        for key, skip in (("decode_keep", False), ("decode_skip", True)):
            if (text := tokenizer.decode(entry["ids"], skip_special=skip)) != entry[key]:
                wrong.append((entry["ids"], text, entry[key]))
    report(case, "decode", wrong, 2 * len(values["decode"]))

    chats = values["chat"] if isinstance(values["chat"], list) else [values["chat"]]
    wrong = []
    for chat in chats:
        if (text := tokens.render_chat(chat["user"], system=chat["system"])) != chat["rendered"]:
            wrong.append((chat["user"], text, chat["rendered"]))
    report(case, "chat", wrong, len(chats))

    unchecked = set(values) - {"tokenize", "decode", "chat"}
    assert not unchecked, f"recorded but not compared: {sorted(unchecked)}"
    assert not case.tensors, f"recorded but not compared: {sorted(case.tensors)}"
