"""What a language model concludes is judged question by question."""

import dataclasses

import jax
import numpy as np
import pytest
from language_pools import CONFIG

from launch import judge_conclusions as jc
from launch.language_losses import Said
from launch.task_questions import conclusions

LLAMA = dataclasses.replace(CONFIG, llama=dataclasses.replace(CONFIG.llama, lora=None))


@pytest.fixture
def knows(monkeypatch):
    """A language model that says what is right, but for some tokens, which it takes for others."""

    def of(**mistakes):
        wrong = {jc.Tokenizer.tiny().encode(a)[0]: jc.Tokenizer.tiny().encode(b)[0] for a, b in mistakes.items()}

        def read(config, params, batch, given):
            said = batch.labels
            for token, other in wrong.items():
                said = jax.numpy.where(batch.labels == token, other, said)
            return Said(None, jax.nn.one_hot(said, config.llama.vocab_size), None, None)

        monkeypatch.setattr(jc, "read", read)
        return jc.judged(LLAMA, {}, conclusions(np.random.default_rng(5)), 200)

    return of


def test_who_knows_everything_is_right(knows):
    right = knows()
    assert all(map(all, right.values()))
    assert sum(map(len, right.values())) >= 200
    assert {"sound_exists", "louder", "how_many_silent", "beside"} <= set(right)


def test_only_what_follows_counts(knows):
    """`can be` follows, `hear` is noticed."""
    right = knows(be="a", hear="see")
    wrong = {template for template, answers in right.items() if not all(answers)}
    assert "how_many_silent" in wrong
    assert not wrong & {
        "how_many_heard",
        "sound_exists",
        "is_seen",
        "louder",
        "where_loudest",
        "at_the_end",
        "who_starts",
    }


def test_a_file_without_a_language_model(tmp_path, capsys):
    with pytest.raises(SystemExit):
        jc.main([str(tmp_path / "nothing.safetensors")])
    assert "nothing.safetensors" in capsys.readouterr().err
