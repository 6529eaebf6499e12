"""What the readers make of good media: every format, rate and shape against a second way of reading it."""

from __future__ import annotations

import inspect
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import numbered, numbers, rotate_mp4, tone, write_sound, write_video
from PIL import Image

from data_pipelines import fbank, windows
from data_pipelines.decode import (
    PALETTE,
    MediaError,
    colors_from_labels,
    frame_indices,
    labels_from_colors,
    probe,
    read_audio,
    read_image,
    read_mask,
    read_semantic_mask,
    read_video,
)
from data_pipelines.image import read_picture

DATA = pathlib.Path(__file__).parent / "data"

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


# ------------------------------------------------------------------------------------------------- images and masks


@pytest.fixture
def picture():
    """131 x 77, smooth, with all channels different.  uint8 [77 131 3]"""
    y, x = np.mgrid[:77, :131]
    return np.stack([x, 3 * y, (x + y) % 256], axis=-1).astype(np.uint8)


def test_images_are_squashed_bicubically(tmp_path, picture):
    picture += np.random.default_rng(0).integers(0, 9, picture.shape, dtype=np.uint8)  # detail that tells filters apart
    Image.fromarray(picture).save(tmp_path / "a.png")
    want = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", size=224), want)
    assert read_image(tmp_path / "a.png", size=50).shape == (50, 50, 3)


def test_pictures_to_look_at_keep_their_proportions(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), picture)
    assert read_picture(tmp_path / "a.png", longest=65).shape == (38, 65, 3)


def same_size(path, array):
    """The image as read, without a change of size (square files only)."""
    Image.fromarray(array).save(path)
    return read_image(path, size=array.shape[0])


def test_alpha_is_dropped_not_blended(tmp_path, picture):
    square = picture[:64, :64]
    alpha = np.zeros((64, 64, 1), np.uint8)
    np.testing.assert_array_equal(same_size(tmp_path / "a.png", np.concatenate([square, alpha], axis=2)), square)
    gray = square[..., :1]
    out = same_size(tmp_path / "la.png", np.concatenate([gray, alpha], axis=2))
    np.testing.assert_array_equal(out, np.repeat(gray, 3, axis=2))


