"""Media that cannot be used: each has its own message, and nothing but a MediaError comes out."""

from __future__ import annotations

import os
import pathlib
import pickle
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from media_files import cut, tone, write_sound, write_video
from PIL import Image

from data_pipelines import audio, image, windows
from data_pipelines.decode import MediaError, probe, read_audio, read_image, read_mask, read_semantic_mask, read_video


def video(path):
    return read_video(path, frames=4, size=16)


def picture(path):
    return read_image(path, size=16)


def mask(path):
    return read_mask(path, size=16)


def semantic(path):
    return read_semantic_mask(path, size=16)


READERS = [video, read_audio, picture, mask, semantic, probe]


def noise(i, width, height):
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


def message(reader, path) -> str:
    with pytest.raises(MediaError) as caught:
        reader(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: expected ")
    assert ", found " in text
    return text.removeprefix(str(path))


# ------------------------------------------------------------------------------------------- no media at all


@pytest.mark.parametrize("reader", READERS)
class TestEveryReader:
    def test_missing(self, reader, tmp_path):
        assert "no such file" in message(reader, tmp_path / "none.mp4")
        assert "does not exist either" in message(reader, tmp_path / "nowhere" / "none.mp4")

    def test_folder(self, reader, tmp_path):
        assert "a folder" in message(reader, tmp_path)

    def test_empty(self, reader, tmp_path):
        path = tmp_path / "empty.mp4"
        path.touch()
        assert "an empty file" in message(reader, path)

    @pytest.mark.skipif(not pathlib.Path("/dev/zero").exists(), reason="needs a device file")
    def test_device(self, reader):
        assert "not a plain file" in message(reader, pathlib.Path("/dev/zero"))

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
    def test_unreadable(self, reader, tmp_path):
        path = tmp_path / "secret.mp4"
        path.write_bytes(b"secret")
        path.chmod(0)
        assert "cannot be read" in message(reader, path)

    @pytest.mark.parametrize("ending", ["mp4", "wav", "jpg", "png"])
    def test_text(self, reader, tmp_path, ending):
        path = tmp_path / f"note.{ending}"
        path.write_text("This is no media. Это не медиа.\n" * 200)
        assert "a text file (it starts 'This is no media." in message(reader, path)
        for encoding in ("utf-16", "cp1251"):
            path.write_text("This is no media. Это не.\n" * 200 + 4000 * "no media ", encoding=encoding)
            assert "a text file" in message(reader, path)

    def test_error_page_of_a_download(self, reader, tmp_path):
        path = tmp_path / "clip.mp4"
        path.write_text("<!DOCTYPE html><html><body>404</body></html>")
        assert "an HTML page" in message(reader, path)

    def test_zeros(self, reader, tmp_path):
        path = tmp_path / "clip.mp4"
        path.write_bytes(bytes(10_000))
        assert "are zero" in message(reader, path)

    def test_random_bytes(self, reader, tmp_path):
        path = tmp_path / "clip.mp4"
        path.write_bytes(b"\x01\x80" + np.random.default_rng(0).bytes(10_000))
        assert "no known media format" in message(reader, path)

    def test_archive(self, reader, tmp_path):
        path = tmp_path / "clip.mp4"
        path.write_bytes(b"PK\x03\x04" + bytes(100))
        assert "a ZIP archive" in message(reader, path)


def test_a_playlist_is_text_and_is_not_followed(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", frames=4)
    for name, text in {"list.mp4": f"ffconcat version 1.0\nfile '{clip}'\n", "list.m3u8": f"#EXTM3U\n{clip}\n"}.items():
        (tmp_path / name).write_text(text)
        assert "a text file" in message(video, tmp_path / name)


def test_errors_travel_between_processes(tmp_path):
    with pytest.raises(MediaError) as caught:
        video(tmp_path / "none.mp4")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert isinstance(caught.value, ValueError)


# ------------------------------------------------------------------------------------------- mislabelled


@pytest.fixture
def samples(tmp_path):
    """One good file of each kind."""
    folder = tmp_path / "good"
    folder.mkdir()
    Image.fromarray(noise(0, 64, 48)).save(folder / "image.jpg")
    write_sound(folder / "sound.wav", tone(1, 16_000), 16_000)
    write_video(folder / "video.mp4", frames=10, sound=tone(1, 44_100))
    return folder


def rename(path: pathlib.Path, name: str) -> pathlib.Path:
    return path.rename(path.parent / name)


def test_image_called_video(samples):
    path = rename(samples / "image.jpg", "clip.mp4")
    assert "a JPEG image" in message(video, path)
    assert "a JPEG image" in message(read_audio, path)
    assert "a JPEG image" in message(probe, path)


def test_video_called_image(samples):
    path = rename(samples / "video.mp4", "frame.jpg")
    assert "an MP4 or MOV file" in message(picture, path)
    assert "an MP4 or MOV file" in message(mask, path)


def test_sound_called_video_or_image(samples):
    path = rename(samples / "sound.wav", "clip.mp4")
    assert "no video stream, only an audio stream" in message(video, path)
    assert "a WAV file" in message(picture, rename(path, "frame.png"))


def test_the_name_itself_does_not_matter(samples):
    assert len(video(rename(samples / "video.mp4", "clip.txt"))) == 4
    assert len(read_audio(rename(samples / "sound.wav", "sound.mp3"))) == 16_000
    assert picture(rename(samples / "image.jpg", "image.png")).shape == (16, 16, 3)


# ------------------------------------------------------------------------------------------- video


def test_video_without_sound_is_never_silence(tmp_path):
    path = write_video(tmp_path / "silent.mp4", frames=5)
    text = message(read_audio, path)
    assert "no audio stream, only a video stream (h264)" in text
    assert "audio_path" in text


def test_sound_without_video(tmp_path):
    path = write_video(tmp_path / "sound.mp4", frames=0, width=0, sound=tone(1, 44_100))
    assert "no video stream, only an audio stream (aac)" in message(video, path)
    assert len(read_audio(path)) > 15_000


def test_cover_picture_is_no_video(tmp_path):
    path = write_sound(tmp_path / "song.mp3", tone(1, 44_100), 44_100, subtype="MPEG_LAYER_III")
    Image.fromarray(noise(0, 32, 32)).save(tmp_path / "cover.jpg")
    cover = (tmp_path / "cover.jpg").read_bytes()
    body = b"\0image/jpeg\0\x03\0" + cover
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\x03\0\0" + size + frame + path.read_bytes())
    assert "a cover picture" in message(video, path)
    assert probe(path).has_video is False
    assert len(read_audio(path)) == pytest.approx(16_000, abs=1_000)


@pytest.mark.parametrize(("ending", "codec"), [("avi", "mpeg4"), ("mp4", "libx264"), ("mkv", "libx264")])
def test_zero_frames(tmp_path, ending, codec):
    path = write_video(tmp_path / f"none.{ending}", frames=0, codec=codec)
    text = message(video, path)
    assert any(words in text for words in ("no frames", "no stream at all", "cut short"))
    if ending == "avi":
        assert "a video stream with no frames" in text


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01])
@pytest.mark.parametrize(("ending", "options"), [("mp4", {}), ("mp4", {"movflags": "+faststart"}), ("mkv", {})])
def test_truncated_video(tmp_path, ending, options, share):
    path = write_video(
        tmp_path / f"cut.{ending}",
        frames=40,
        picture=noise,
        codec_options={"qp": "20"},
        sound=tone(4, 44_100),
        options=options,
    )
    cut(path, share)
    assert "cut short" in message(video, path)
    assert "cut short" in message(read_audio, path)
    if not options:
        return
    # The index is there, so it can say how much is missing.
    if share > 0.05:
        assert "it announces 4.0" in message(video, path)


