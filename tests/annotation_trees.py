"""Small annotation trees in the layouts of the data sets, without any media, for tests."""

from __future__ import annotations

import json
import pathlib
from typing import Any


def put(path: pathlib.Path, content: Any) -> pathlib.Path:
    """Writes a file with its folders: text and bytes as they are, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


AVQA = [
    {
        "video_id": "00000093",
        "question_id": 7,
        "type": ["Audio", "Counting"],
        "video_path": "music-avqa/video/00000093.mp4",
        "audio_path": "/elsewhere/music-avqa/audio/00000093.mp3",
        "question": "How many instruments sound?",
        "answer": "two",
    },
    {
        "video_id": "00000200",
        "question_id": 8,
        "type": '["Visual", "Location"]',
        "video_path": "music-avqa/video/00000200.mp4",
        "audio_path": "music-avqa/audio/00000200.mp3",
        "question": "Where is it?",
        "answer": "Outdoor",
    },
    {
        "video_id": "00000093",
        "question_id": 9,
        "type": ["Audio-Visual", "Existential"],
        "video_path": "music-avqa/video/00000093.mp4",
        "audio_path": "music-avqa/audio/00000093.mp3",
        "question": "Is the sound from the flute?",
        "answer": "yes",
    },
]
AVE = [
    {"vid": "aaa", "event": "Bark", "start_time": 2, "end_time": 7},
    {"vid": "bbb", "event": "Violin, fiddle", "start_time": "0", "end_time": 10.0},
    {"vid": "aaa", "event": "cat", "start_time": 0, "end_time": 1},
]
AVVP_EVENTS = "<visual>Dog,(0 10)</visual> and <audio>Dog,(0 2) (4 6)</audio>"
AVVP_LABEL = f"A dog barks. Therefore, visual and audio events are: {AVVP_EVENTS}"
AVVP = [
    {"filename": "v1.mp4", "vid": "v1", "event": "Dog", "label": AVVP_LABEL},
    {"filename": "v2.mp4", "vid": "v2", "event": "Car"},
    {"filename": "v3.mp4", "vid": "v3", "event": "Car", "label": float("nan")},
]
AVVP_TEST = [
    {"filename": "t1", "vid": "t1", "event": "<audio>Speech,(0 10)</audio>"},
    {"filename": "t2", "vid": "t2", "event": "<visual>Car,(1 2)</visual>"},
]
ARIG = [
    {
        "split": "train",
        "audio_path": "AVS/v1s/u1/audio.wav",
        "frame_path": "AVS/v1s/u1/frames/3.jpg",
        "mask_path": "AVS/v1s/u1/labels_semantic/3.png",
        "top_left": [10, 20],
        "bottom_right": [100, 224],
        "a_obj": "a dog",
    },
    {
        "split": "train",
        "audio_path": "AVS/v1s/u2/audio.wav",
        "frame_path": "AVS/v1s/u2/frames/0.jpg",
        "top_left": [1000, 1000],
        "bottom_right": [0, 0],
        "a_obj": "a dog",
    },
    {
        "split": "test",
        "audio_path": "AVS/v1s/u3/audio.wav",
        "frame_path": "AVS/v1s/u3/frames/1.jpg",
        "top_left": [1, 2],
        "bottom_right": [3, 4],
        "a_obj": "a car",
    },
]
AVS = [
    {"vid": "x", "uid": "u1", "s_min": 0, "s_sec": 1, "a_obj": "dog", "split": "train", "label": "v1s"},
    {"vid": "y", "uid": "u2", "s_min": 0, "s_sec": 1, "a_obj": "man_piano", "split": "test", "label": "v1s"},
    {"vid": "z", "uid": "u3", "s_min": 0, "s_sec": 1, "a_obj": "cat", "split": "val", "label": "v1s"},
]
REF_AVS = """vid,uid,split,fid,exp
v,v_0_10_dog_1,train,1,The dog barking loudest
v,v_0_10_dog_2,train,1,"The animal, on the left"
v,v_0_10_piano_1,train,2,What is played
w,w_5_15_cat_1,test_s,1,The cat
n,n_0_10_null_1,test_n,0,The silent drum
"""
AVCAP = [{"video_id": "c1", "desc": "A dog barks."}, {"video_id": "c2", "desc": "Rain\nfalls"}]
LLAVA = [
    {
        "id": "004539375",
        "image": "llava_image/00453/004539375.jpg",
        "conversations": [
            {"from": "human", "value": "Render a clear summary.\n<image>"},
            {"from": "gpt", "value": "select luxury furniture"},
        ],
    },
    {
        "id": "7",
        "image": "llava_image/7.jpg",
        "conversations": [{"value": "<image>\nWhat is it?"}, {"value": "A cat!"}, {"value": "And?"}, {"value": "x"}],
    },
]
VALLEY = [
    {
        "id": "v7",
        "video": "valley/v7.mp4",
        "conversations": [{"value": "<video>\nWrite a caption."}, {"value": "a man walks "}],
    }
]
AUDIOCAPS = [
    {"audiocap_id": 12347, "start_time": 30, "caption": "Left out"},
    {"audiocap_id": 91139, "start_time": 130, "caption": "Idling and then revving of an engine"},
]
LVIS = [
    {
        "id": 1,
        "image_id": 391895,
        "category_id": 3,
        "bbox": [0, 0, 9, 9],
        "name": "cow",
        "def": "cattle",
        "area": 5000.5,
    },
    {"id": 2, "image_id": 9, "name": "cup", "def": "a vessel", "area": 1000},
    {
        "id": 3,
        "image_id": 391895,
        "category_id": 3,
        "bbox": [0, 0, 9, 9],
        "name": "cow",
        "def": "cattle",
        "area": 999.9,
    },
    {
        "id": 4,
        "image_id": 391895,
        "category_id": 5,
        "bbox": [0, 0, 9, 9],
        "name": "hat",
        "def": "on a head",
        "area": 2e3,
    },
]
CSV_HEAD = "filename\tonset\toffset\tevent_labels\n"


def write(root: pathlib.Path) -> pathlib.Path:
    """All thirteen data sets, each with a little of everything, below one root."""
    data = root / "data"
    put(data / "music_avqa_data/valid_train_samples.json", AVQA)
    put(data / "music_avqa_data/test_samples.json", AVQA[:2])
    for item in AVQA:
        text = f"I look and listen. So the answer is <answer> {item['answer']} </answer>."
        put(root / f"music-avqa/converted_label/{item['question_id']}.txt", text + "\n")
    put(data / "ave_data/valid_train_samples.json", AVE)
    put(data / "ave_data/test_samples.json", AVE)
    for vid in ("aaa", "bbb"):
        put(root / f"AVE_Dataset/converted_label/{vid}.txt", "So … <event> Bark </event> … <range> 2,7 </range>.")
    put(data / "avvp_data/train_samples.json", AVVP)
    put(data / "avvp_data/test_samples.json", AVVP_TEST)
    put(data / "avvp_data/AVVP_eval_audio.csv", CSV_HEAD + "t1\t4\t6\tDog\nt1\t0\t2\tSpeech\n")
    put(data / "avvp_data/AVVP_eval_visual.csv", CSV_HEAD + "t1\t0\t10\tfrying_(food)\n")
    put(root / "AVS/v1s_grounding_samples.json", ARIG)
    for name in ("s4", "ms3", "avss"):
        put(root / f"AVS/{name}_samples.json", AVS)
    put(root / "ref-avs/REFAVS/metadata.csv", REF_AVS)
    put(root / "valor/train_samples.json", AVCAP)
    put(root / "valor/val_samples.json", AVCAP[:1])
    put(root / "video-llava/train_json/llava_image_.json", LLAVA)
    put(root / "video-llava/train_json/valid_valley_.json", VALLEY)
    for split in ("train", "val", "test"):
        put(root / f"AudioCaps/{split}.json", AUDIOCAPS)
    put(root / "LVIS/train_samples.json", LVIS)
    return root
