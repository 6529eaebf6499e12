"""Pictures of results: right sizes, the marks are where they should be, and nothing odd breaks them."""

import io
import itertools
import string

import numpy as np
import pytest
from PIL import Image, ImageDraw

from crab_jax import draw
from crab_jax.draw import marks, sheet, times
from data_pipelines.image import PALETTE, read_mask, read_semantic_mask

NAMES = tuple(f"class-{k}" for k in range(71))
GRAY = np.full((120, 160, 3), 128, np.uint8)
UGLY = [
    "",
    " ",
    "x" * 30_000,
    "\n" * 50,
    "<s>" + "<unk>" * 400 + "</s>",
    "".join(map(chr, range(1, 0x3000))),
    "你好，世界 · привет · مرحبا · हिन्दी · e\u0301\u0301\u0301 · \U0001f600 · \ud800 · \x00\x07\x1b[31m · \u202e",
]


def arrays(image):
    return np.asarray(image).astype(int)


@pytest.fixture
def written(monkeypatch):
    """Every text that is drawn."""
    texts, text = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda d, at, words, **k: texts.append(words) or text(d, at, words, **k)
    )
    return texts


def near(image, colour, tolerance=3):
    """Pixels of a colour."""
    return (np.abs(arrays(image) - np.array(colour)).max(-1)) <= tolerance


def check(image):
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"
    assert image.width == draw.WIDTH
    assert 60 < image.height < 4000


def tiles(image, size):
    """Where the two pictures stand, for pictures of that width and height."""
    room = (draw.WIDTH - 2 * sheet.PAD - sheet.GAP) // 2
    scale = min(room / size[0], sheet.TALLEST / size[1])
    width, height = round(size[0] * scale), round(size[1] * scale)
    top = sheet.PAD - 8 + 40 + sheet.GAP
    lefts = [sheet.PAD + k * (room + sheet.GAP) + (room - width) // 2 for k in range(2)]
    return [arrays(image)[top : top + height, left : left + width] for left in lefts]


def corner_mask(shape=(60, 80)):
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 2 : shape[1] * 3 // 4] = 1
    return mask


# ---------------------------------------------------------------------------------------------------------- masks


def test_the_outline_runs_along_the_edge_of_the_mask():
    picture = draw.overlay_mask(GRAY, corner_mask())
    bare, marked = tiles(picture, (160, 120))
    assert (np.abs(bare - 128) <= 1).all()
    rows, columns = np.nonzero(near(Image.fromarray(marked.astype(np.uint8)), sheet.PREDICTION, 0))
    height, width = marked.shape[:2]
    assert abs(rows.min() - height / 4) <= 1
    assert abs(rows.max() - (height / 2 - 1)) <= 1
    assert abs(columns.min() - width / 2) <= 1
    assert abs(columns.max() - (width * 3 / 4 - 1)) <= 1
    inside = marked[height * 3 // 8, width * 5 // 8]
    assert np.array_equal(inside, (0.68 * 128 + 0.32 * np.array(sheet.PREDICTION)).astype(int))
    assert (marked[5, 5] < 100).all()  # everything else is dimmed


def test_a_mask_at_the_border_of_the_picture_has_its_outline_there():
    marked = tiles(draw.overlay_mask(GRAY, np.ones((7, 9), bool)), (160, 120))[1]
    for edge in (marked[0], marked[-1], marked[:, 0], marked[:, -1]):
        assert (edge == np.array(sheet.PREDICTION)).all()
    assert (marked[10:-10, 10:-10] != np.array(sheet.PREDICTION)).any(-1).all()


@pytest.mark.parametrize(
    ("prediction", "truth", "score"),
    [
        (np.ones((4, 4)), np.ones((4, 4)), "IoU 1.00"),
        (np.eye(4), np.ones((4, 4)), "IoU 0.25"),
        (np.eye(4), np.zeros((4, 4)), "IoU 0.00"),
        (np.zeros((4, 4)), np.zeros((4, 4)), "both empty"),
        (np.ones((4, 4)), np.eye(2).repeat(4, 0).repeat(4, 1), "IoU 0.50"),  # a truth of another size
    ],
)
def test_iou(written, prediction, truth, score):
    draw.overlay_mask(GRAY, prediction, truth=truth)
    assert score in written


def test_the_score_is_really_drawn():
    same, other = (draw.overlay_mask(GRAY, np.eye(4), truth=t) for t in (np.eye(4), np.ones((4, 4))))
    assert (arrays(same)[:60, 900:] != arrays(other)[:60, 900:]).any()


def test_prediction_and_truth_have_their_own_colours_and_sides():
    left, right = tiles(draw.overlay_mask(GRAY, corner_mask(), truth=corner_mask()[::-1]), (160, 120))
    assert near(Image.fromarray(left.astype(np.uint8)), sheet.PREDICTION, 0).any()
    assert not near(Image.fromarray(left.astype(np.uint8)), sheet.TRUTH, 0).any()
    rows = np.nonzero(near(Image.fromarray(right.astype(np.uint8)), sheet.TRUTH, 0))[0]
    assert rows.min() >= right.shape[0] / 2 - 2


@pytest.mark.parametrize("empty", [np.zeros((5, 5), bool), np.zeros((1, 1), int)])
def test_an_empty_mask_says_so(empty):
    picture = draw.overlay_mask(GRAY, empty)
    check(picture)
    marked = tiles(picture, (160, 120))[1]
    assert not near(Image.fromarray(marked.astype(np.uint8)), sheet.PREDICTION, 0).any()
    assert near(Image.fromarray(marked.astype(np.uint8)), sheet.INK, 0).sum() > 1000  # the plate behind the words


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (900, 2), (31, 17), (1500, 1000), (400, 130)])
def test_any_size_of_picture(size):
    height, width = size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    mask = np.random.default_rng(1).random((28, 28)) > 0.7
    check(draw.overlay_mask(image, mask))
    check(draw.overlay_mask(image, mask, truth=~mask, title="t", answer="a"))
    check(draw.overlay_semantic(image, mask * 3, NAMES, truth=mask * 4))
    check(draw.overlay_box(image, (10, 20, 220, 223), label="thing", truth=(0, 0, 3, 3)))
    check(draw.timeline([("row", [("a", 0, 1)])], duration_s=2, frames=image[None], wave=np.zeros(3)))
    check(draw.unparsed("why", "what", image=image))


