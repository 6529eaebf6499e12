"""Windows of sound and their log-mel spectrograms: against formulas, recorded numbers, and the reference's rules."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import tone

from data_pipelines import fbank, windows

DATA = pathlib.Path(__file__).parent / "data"

# ------------------------------------------------------------------------------------------------------------- fbank


def slow_fbank(wave):
    """Straight from the formulas, one frame and one frequency at a time."""
    mel = lambda hz: 1127 * np.log(1 + hz / 700)  # noqa: E731
    edges = [mel(20) + i * (mel(8000) - mel(20)) / 129 for i in range(130)]
    k = np.arange(512)
    out = np.zeros((1 + (len(wave) - 400) // 160, 128))
    for f in range(len(out)):
        x = wave[160 * f : 160 * f + 400].astype(np.float64) * 32768
        x = x - x.mean()
        y = np.array([x[i] - 0.97 * x[max(i - 1, 0)] for i in range(400)])
        y = y * [(0.5 - 0.5 * np.cos(2 * np.pi * i / 399)) ** 0.85 for i in range(400)]
        y = np.pad(y, (0, 112))
        power = [abs(np.sum(y * np.exp(-2j * np.pi * b * k / 512))) ** 2 for b in range(256)]
        for m in range(128):
            left, centre, right = edges[m : m + 3]
            weights = [
                max(0.0, min((mel(31.25 * b) - left) / (centre - left), (right - mel(31.25 * b)) / (right - centre)))
                for b in range(256)
            ]
            out[f, m] = np.log(max(np.dot(weights, power), 1.1920929e-07))
    return out


def test_fbank_against_the_formulas():
    wave = tone(0.05, 16_000)[0]
    np.testing.assert_allclose(fbank.fbank(wave), slow_fbank(wave), atol=2e-3)


def test_fbank_against_recorded_numbers():
    """Starts of recorded signals; tolerances are those they were recorded with."""
    recorded = np.load(DATA / "fbank.npz")
    for name, atol in {"noise": 1e-5, "chirp": 1e-5, "tone_burst": 2e-3, "impulse": 2e-3}.items():
        ours = fbank.normalised_fbank(recorded[f"{name}/wave"])
        np.testing.assert_allclose(ours, recorded[f"{name}/fbank"], atol=atol, rtol=0, err_msg=name)


@settings(deadline=None, max_examples=20)
@given(st.integers(400, 40_000))
def test_fbank_length(n):
    out = fbank.fbank(np.zeros(n, np.float32))
    assert out.shape == (1 + (n - 400) // 160, 128)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, np.log(1.1920929e-07), atol=1e-5)


def test_fbank_of_windows_is_the_fbank_of_each(monkeypatch):
    waves = tone(1, 16_000, channels=7)
    together = fbank.normalised_fbank(waves)
    assert together.shape == (7, 98, 128)
    np.testing.assert_allclose(together, [fbank.normalised_fbank(w) for w in waves], atol=1e-6)
    monkeypatch.setattr(fbank, "_CHUNK_FRAMES", 30)  # neither a whole window nor a divisor of one
    np.testing.assert_allclose(together, fbank.normalised_fbank(waves), atol=1e-6)


def test_fbank_is_the_same_for_doubles():
    wave = tone(0.3, 16_000)[0]
    np.testing.assert_array_equal(fbank.fbank(wave), fbank.fbank(wave.astype(np.float64)))


def test_fbank_refuses_what_it_cannot_hear():
    with pytest.raises(ValueError, match=r"at least 400 samples .* found 399"):
        fbank.fbank(np.zeros(399, np.float32))
    with pytest.raises(ValueError, match=r"floating-point wave .* found int16"):
        fbank.fbank(np.zeros(1000, np.int16))


# ----------------------------------------------------------------------------------------------------------- windows


@given(st.integers(30_000, 3_000_000), st.sampled_from([5, 10]))
def test_windows_of_each_second(samples, seconds):
    p = int(samples / seconds)
    bounds = windows.window_bounds(samples, rule="each_second", seconds=seconds)
    assert bounds.tolist() == [[j * p, (j + 1) * p] for j in range(seconds)]
    one = windows.window_bounds(samples, rule="one_second_of_image", seconds=seconds, second=3)
    assert one.tolist() == bounds[3:4].tolist()


@given(st.integers(90_000, 15_000_000))
def test_windows_of_the_six_second_grid(samples):
    p = int(samples / 60)
    bounds = windows.window_bounds(samples, rule="six_second_grid", seconds=60)
    reference = [[int((t - 0.5) * p), int((t + 1.5) * p)] for t in range(0, 60, 6)]
    assert bounds[1:].tolist() == reference[1:]
    assert bounds[0].tolist() == [
        reference[0][1] - 2 * p,
        reference[0][1],
    ]  # silence on the left, up to the length of all
    assert (bounds[:, 1] - bounds[:, 0] == 2 * p).all()


@given(st.integers(1, 500_000))
def test_windows_of_whole_seconds(samples):
    bounds = windows.window_bounds(samples, rule="whole_seconds")
    assert len(bounds) == -(-samples // 16_000)
    assert bounds[0, 0] == 0
    assert (np.diff(bounds) == 16_000).all()


def test_what_the_windows_hold():
    wave = np.arange(1, 60 * 16_001 + 1, dtype=np.float32)  # p is odd
    out = windows.audio_windows(wave, rule="six_second_grid", seconds=60)
    assert out.shape == (10, 32_002)
    assert (out[0, :8_001] == 0).all()
    np.testing.assert_array_equal(out[0, 8_001:], wave[:24_001])
    np.testing.assert_array_equal(out[9], wave[int(53.5 * 16_001) : int(55.5 * 16_001)])
    short = windows.audio_windows(wave[:20_000], rule="whole_seconds")
    assert short.shape == (2, 16_000)
    np.testing.assert_array_equal(short[1], np.pad(wave[16_000:20_000], (0, 12_000)))
    np.testing.assert_array_equal(
        windows.audio_windows(wave, rule="one_second_of_image", seconds=10, second=9)[0], wave[9 * 96_006 :]
    )


@pytest.mark.parametrize(
    ("rule", "seconds", "second", "clip_s", "shape"),
    [
        ("six_second_grid", 60, None, 60.0, (10, 198, 128)),
        ("each_second", 10, None, 10.0, (10, 98, 128)),
        ("each_second", 5, None, 5.02, (5, 98, 128)),
        ("one_second_of_image", 5, 4, 5.02, (1, 98, 128)),
        ("each_second", 10, None, 1.75, (10, 16, 128)),
        ("whole_seconds", None, None, 2.3, (3, 98, 128)),
    ],
)
def test_log_mel_windows(rule, seconds, second, clip_s, shape):
    wave = tone(clip_s, 16_000)[0]
    out = windows.log_mel_windows(wave, rule=rule, seconds=seconds, second=second)
    assert out.shape == shape
    assert out.dtype == np.float32


def test_rules_are_given_what_they_need():
    with pytest.raises(ValueError, match="expected an audio rule"):
        windows.window_bounds(16_000, rule="every_second", seconds=10)
    with pytest.raises(ValueError, match="needs `second`"):
        windows.window_bounds(16_000, rule="one_second_of_image", seconds=10)
    with pytest.raises(ValueError, match="takes no `second`"):
        windows.window_bounds(16_000, rule="each_second", seconds=10, second=1)
    with pytest.raises(ValueError, match="needs a positive `seconds`"):
        windows.window_bounds(16_000, rule="each_second")
    with pytest.raises(ValueError, match="takes no `seconds`"):
        windows.window_bounds(16_000, rule="whole_seconds", seconds=10)
