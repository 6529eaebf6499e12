"""What the readers make of good videos and sounds: every format and rate against a second way of reading it."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from media_files import numbered, numbers, rotate_mp4, tone, write_sound, write_video
from PIL import Image

from data_pipelines.decode import frame_indices, probe, read_audio, read_video

# ------------------------------------------------------------------------------------------------------------- video


@given(length=st.integers(1, 100_000), frames=st.sampled_from([1, 5, 8, 10, 16]))
def test_frame_indices_are_the_float_arange_of_the_reference(length, frames):
    n = min(frames, length)
    reference = np.arange(0, length, length / n).astype(int)[:n]
    ours = frame_indices(length, frames=frames)
    assert ours == reference.tolist()
    assert len(set(ours)) == n


@pytest.mark.parametrize(
    ("ending", "codec", "extra"),
    [
        (
            "mp4",
            "libx264",
            {"codec_options": {"bf": "3", "qp": "0"}},
        ),  # pictures are stored in another order than shown
        ("mkv", "ffv1", {"pix_fmt": "yuv444p"}),
        ("webm", "libvpx", {}),
        ("avi", "mjpeg", {"pix_fmt": "yuvj420p"}),  # packets without presentation times
        ("avi", "mpeg4", {"codec_options": {"bf": "2"}}),
        ("ts", "libx264", {"codec_options": {"bf": "2", "qp": "0"}}),
        ("gif", "gif", {"pix_fmt": "rgb8"}),
    ],
)
def test_the_right_frames_are_read_from_every_container(tmp_path, ending, codec, extra):
    path = write_video(tmp_path / f"clip.{ending}", frames=47, codec=codec, **extra)
    assert probe(path).frame_count == 47
    frames = read_video(path, frames=10, size=32)
    assert frames.shape == (10, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert numbers(frames) == frame_indices(47, frames=10)


def test_a_short_video_gives_every_frame(tmp_path):
    path = write_video(tmp_path / "short.mp4", frames=3)
    assert numbers(read_video(path, frames=10, size=32)) == [0, 1, 2]
    assert numbers(read_video(path, frames=1, size=32)) == [0]


def test_frames_are_squashed_whatever_their_shape(tmp_path):
    path = write_video(tmp_path / "odd.mp4", frames=2, width=131, height=77, pix_fmt="yuv444p")
    info = probe(path)
    assert (info.width, info.height) == (131, 77)
    frames = read_video(path, frames=2, size=224)
    assert frames.shape == (2, 224, 224, 3)
    want = Image.fromarray(numbered(1, 131, 77)).resize((224, 224), Image.Resampling.BILINEAR)
    assert np.abs(frames[1].astype(int) - np.asarray(want)).mean() < 2
    # Bilinear stays between the two grays of the picture at its edges, the sharper filters shoot beyond.
    assert frames.min() >= 17
    assert frames.max() <= 223


@pytest.mark.parametrize(("clockwise", "turns"), [(90, -1), (180, 2), (270, 1)])
def test_pictures_are_turned_upright(tmp_path, clockwise, turns):
    def picture(i, width, height):
        image = np.full((height, width, 3), 30, np.uint8)
        image[: height // 2, : width // 2] = 220
        return image

    plain = write_video(tmp_path / "plain.mp4", frames=2, width=64, height=48, picture=picture)
    before = read_video(plain, frames=1, size=32)[0].astype(int)
    turned = rotate_mp4(plain, clockwise=clockwise)
    assert np.abs(read_video(turned, frames=1, size=32)[0] - np.rot90(before, turns)).max() <= 2
    info = probe(turned)
    assert (info.width, info.height) == ((64, 48) if clockwise == 180 else (48, 64))


# ITU-R BT.601 and BT.709, limited and full range, as FFmpeg numbers them.
@pytest.mark.parametrize("colorspace", [1, 5])
@pytest.mark.parametrize("color_range", [1, 2])
def test_the_colour_matrix_and_range_of_the_file_are_used(tmp_path, colorspace, color_range):
    color = np.array([30, 200, 90], np.uint8)
    path = write_video(
        tmp_path / "colour.mp4",
        frames=2,
        picture=lambda i, width, height: np.broadcast_to(color, (height, width, 3)).copy(),
        pix_fmt="yuv444p",
        colorspace=colorspace,
        color_range=color_range,
    )
    assert np.abs(read_video(path, frames=1, size=16)[0].astype(int) - color).max() <= 2


def test_probe(tmp_path):
    with_sound = probe(write_video(tmp_path / "a.mp4", frames=20, rate=10, sound=tone(2, 44100)))
    assert (with_sound.has_video, with_sound.has_audio) == (True, True)
    assert with_sound.duration_s == pytest.approx(2, abs=0.05)
    assert with_sound.fps == pytest.approx(10)
    silent = probe(write_video(tmp_path / "b.mp4", frames=5))
    assert (silent.has_video, silent.has_audio, silent.frame_count) == (True, False, 5)
    sound = probe(write_sound(tmp_path / "c.wav", tone(1, 8000), 8000))
    assert (sound.has_video, sound.has_audio, sound.frame_count) == (False, True, 0)


def test_names_are_names_and_no_addresses(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", frames=4).rename(tmp_path / "-http:clip [1] %d?.mp4")
    assert len(read_video(path, frames=2, size=16)) == 2
    monkeypatch.chdir(tmp_path)
    assert len(read_video(path.name, frames=2, size=16)) == 2


# ------------------------------------------------------------------------------------------------------------- sound


def librosa_load(path):
    librosa = pytest.importorskip("librosa")
    return librosa.load(path, sr=16_000, mono=True)[0]


FORMATS = [
    *(("wav", kind) for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "MS_ADPCM")),
    ("flac", "PCM_24"),
    ("ogg", "VORBIS"),
    ("ogg", "OPUS"),
    ("mp3", "MPEG_LAYER_III"),
    ("aiff", "PCM_16"),
]


@pytest.mark.parametrize(("ending", "subtype"), FORMATS)
def test_sound_files_equal_librosa_in_every_bit(tmp_path, ending, subtype):
    rate = 48_000
    path = write_sound(tmp_path / f"a.{ending}", tone(0.7, rate, channels=2), rate, subtype=subtype)
    ours = read_audio(path)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, librosa_load(path))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 24_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_rate_and_number_of_channels(tmp_path, rate, channels):
    path = write_sound(tmp_path / "a.wav", tone(0.7, rate, channels=channels), rate)
    ours = read_audio(path)
    assert ours.shape == (-(-round(0.7 * rate) * 16_000 // rate),)
    np.testing.assert_array_equal(ours, librosa_load(path))


def test_long_sound_is_read_in_blocks_that_leave_no_seam(tmp_path):
    path = write_sound(
        tmp_path / "long.flac", np.tile(tone(7, 16_000, channels=2), (1, 10)), 16_000
    )  # over 2^20 samples
    np.testing.assert_array_equal(read_audio(path), librosa_load(path))


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_a_sound_track_equals_the_same_samples_in_a_sound_file(tmp_path, rate, channels):
    integers = np.round(tone(1, rate, channels=channels) * 32_767).astype(np.int16)
    sound = integers.astype(np.float32) / 32_768
    track = write_video(tmp_path / "a.mov", frames=10, sound=sound, sound_rate=rate, sound_codec="pcm_s16le")
    file = write_sound(tmp_path / "a.wav", integers, rate)
    np.testing.assert_array_equal(read_audio(track), read_audio(file))


@pytest.mark.parametrize(
    ("ending", "codec", "rate"),
    [
        ("mp4", "aac", 44_100),
        ("m4a", "aac", 24_000),
        ("mkv", "aac", 48_000),
        ("webm", "libopus", 48_000),
        ("ts", "aac", 48_000),
    ],
)
def test_compressed_sound_tracks(tmp_path, ending, codec, rate):
    t = np.arange(2 * rate) / rate
    click = (np.abs(t - 1.25) < 0.004) * np.sin(2 * np.pi * 1000 * t) * 0.8
    path = write_video(
        tmp_path / f"a.{ending}",
        frames=0 if ending == "m4a" else 20,
        width=0 if ending == "m4a" else 64,
        codec="libvpx" if ending == "webm" else "libx264",
        sound=np.stack([click, click]).astype(np.float32),
        sound_rate=rate,
        sound_codec=codec,
    )
    wave = read_audio(path)
    assert wave.dtype == np.float32
    assert len(wave) / 16_000 == pytest.approx(2, abs=0.08)
    peak_s = np.abs(wave).argmax() / 16_000
    # The encoder's lead-in is cut where the container tells it; transport streams do not, Matroska does at times.
    assert peak_s == pytest.approx(1.25, abs=0.03 if ending in ("ts", "mkv") else 0.006)
    assert 0.5 < np.abs(wave).max() < 1.1


def test_an_mp3_without_a_length_header_is_read_to_its_end(tmp_path):
    if "bitrate_mode" not in inspect.signature(soundfile.write).parameters:
        pytest.skip("this soundfile writes no MP3 of variable bit rate")
    rate = 44_100
    t = np.arange(8 * rate) / rate
    loud_start = np.where(t < 1, 0.3 * np.random.default_rng(0).standard_normal(t.size), 0.01 * np.sin(2000 * t))
    path = tmp_path / "vbr.mp3"
    soundfile.write(path, loud_start, rate, bitrate_mode="VARIABLE", compression_level=0.1)
    data = path.read_bytes()
    tag = data.index(b"Xing")
    path.write_bytes(data[data.index(data[:2], tag) :])  # without the first frame, which is the header
    assert len(read_audio(path)) / 16_000 == pytest.approx(8, abs=0.1)


def test_reading_media_needs_neither_jax_nor_librosa():
    code = "import sys, data_pipelines.decode, data_pipelines.windows; "
    code += "print(sorted({'jax', 'librosa', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