# -------------------------------------------------------------------------------------------------------- classes


def test_classes_have_the_colours_of_the_palette():
    labels = np.zeros((30, 40), np.uint8)
    labels[5:12, 5:35], labels[18:26, 5:35] = 13, 68
    picture = draw.overlay_semantic(GRAY, labels, NAMES)
    painted = tiles(picture, (160, 120))[1].astype(np.uint8)
    for label, share in ((13, 0.175), (68, 0.2)):
        rows = np.nonzero(near(Image.fromarray(painted), PALETTE[label], 0))[0]
        middle = painted.shape[0] * (8.5 if label == 13 else 22) / 30
        assert abs(rows.mean() - middle) < 0.15 * painted.shape[0]
        assert near(picture, PALETTE[label], 0).sum() > rows.size + 150  # and once more in the legend
        assert (labels == label).mean() == share


def test_the_legend_lists_who_is_there_with_their_shares(written):
    labels = np.zeros((10, 10), int)
    labels[:3] = 5
    draw.overlay_semantic(GRAY, labels, NAMES, truth=np.full((10, 10), 7))
    assert written.count("class-7") == 2  # on the picture and in the legend
    assert "30.0 % (truth 0.0 %)" in written
    assert "0.0 % (truth 100.0 %)" in written
    assert "70.0 % (truth 0.0 %)" in written  # the background
    assert "mean IoU 0.00" in written


def test_many_classes_and_names_that_are_missing():
    labels = np.random.default_rng(0).integers(0, 71, (56, 56))
    check(draw.overlay_semantic(GRAY, labels, NAMES))
    check(draw.overlay_semantic(GRAY, labels, ["background", "x" * 900]))
    check(draw.overlay_semantic(GRAY, np.zeros((4, 4), int), NAMES, truth=np.zeros((4, 4), int)))


@pytest.mark.parametrize("label", [-1, 71])
def test_a_class_outside_the_palette_is_an_error(label):
    with pytest.raises(ValueError, match="classes 0 to 70"):
        draw.overlay_semantic(GRAY, np.full((4, 4), label), NAMES)


# ---------------------------------------------------------------------------------------------------------- boxes


def test_a_box_stands_where_it_should():
    shown = tiles(draw.overlay_box(GRAY, (56, 112, 111, 167)), (160, 120))[1].astype(np.uint8)
    rows, columns = np.nonzero(near(Image.fromarray(shown), sheet.PREDICTION, 0))
    height, width = shown.shape[:2]
    assert abs(columns.min() - width / 4) <= 1
    assert abs(columns.max() - (width / 2 - 1)) <= 1
    assert abs(rows.min() - height / 2) <= 1
    assert abs(rows.max() - (height * 3 / 4 - 1)) <= 1


def test_boxes_outside_reversed_and_of_one_pixel():
    for box in ((-50, 300, 900, -4), (200, 200, 10, 10), (7, 7, 7, 7), (223, 223, 223, 223), (0, 0, 223, 223)):
        check(draw.overlay_box(GRAY, box, label="x" * 300, text="y"))
    same = draw.overlay_box(GRAY, (10, 20, 30, 40)), draw.overlay_box(GRAY, (30, 40, 10, 20))
    assert np.array_equal(*same)