def test_a_frame_may_be_missing_but_not_many(tmp_path):
    path = write_video(
        tmp_path / "tail.mp4",
        frames=120,
        picture=noise,
        codec_options={"qp": "20", "g": "1"},
        options={"movflags": "+faststart"},
    )
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert len(video(path)) == 4
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    text = message(video, path)
    assert "of 120 frames can be decoded" in text


def test_damaged_sound_track(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=0, width=0, sound=tone(4, 44_100), options={"movflags": "+faststart"})
    data = bytearray(path.read_bytes())
    first = data.index(b"mdat") + 8
    for place in range(first + (len(data) - first) // 3, first + (len(data) - first) * 2 // 3):
        data[place] ^= 0x5A
    path.write_bytes(data)
    text = message(read_audio, path)
    assert "damaged sound track" in text
    assert "packets cannot be decoded" in text


def test_sound_track_with_a_hole(tmp_path):
    path = tmp_path / "hole.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for start in (0, 3 * 16_000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert "gaps: 2.00 s of sound in 4.00 s of time" in message(read_audio, path)


def test_nonsense_requests_are_no_media_errors(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=3)
    with pytest.raises(ValueError, match="at least one frame and pixel"):
        read_video(path, frames=0, size=16)


# ------------------------------------------------------------------------------------------- sound


@pytest.mark.parametrize("share", [0.9, 0.3])
@pytest.mark.parametrize(
    ("ending", "subtype", "words"),
    [
        ("wav", "PCM_16", "bytes of samples and holds"),
        ("aiff", "PCM_16", "bytes of samples and holds"),
        ("flac", "PCM_16", "damaged"),
        ("mp3", "MPEG_LAYER_III", "it announces 3.0"),
        ("ogg", "VORBIS", "in the middle of a page"),
    ],
)
def test_truncated_sound(tmp_path, ending, subtype, words, share):
    path = write_sound(tmp_path / f"cut.{ending}", tone(3, 44_100, channels=2), 44_100, subtype=subtype)
    assert words in message(read_audio, cut(path, share))


def test_the_last_percent_may_be_missing(tmp_path):
    path = write_sound(tmp_path / "cut.wav", tone(3, 16_000), 16_000)
    assert len(read_audio(cut(path, 0.995))) == pytest.approx(3 * 16_000 * 0.995, abs=50)


def test_a_wav_that_was_streamed_does_not_know_its_length(tmp_path):
    path = write_sound(tmp_path / "piped.wav", tone(1, 16_000), 16_000)
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(read_audio(path)) == 16_000


def test_only_the_header_of_a_sound(tmp_path):
    path = write_sound(tmp_path / "none.wav", np.zeros((1, 0), np.float32), 16_000)
    assert "0 samples" in message(read_audio, path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers(tmp_path, value):
    sound = tone(1, 16_000)
    sound[0, 500] = value
    path = write_sound(tmp_path / "nan.wav", sound, 16_000, subtype="FLOAT")
    assert "not finite" in message(read_audio, path)


def test_very_long_sound_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write_sound(tmp_path / "long.wav", tone(3, 8_000), 8_000)
    movie = write_video(tmp_path / "long.mp4", frames=30, sound=tone(3, 44_100))
    monkeypatch.setattr(audio, "MAX_AUDIO_S", 2)
    assert "at most 2 s of sound, found 3 s" in message(read_audio, path)
    assert "at most 2 s of sound" in message(read_audio, movie)


def test_header_of_a_known_format_with_rubbish_behind(tmp_path):
    for name, magic in {
        "a.wav": b"RIFF\x10\x10\0\0WAVE",
        "a.flac": b"fLaC",
        "a.mp4": b"\0\0\0\x20ftypisom",
        "a.ogg": b"OggS",
    }.items():
        path = tmp_path / name
        path.write_bytes(magic + np.random.default_rng(0).bytes(5_000))
        assert ", found " in message(read_audio, path)
        assert ", found " in message(video, path)


# ------------------------------------------------------------------------------------------- windows


def test_sound_too_short_for_its_windows():
    for rule, seconds, second, most, least in [
        ("each_second", 10, None, 27_999, "1.750 s"),
        ("each_second", 5, None, 13_999, "0.875 s"),
        ("six_second_grid", 60, None, 83_999, "5.250 s"),
        ("one_second_of_image", 5, 0, 13_999, "0.875 s"),
    ]:
        arguments = {"rule": rule, "seconds": seconds, "second": second}
        with pytest.raises(MediaError, match=rf"song.wav: expected at least {least} .*, found {most / 16_000:.2f} s"):
            windows.log_mel_windows(np.zeros(most, np.float32), **arguments, where="song.wav")
        assert windows.log_mel_windows(np.zeros(most + 1, np.float32), **arguments).shape[1] == 16
    with pytest.raises(MediaError, match="0 samples"):
        windows.log_mel_windows(np.zeros(0, np.float32), rule="whole_seconds")


def test_sound_too_long_for_its_windows():
    wave = np.zeros(16_000 * 301, np.float32)
    with pytest.raises(MediaError, match=r"at most 300 s .* found 301.00 s; cut the clip"):
        windows.audio_windows(wave, rule="each_second", seconds=10)
    assert windows.audio_windows(wave[:-16_000], rule="each_second", seconds=10).shape == (10, 480_000)
    wave = np.broadcast_to(np.float32(0), 16_000 * 901)
    with pytest.raises(MediaError, match="at most 900 s"):
        windows.audio_windows(wave, rule="six_second_grid", seconds=60)


@pytest.mark.parametrize("second", [5, -1, 300])
def test_image_of_a_second_that_the_sound_does_not_have(second):
    with pytest.raises(MediaError, match=f"named after its second, 0 to 4, found second {second}"):
        windows.audio_windows(np.zeros(80_000, np.float32), rule="one_second_of_image", seconds=5, second=second)


# ------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("reader", [picture, mask, semantic])
@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "gif", "tif"])
@pytest.mark.parametrize("share", [0.7, 0.02])
def test_truncated_image(tmp_path, reader, ending, share):
    path = tmp_path / f"cut.{ending}"
    Image.fromarray(noise(0, 131, 77)).save(path)
    picture(path)
    text = message(reader, cut(path, share))
    assert "damaged" in text


def test_images_that_unfold_to_too_much(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (400, 300)).save(path)
    monkeypatch.setattr(image, "MAX_PIXELS", 100_000)
    assert "at most 100000 pixels, found 400 x 300 pixels" in message(picture, path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # Pillow's own limit strikes at twice this
    assert "decompression bomb" in message(picture, path)


def test_pixels_without_a_known_range(tmp_path):
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "float.tif")
    assert "32-bit pixels" in message(picture, tmp_path / "float.tif")


def test_image_formats_that_run_programs_are_not_tried(tmp_path):
    path = tmp_path / "page.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    assert "a text file" in message(picture, path)
