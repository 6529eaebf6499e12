"""What the readers make of good images and masks: every format, depth and shape against a second way of reading it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.decode import (
    PALETTE,
    MediaError,
    colors_from_labels,
    labels_from_colors,
    read_image,
    read_mask,
    read_semantic_mask,
)
from data_pipelines.image import read_picture


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