def test_box_iou_counts_corners():
    assert marks.box_iou((0, 0, 9, 9), (0, 0, 9, 9)) == 1
    assert marks.box_iou((0, 0, 9, 9), (10, 0, 19, 9)) == 0
    assert marks.box_iou((0, 0, 9, 9), (5, 0, 14, 9)) == pytest.approx(1 / 3)
    truth = tiles(draw.overlay_box(GRAY, (0, 0, 9, 9), truth=(100, 100, 200, 200)), (160, 120))[1].astype(np.uint8)
    assert near(Image.fromarray(truth), sheet.TRUTH, 0).any()


@pytest.mark.parametrize("box", [(1, 2, 3), (1, 2, 3, float("nan"))])
def test_what_is_no_box_is_an_error(box):
    with pytest.raises(ValueError, match="expected a box"):
        draw.overlay_box(GRAY, box)


# ------------------------------------------------------------------------------------------------------- timeline


def bar_span(image, colour):
    columns = np.nonzero(near(image, colour, 0).sum(0) > 8)[0]
    return columns.min(), columns.max()


def test_bars_stand_at_their_seconds():
    picture = draw.timeline([("Audio", [("a", 2, 4)]), ("Visual", [("b", 5, 10)])], duration_s=10)
    left, right = sheet.PAD + 118, draw.WIDTH - sheet.PAD
    for colour, start_s, end_s in ((sheet.BARS[0], 2, 4), (sheet.BARS[1], 5, 10)):
        first, last = bar_span(picture, colour)
        assert abs(first - (left + (right - left) * start_s / 10)) <= 4  # corners are round
        assert abs(last - (left + (right - left) * end_s / 10)) <= 4


def test_a_label_keeps_its_colour_and_overlapping_events_get_lines_of_their_own():
    assert times.bar_colours([("x", [("a", 0, 1), ("b", 0, 1)]), ("y", [("b", 3, 4), ("a", 1, 2)])]) == {
        "a": sheet.BARS[0],
        "b": sheet.BARS[1],
    }
    lines = times.stack([("a", 0, 5), ("b", 3, 8), ("a", 6, 7), ("c", 5, 4)])
    for line in lines:
        assert all(one[2] <= other[1] for one, other in itertools.pairwise(line))
    assert sorted(e for line in lines for e in line) == [("a", 0, 5), ("a", 6, 7), ("b", 3, 8), ("c", 4, 5)]


@pytest.mark.parametrize("rows", [[], [("Audio", [])], [("Audio", []), ("Visual", [("a", 0, 0)])]])
def test_few_events(rows):
    check(draw.timeline(rows, duration_s=10))
    check(draw.timeline(rows, duration_s=10, truth=[("Audio", [("z", 1, 2)])]))


def test_strange_times_and_names():
    events = [("a", -5, 3), ("b", 9, 400), ("c", 7, 2), ("d", 20, 30), ("e" * 500, 1, 1.01), ("f", float("nan"), 3)]
    events += [(text[:300], k, k + 1) for k, text in enumerate(UGLY)]
    check(draw.timeline([("r" * 300, events)], duration_s=10, title="t" * 999, answer=UGLY[-1]))
    check(draw.timeline([("r", events)], duration_s=0.003))
    check(draw.timeline([("r", events)], duration_s=86_400))
    with pytest.raises(ValueError, match="duration"):
        draw.timeline([], duration_s=0)


def test_thumbnails_follow_the_order_of_frames_and_their_aspect():
    frames = np.stack([np.full((20, 20, 3), 20 * k, np.uint8) for k in range(10)])
    picture = arrays(draw.timeline([], duration_s=10, frames=frames, aspect=1.5))
    slot = (draw.WIDTH - 2 * sheet.PAD - 118) / 10
    row = picture[sheet.PAD - 8 + 40 + sheet.GAP + 20]
    assert [row[round(sheet.PAD + 118 + slot * (k + 0.5)), 0] for k in range(10)] == [20 * k for k in range(10)]
    wide, square = (draw.timeline([], duration_s=10, frames=frames, aspect=a).height for a in (1.5, 1.0))
    assert wide < square
    check(draw.timeline([], duration_s=10, frames=frames[:1]))
    assert draw.timeline([], duration_s=10, frames=frames[:0]).height < wide


def test_the_waveform_is_high_where_it_is_loud():
    wave = np.sin(np.arange(32000) / 3)
    wave[:16000] *= 0.1
    picture = near(draw.timeline([], duration_s=2, wave=np.stack([wave, wave], 1)), sheet.BLUE, 0)
    middle = (sheet.PAD + 118 + draw.WIDTH - sheet.PAD) // 2
    quiet, loud = picture[:, sheet.PAD + 130 : middle - 10].sum(0), picture[:, middle + 10 : -sheet.PAD - 10].sum(0)
    assert loud.min() > 5 * quiet.max()