def test_gray_bilevel_palette_and_cmyk(tmp_path, picture):
    square = picture[:64, :64]
    np.testing.assert_array_equal(same_size(tmp_path / "l.png", square[..., 0]), np.repeat(square[..., :1], 3, axis=2))
    Image.fromarray(square[..., 0] > 20).save(tmp_path / "1.png")
    assert set(np.unique(read_image(tmp_path / "1.png", size=64))) == {0, 255}
    Image.fromarray(colors_from_labels(np.arange(64 * 64).reshape(64, 64) % 71)).convert("P").save(
        tmp_path / "p.png", transparency=0
    )
    assert read_image(tmp_path / "p.png", size=64).shape == (64, 64, 3)
    flat = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    flat.save(tmp_path / "c.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "c.jpg", size=64).reshape(-1, 3).mean(0), (0, 255, 255), atol=4)


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    deep = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    out = same_size(tmp_path / "deep.png", deep)
    np.testing.assert_array_equal(out, np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_the_first_picture_of_an_animation(tmp_path):
    first, second = Image.new("RGB", (16, 16), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 255, 0))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif", size=8)[0, 0], (255, 0, 0))


@pytest.mark.parametrize("ending", ["bmp", "webp", "tif", "ppm", "jp2", "tga", "mpo"])
def test_other_image_formats(tmp_path, picture, ending):
    square = Image.fromarray(picture[:64, :64])
    options = {"webp": {"lossless": True}, "mpo": {"save_all": True, "append_images": [square], "quality": 95}}
    square.save(tmp_path / f"a.{ending}", **options.get(ending, {}))
    error = np.abs(read_image(tmp_path / f"a.{ending}", size=64).astype(int) - picture[:64, :64])
    assert error.max() <= (20 if ending == "mpo" else 0)


def test_orientation_counts_for_masks_and_not_for_images(tmp_path):
    """As in the reference, whose images go through Pillow and whose masks go through OpenCV."""
    array = np.zeros((8, 8, 3), np.uint8)
    array[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png", size=8), array)
    np.testing.assert_array_equal(read_mask(tmp_path / "turned.png", size=8), np.rot90(array[..., 0] > 0, -1))


@pytest.mark.parametrize("shape", [(540, 720), (77, 131), (8, 8), (100, 300)])
def test_binary_masks_take_the_pixel_at_the_floor(tmp_path, shape):
    labels = (np.random.default_rng(0).integers(0, 4, shape) * 85).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "m.png")
    out = read_mask(tmp_path / "m.png", size=224)
    assert out.dtype == np.uint8
    for i, j in np.random.default_rng(1).integers(0, 224, (200, 2)):
        assert out[i, j] == (labels[int(i * shape[0] / 224), int(j * shape[1] / 224)] > 0)


def test_the_gray_value_of_a_mask_is_rounded(tmp_path):
    """OpenCV: 0.299 R + 0.587 G + 0.114 B, to the nearest integer, in fixed point."""
    dark = [(1, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 4), (0, 0, 5), (1, 0, 1), (1, 0, 2), (0, 0, 0)]
    Image.fromarray(np.tile(np.array(dark, np.uint8)[None], (8, 1, 1))).save(tmp_path / "m.png")
    want = [0.299 * r + 0.587 * g + 0.114 * b >= 0.5 for r, g, b in dark]
    assert read_mask(tmp_path / "m.png", size=8)[0].tolist() == want


def test_masks_of_other_depths(tmp_path):
    alpha = np.zeros((8, 8, 4), np.uint8)
    alpha[..., 0] = 9  # visible to OpenCV, although fully transparent
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert read_mask(tmp_path / "alpha.png", size=8).all()
    deep = np.full((8, 8), 255, np.uint16)  # below the upper eight bits
    deep[0] = 256
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_mask(tmp_path / "deep.png", size=8).sum() == 8
    Image.fromarray(np.eye(8) > 0).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png", size=8), np.eye(8))


def test_palette():
    assert PALETTE.shape == (71, 3)
    assert len({tuple(c) for c in PALETTE}) == 71
    # From the published VOC colour map.
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        7: (128, 128, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
    }
    assert {k: tuple(PALETTE[k].tolist()) for k in known} == known


@given(st.lists(st.integers(0, 70), min_size=1, max_size=30))
def test_colours_and_labels_are_inverse(labels):
    np.testing.assert_array_equal(labels_from_colors(colors_from_labels(np.array(labels))), labels)


def test_semantic_masks(tmp_path):
    labels = np.random.default_rng(0).integers(0, 71, (77, 131))
    colors = colors_from_labels(labels)
    colors[5, :100] = (1, 2, 3)  # of no class
    Image.fromarray(colors).save(tmp_path / "m.png")
    labels[5, :100] = 0
    rows, columns = (np.floor((np.arange(224) + 0.5) * n / 224).astype(int) for n in (77, 131))
    np.testing.assert_array_equal(read_semantic_mask(tmp_path / "m.png", size=224), labels[rows][:, columns])


def test_a_semantic_mask_of_other_colours_is_refused(tmp_path):
    labels = np.zeros((77, 131), int)
    labels[:40] = 3
    Image.fromarray(colors_from_labels(labels)).save(tmp_path / "m.jpg", quality=95)
    message = r"m.jpg: expected a mask in the 71 colours.*, found other colours in 5\d\.\d% of the pixels; .*JPEG"
    with pytest.raises(MediaError, match=message):
        read_semantic_mask(tmp_path / "m.jpg", size=224)


def test_a_label_without_colour_is_refused():
    with pytest.raises(ValueError, match="0 to 70, found 0 to 71"):
        colors_from_labels(np.array([0, 71]))


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
