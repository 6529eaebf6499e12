"""Building data sets with any number of processes and from the command line: stopped, killed, started again."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from crab_jax import cli
from crab_jax.tasks import ALL
from data_pipelines import build as building
from data_pipelines.build import Options, build
from data_pipelines.records import SCHEMA, open_shards
from tests.build_clips import EXACT, ave_clips, files, rejects, spec_of, write_media


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


# ---------------------------------------------------------------------------------------------------------- workers


def test_the_same_bytes_with_any_number_of_workers(media, tmp_path):
    for jobs in (0, 2):
        options = dataclasses.replace(EXACT, jobs=jobs)
        built = build(spec_of("ave", ave_clips(70)), root=media, out=tmp_path / str(jobs), options=options)
        assert built.counts["train"] == building.Count(
            clips=70, records=70, examples=140, size=built.counts["train"].size
        )
    one, other = (files(tmp_path / str(jobs) / "ave" / SCHEMA) for jobs in (0, 2))
    assert one == other
    assert len([name for name in one if "array_record" in name]) == 3
    assert os.listdir(tmp_path / "2") == ["ave"]
    assert os.listdir(tmp_path / "2" / "ave") == [SCHEMA]


@pytest.fixture
def ave_root(media, tmp_path):
    """A root as the AVE data set has it, with 130 clips."""
    root = tmp_path / "root"
    (root / "data/ave_data").mkdir(parents=True)
    (root / "AVE_Dataset/AVE").mkdir(parents=True)
    entries = []
    for i in range(130):
        os.link(media / f"{i % 2}.mp4", root / f"AVE_Dataset/AVE/{i}.mp4")
        entries.append({"event": "Bark", "vid": str(i), "start_time": 0, "end_time": 2})
    (root / "data/ave_data/test_samples.json").write_text(json.dumps(entries))
    return root


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_continued(ave_root, tmp_path, how):
    options = Options(jobs=0, size=32, splits=("test",))
    build(ALL["ave"], root=ave_root, out=tmp_path / "undisturbed", options=options)
    stage = tmp_path / "stopped" / "ave" / f"{SCHEMA}.building"
    crab = [sys.executable, "-m", "crab_jax.cli", "data", "build", "ave", "--splits", "test", "--size", "32"]
    words = ["--root", str(ave_root), "--out", str(tmp_path / "stopped"), "--jobs", "1"]
    for _ in range(5):  # on a busy machine the build may be done before the signal comes: then once more
        shutil.rmtree(tmp_path / "stopped", ignore_errors=True)
        running = subprocess.Popen([*crab, *words], stderr=subprocess.PIPE, text=True)
        while not list(stage.glob("*.done.json")) and running.poll() is None:
            time.sleep(0.005)
        running.send_signal(how)
        _, said = running.communicate(timeout=60)  # also waits for the workers, which hold the pipe
        if running.returncode:
            break
    assert running.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130), said
    assert not (tmp_path / "stopped" / "ave" / SCHEMA).exists()
    kept = list(stage.glob("*.done.json"))
    assert 0 < len(kept) < 5
    (stage.parent / f"incomplete.ABCDEF_{SCHEMA}").mkdir()  # as if TFDS had been killed
    watched = _Watched()
    build(ALL["ave"], root=ave_root, out=tmp_path / "stopped", options=options, progress=watched)
    assert watched.steps[0] == 32, "what was finished is not encoded again"
    assert watched.clips == sum(watched.steps) == 130
    assert files(tmp_path / "stopped" / "ave" / SCHEMA) == files(tmp_path / "undisturbed" / "ave" / SCHEMA)
    assert os.listdir(tmp_path / "stopped" / "ave") == [SCHEMA]


class _Watched(building.Progress):
    def __init__(self):
        self.clips, self.steps = 0, []

    def start(self, clips):
        self.clips = clips

    def advance(self, clips):
        self.steps.append(clips)


class Deadly(pathlib.PosixPath):
    """Whoever looks for this file dies, as a decoder may that runs into a defect."""

    def exists(self, **_):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_costs_one_clip(media, tmp_path):
    plain = ave_clips(40)

    def clips(root, split):
        for i, clip in enumerate(plain(root, split)):
            yield dataclasses.replace(clip, video=Deadly(clip.video)) if i in (3, 20) else clip

    built = build(spec_of("ave", clips), root=media, out=tmp_path, options=dataclasses.replace(EXACT, jobs=2))
    first, second = rejects(built.folder)
    assert (first["id"], first["kind"], first["examples"], second["id"]) == ("c3", "crash", 2, "c20")
    assert "ended the process" in first["reason"]
    assert (built.counts["train"].records, built.counts["train"].media) == (38, 4)
    ids = [f"c{i}" for i in range(40) if i not in (3, 20)]
    assert [record.clip_id for record in open_shards(tmp_path, "ave", "train")] == ids


def test_clips_are_drawn_as_they_are_needed(media, tmp_path):
    drawn, ahead = 0, []

    def clips(root, split):
        nonlocal drawn
        drawn = 0
        for clip in ave_clips(100)(root, split):
            drawn += 1
            yield clip

    class Watch(building.Progress):
        done = 0

        def advance(self, clips):
            self.done += clips
            ahead.append(drawn - self.done)

    build(spec_of("ave", clips), root=media, out=tmp_path, options=EXACT, progress=Watch())
    assert max(ahead) < 32


# ------------------------------------------------------------------------------------------------------- command line


def test_command_line(ave_root, tmp_path, capsys):
    words = ["data", "build", "ave", "--root", str(ave_root), "--out", str(tmp_path), "--size", "16", "--jobs", "0"]
    assert cli.main(words) == 1
    assert "data/ave_data/valid_train_samples.json" in capsys.readouterr().err
    words += ["--splits", "test", "--frames", "png"]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "130 examples about 130 of 130 clips" in said.out
    assert "130/130" in said.err
    assert cli.main(words) == 0
    assert "complete already" in capsys.readouterr().out
    assert cli.main([*words, "--splits", "val"]) == 1
    assert "expected splits out of train, test, found val" in capsys.readouterr().err


def test_command_line_builds_what_it_can(ave_root, tmp_path, capsys):
    words = ["--root", str(ave_root), "--out", str(tmp_path), "--size", "16", "--jobs", "0", "--splits", "test"]
    assert cli.main(["data", "build", "avqa", "ave", *words]) == 1
    said = capsys.readouterr()
    assert "not built: avqa\n" in said.err
    assert (tmp_path / "ave" / SCHEMA).is_dir()


def test_wrong_root(tmp_path, capsys):
    assert cli.main(["data", "build", "s4", "--root", str(tmp_path / "no"), "--out", str(tmp_path)]) == 1
    assert "expected the folder that holds the data set s4, found none\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--jobs", "-1"], ["--max-rejects", "1.5"], ["--size", "0"], ["--frames", "gif"], ["--quality", "101"]]
)
def test_wrong_options(tmp_path, words):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["data", "build", "s4", "--root", str(tmp_path), "--out", str(tmp_path), *words])