@pytest.mark.parametrize(
    "wave", [np.zeros(0), np.zeros((0, 2)), np.zeros(5), np.ones(1), np.full(99, np.nan), np.ones((7, 6)) * 9]
)
def test_any_wave(wave):
    check(draw.timeline([], duration_s=1, wave=wave))
    check(draw.card(answer="a", wave=wave, duration_s=1))


# ----------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("text", UGLY, ids=range(len(UGLY)))
def test_ugly_text_stays_inside_the_picture(text):
    frames = np.zeros((3, 8, 12, 3), np.uint8)
    for picture in (
        draw.card(answer=text, question=text, label=text, text=text, truth=text, title=text, frames=frames),
        draw.unparsed(text, text, frames=frames, question=text, title=text),
    ):
        check(picture)
        assert near(picture, sheet.PAPER, 0)[:, : sheet.PAD - 2].all()
        assert near(picture, sheet.PAPER, 0)[:, 3 - sheet.PAD :].all()


@pytest.mark.parametrize("text", UGLY, ids=range(len(UGLY)))
@pytest.mark.parametrize("size", [15, 26])
def test_wrapped_lines_fit(text, size):
    lines = sheet.wrap(text, 500, size, 6)
    assert 1 <= len(lines) <= 6
    assert all(sheet.text_width(line, size) <= 500 for line in lines)


def test_wrapping_loses_nothing_that_fits():
    text = " ".join(string.ascii_lowercase[k % 20 : k % 20 + 5] for k in range(60))
    assert " ".join(sheet.wrap(text, 400, 16, 50)) == text
    assert "".join(sheet.wrap("y" * 300, 400, 16, 50)) == "y" * 300
    assert sheet.wrap("one\ntwo", 400, 16, 5) == ["one", "two"]
    assert sheet.wrap("word " * 500, 400, 16, 2)[-1].endswith("more characters")


def test_text_that_the_font_lacks_is_spelled_plainly_or_announced():
    assert sheet.clean("Café – “naïve” straße ＡＢ") == "Cafe - “naive” strasse AB"
    assert sheet.clean("a你b") == f"a{sheet.MISSING}b"
    known, unknown = (draw.card(answer=text) for text in ("ab", "a你"))
    assert (
        arrays(known)[60:110, 100:500] != arrays(unknown)[60:110, 100:500]
    ).any()  # the label says what the dot means


def test_an_answer_that_was_not_parsed_is_told_apart():
    frames = np.full((2, 8, 8, 3), 77, np.uint8)
    fine, not_fine = (
        draw.card(answer="a", frames=frames),
        draw.unparsed("why", "a", frames=frames, wave=np.ones(9), duration_s=3),
    )
    assert not near(fine, sheet.VERMILION, 0).any()
    assert near(not_fine, sheet.VERMILION, 0)[:60].sum() > 1000  # the plate in the heading
    assert near(not_fine, (77, 77, 77), 0).sum() > 1000  # the media are still there
    assert near(not_fine, sheet.BLUE, 0).any()


def test_pictures_are_the_same_every_time():
    def make():
        stream = io.BytesIO()
        draw.overlay_semantic(GRAY, corner_mask() * 9, NAMES, title="t").save(stream, "PNG")
        return stream.getvalue()

    assert make() == make()


# ---------------------------------------------------------------------------------------------------------- input


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_picture_is_an_error(image):
    with pytest.raises(ValueError, match=r"uint8 \[H W 3\]"):
        draw.overlay_mask(image, np.ones((2, 2)))


@pytest.mark.parametrize("mask", [np.zeros((1, 4, 4)), np.zeros((0, 4))])
def test_what_is_no_mask_is_an_error(mask):
    with pytest.raises(ValueError, match=r"mask \[h w\]"):
        draw.overlay_mask(GRAY, mask)


# ---------------------------------------------------------------------------------------------------------- files


def test_mask_files_read_back(tmp_path):
    mask = corner_mask((224, 224))
    draw.write_mask_png(tmp_path / "m.png", mask.astype(bool))
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "L"
        assert set(np.unique(np.asarray(image))) == {0, 255}
    assert np.array_equal(read_mask(tmp_path / "m.png", size=224), mask)

    labels = np.arange(224 * 224).reshape(224, 224) % 71
    draw.write_semantic_png(tmp_path / "s.png", labels)
    with Image.open(tmp_path / "s.png") as image:
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), PALETTE[labels])
    assert np.array_equal(read_semantic_mask(tmp_path / "s.png", size=224), labels)
