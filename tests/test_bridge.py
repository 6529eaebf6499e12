"""The map between what a language model says and what the mask decoder knows."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from data_pipelines.world.kinds import KINDS
from launch import bridge
from launch.pretrain_parts import codes

NAMES = list(KINDS)


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("segment out the object that corresponding to the cat, a dog-like thing in the image. It is ", {"cat"}),
        ("The object making the sound in the video is guitar, dog. The mask of the object is ", {"guitar", "dog"}),
        ("At the second second, the thing left of the dog is piano. Its mask is ", {"piano"}),
        ("At the second second, the thing left of the dog is null. Its mask is ", set()),
        ("Where is the Cat? ", set()),
    ],
)
def test_who_is_meant(text, who):
    found = bridge.meant(text, np.zeros((2, 2), np.uint8), semantic=False)
    assert {name for name, there in zip(NAMES, found) if there} == who


def test_classes_say_who_is_meant():
    mask = np.array([[0, KINDS["dog"].label], [KINDS["cat"].label, 0]], np.uint8)
    found = bridge.meant("The mask of the object is guitar. ", mask, semantic=True)
    assert {name for name, there in zip(NAMES, found) if there} == {"dog", "cat"}


def made(rng, count=600, width=32, tokens=6):
    """States that hold a code, turned, made small, and moved by what is the same for everybody."""
    named = rng.random((count, len(NAMES))) < 0.08
    named[np.arange(count), rng.integers(len(NAMES), size=count)] = True
    wanted = named @ np.asarray(codes(width), np.float64) / np.sqrt(named.sum(1, keepdims=True))
    turn, _ = np.linalg.qr(rng.standard_normal((width, width)))
    states = 0.1 * wanted @ turn + 3 * rng.standard_normal(width)
    states = states[:, None] + 0.001 * rng.standard_normal((count, tokens, width))
    return bridge.Said(states.astype(np.float32), named), wanted


def test_a_map_is_found():
    said, wanted = made(np.random.default_rng(0))
    matrix, vector = bridge.fit(said, wanted, 1e-4)
    assert np.abs(said.states @ matrix + vector - wanted[:, None]).mean() < 0.1
    weak = bridge.fit(said, wanted, 10.0)[0]
    kept = said.states - said.states.mean((0, 1))
    for found in (matrix, weak):
        size = (
            ((kept @ found) * (wanted - wanted.mean(0))[:, None]).sum() / np.square(wanted - wanted.mean(0)).sum() / 6
        )
        assert size == pytest.approx(1, rel=1e-3), "codes are as large as the decoder knows them"


def test_the_decoder_draws_of_states_what_it_drew_of_codes(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(1)
    said, wanted = made(rng)
    kernel, bias = rng.standard_normal((32, 16)).astype(np.float32), rng.standard_normal(16).astype(np.float32)
    other = {"mask_decoder/no_mask": np.ones(4, np.float32)}
    save_file({f"{bridge.PROMPT}/kernel": kernel, f"{bridge.PROMPT}/bias": bias, **other}, tmp_path / "d.safetensors")
    monkeypatch.setattr(bridge, "read_whole", lambda *_, **__: None)
    monkeypatch.setattr(bridge, "listen", lambda *_: said)
    line = ["--run", "run", "--decoder", str(tmp_path / "d.safetensors"), "--shards", "s", "--ridge", "1e-4"]
    bridge.main([*line, "--out", str(tmp_path / "b.safetensors")])
    assert "understood 100.0% of" in capsys.readouterr().out
    new = load_file(tmp_path / "b.safetensors")
    assert new.keys() == {f"{bridge.PROMPT}/kernel", f"{bridge.PROMPT}/bias", *other}
    heard = said.states.mean(1) @ new[f"{bridge.PROMPT}/kernel"] + new[f"{bridge.PROMPT}/bias"]
    told = wanted @ kernel + bias
    assert np.abs(heard - told).mean() < 0.1 * np.abs(told - told.mean(0)).mean()
    assert np.array_equal(new["mask_decoder/no_mask"], other["mask_decoder/no_mask"])


def test_a_file_without_a_decoder(tmp_path, capsys):
    save_file({"clip/positions": np.zeros((2, 2), np.float32)}, tmp_path / "eye.safetensors")
    line = ["--run", "run", "--decoder", str(tmp_path / "eye.safetensors"), "--shards", "s"]
    with pytest.raises(SystemExit):
        bridge.main([*line, "--out", str(tmp_path / "b.safetensors")])
    assert "expected mask_decoder/prompt/lin1/kernel, found none" in capsys.readouterr().err
