"""Annotations of words: AVQA, captions, and the conversations and captions of pretraining."""

from __future__ import annotations

import copy

import pytest
from annotation_clips import files, good, read

from crab_jax.tasks import ALL, avqa
from crab_jax.tasks.entries import Entry
from tests import annotation_trees as trees
from tests.annotation_trees import put


@pytest.fixture
def root(tmp_path):
    return trees.write(tmp_path / "root")


def test_avqa(root):
    first, second = good(root, "avqa", "train")
    assert (first.id, first.frames, [a.id for a in first.asks]) == ("00000093", 10, ["7", "9"])
    assert second.asks[0].row.answer == "outdoor"
    assert second.asks[0].raw["type"] == ["Visual", "Location"]
    assert first.asks[1].row.label_text == "I look and listen. So the answer is <answer> yes </answer>."
    assert files(root, second) == ["music-avqa/video/00000200.mp4", "music-avqa/audio/00000200.mp3"]
    assert good(root, "avqa", "test")[0].asks[0].row.label_text == ""
    # A path of another machine counts as far as it exists below the root.
    assert str(first.audio) == "/elsewhere/music-avqa/audio/00000093.mp3"
    put(root / "music-avqa/audio/00000093.wav", b"")
    assert good(root, "avqa", "train")[0].audio == root / "music-avqa/audio/00000093.wav"
    put(root / "music-avqa/audio/00000093.mp3", b"")
    assert good(root, "avqa", "train")[0].audio == root / "music-avqa/audio/00000093.mp3"


def test_avqa_texts(root):
    (root / "music-avqa/converted_label/8.txt").unlink()
    put(root / "music-avqa/converted_label/9.txt", "The <audio> says <answer> yes </answer>.")
    clips, rejects = read(root, "avqa", "train")
    assert [a.id for c in clips for a in c.asks] == ["7"]
    assert [r.reason for r in rejects][1] == "no text music-avqa/converted_label/8.txt"
    assert "'<audio>'" in rejects[0].reason
    put(root / "music-avqa/converted_label/7.txt", b"\xef\xbb\xbfOne.\r\nTwo.\rSo <answer> two </answer>.\r\n")
    assert read(root, "avqa", "train")[0][0].asks[0].row.label_text == "One.\nTwo.\nSo <answer> two </answer>."
    put(root / "music-avqa/converted_label/7.txt", b"\xff")
    assert "not UTF-8" in read(root, "avqa", "train")[1][0].reason
    put(root / "music-avqa/converted_label/7.txt", " \n")
    assert "blank" in read(root, "avqa", "train")[1][0].reason


def test_avqa_of_the_original_files(root):
    entry = {
        "video_id": "00000093",
        "question_id": 7,
        "type": '["Audio", "Counting"]',
        "question_content": "How many <Object> are in the <LR>？",
        "templ_values": '["flutes", "left"]',
        "anser": "two",
    }
    (root / "data/music_avqa_data/valid_train_samples.json").unlink()
    put(root / "data/music_avqa_data/avqa-train.json", [entry, {**entry, "question_id": 8, "templ_values": "['a']"}])
    (clip,), (reject,) = read(root, "avqa", "train")
    assert clip.asks[0].row.question == "How many flutes are in the left?"
    assert clip.asks[0].row.answer == "two"
    assert (clip.video, clip.audio) == (root / "music-avqa/video/00000093.mp4", None)
    assert reject.reason == "field 'templ_values': no value for '<LR>?' of the question"
    real = put(root / "music-avqa/MUSIC-AVQA-videos-Real/00000093.mp4", b"")
    assert read(root, "avqa", "train")[0][0].video == real


@pytest.mark.parametrize(
    ("content", "values", "want"),
    [
        ("Is it loud？", "[]", "Is it loud?"),
        ("Is it loud", [], "Is it loud?"),
        ("Is  the <Object>? loud", "['flute', 'x']", "Is the flute loud?"),
    ],
)
def test_question_from_a_template(content, values, want):
    assert avqa.question(Entry({"question_content": content, "templ_values": values}, "x")) == want


def test_avcap(root):
    clips = good(root, "avcap", "train")
    assert [(c.id, c.asks[0].row.caption) for c in clips] == [("c1", "A dog barks."), ("c2", "Rain\nfalls")]
    assert files(root, clips[0]) == ["valor/video_data/c1.mp4"]
    (root / "valor/audio_data").mkdir()
    assert files(root, good(root, "avcap", "test")[0]) == ["valor/video_data/c1.mp4", "valor/audio_data/c1.mp3"]


def test_pretraining_captions(root):
    first, second = good(root, "pretrain-image", "train")
    assert (first.id, first.asks[0].id) == ("llava_image__00453__004539375", "004539375")
    assert files(root, first) == ["video-llava/llava_image/00453/004539375.jpg"]
    assert first.asks[0].row.question == "Render a clear summary."
    assert ALL["pretrain-image"].target(first.asks[0].row) == "select luxury furniture."
    assert ALL["pretrain-image"].target(second.asks[0].row) == "A cat!"
    (clip,) = good(root, "pretrain-video", "train")
    assert (clip.frames, clip.audio, clip.asks[0].picture) == (8, None, None)
    assert files(root, clip) == ["video-llava/valley/v7.mp4"]


def test_two_conversations_about_one_picture_share_it(root):
    again = copy.deepcopy(trees.LLAVA[1])
    again["conversations"][0]["value"] = "<image>\nWhere is it?"
    put(root / "video-llava/train_json/llava_image_.json", [trees.LLAVA[1], again])
    (clip,) = good(root, "pretrain-image", "train")
    assert [(a.id, a.row.question) for a in clip.asks] == [("7", "What is it?"), ("7-2", "Where is it?")]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ("hello", "expected a list of two turns or more, found the string"),
        ([{"value": "a"}], "expected a list of two turns or more"),
        ([{"value": "<image>"}, {"value": "a"}], "question: missing or blank"),
        ([{"value": "a"}, {"from": "gpt"}], "expected {'value': '…'} as turn 1, found an object"),
        ([{"value": "a <video>"}, {"value": "a"}], "question: '<video>' at character 2"),
    ],
)
def test_bad_conversations(root, turns, reason):
    put(root / "video-llava/train_json/llava_image_.json", [{**trees.LLAVA[0], "conversations": turns}])
    clips, (reject,) = read(root, "pretrain-image", "train")
    assert not clips
    assert reason in reject.reason


def test_audiocaps(root):
    assert [c.id for c in good(root, "pretrain-audio", "train")] == ["91139"]
    clips = good(root, "pretrain-audio", "test")
    assert [c.id for c in clips] == ["12347", "91139"]
    assert files(root, clips[1]) == ["AudioCaps/data/91139.wav"]
