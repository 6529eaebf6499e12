"""Making a world: the same again from any number of processes and after any interrupt; the command."""

import filecmp
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from crab_jax import cli
from data_pipelines.generated import mark_in, mark_of
from data_pipelines.lock import alone
from data_pipelines.world import build, casting
from data_pipelines.world.build import WorldError, read_ledger
from data_pipelines.world.sprites import SpriteStore
from data_pipelines.world.stage import Performer, Scene, Stage


def tree(root):
    return {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}


def same(one, other):
    one, other = tree(one), tree(other)
    assert set(one) == set(other)
    differing = [name for name in one if not filecmp.cmp(one[name], other[name], shallow=False)]
    assert not differing, differing


SOME = ("pretrain-seg", "s4", "avcap")
SMALL = {"clips": 2, "seed": 9, "tasks": SOME, "size": (96, 72), "fps": 1, "least": 1, "quiet": True}


def test_any_number_of_processes_and_any_interrupt_give_the_same_files(tmp_path, monkeypatch):
    build.build(tmp_path / "one", **SMALL, jobs=1)
    build.build(tmp_path / "two", **SMALL, jobs=2)
    same(tmp_path / "one", tmp_path / "two")

    made, real = [], build._make

    def interrupted(order):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(order)
        return real(order)

    monkeypatch.setattr(build, "_make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build.build(tmp_path / "three", **SMALL)
    assert not list((tmp_path / "three").rglob("*samples.json"))  # annotations come when all their clips are there
    ledger = tmp_path / "three" / build.NOTES / "s4-train.jsonl"
    with ledger.open("a") as file:
        file.write('{"index": 1, "rows": [{"vi')  # as if the power had failed
    monkeypatch.setattr(build, "_make", real)
    before = len(read_ledger(tmp_path / "three", "s4", "train"))
    assert before == 1
    build.build(tmp_path / "three", **SMALL)
    same(tmp_path / "one", tmp_path / "three")
    stamp = (tmp_path / "three/AVS/v1s/s4_train00000/audio.wav").stat().st_mtime_ns
    build.build(tmp_path / "three", **{**SMALL, "clips": 3, "tasks": ("s4",)})
    assert (tmp_path / "three/AVS/v1s/s4_train00000/audio.wav").stat().st_mtime_ns == stamp
    assert len(read_ledger(tmp_path / "three", "s4", "train")) == 3


@pytest.mark.slow
def test_every_task_is_the_same_again(tmp_path):
    for name in ("one", "two"):
        build.build(tmp_path / name, clips=1, seed=5, size=(96, 72), fps=2, least=1, quiet=True)
    same(tmp_path / "one", tmp_path / "two")


def test_sprites_do_not_depend_on_what_was_painted_before():
    rules = casting.Casting(np.random.default_rng(1), None)
    scenes = [
        rules.scene(rules.stand(casting.names_in("avss"), 3), duration_s=4, fps=2, size=(96, 72)) for _ in range(2)
    ]
    warm, tiny = SpriteStore(), SpriteStore(most=1)
    for scene in (*scenes, *scenes):
        fresh = Stage(scene, sprites=SpriteStore()).shot(1.5)
        for store in (warm, tiny):
            again = Stage(scene, sprites=store).shot(1.5)
            assert np.array_equal(again.frame, fresh.frame)
            assert np.array_equal(again.masks, fresh.masks)


def test_sprites_look_like_what_they_stand_for():
    scene = Scene((Performer("cat", 0.3), Performer("piano", 0.8, 0.3)), seed=4, width=160, height=120)
    exact, stored = (Stage(scene, sprites=s).shot(0.6) for s in (None, SpriteStore()))
    overlap = (exact.masks & stored.masks).sum((1, 2)) / (exact.masks | stored.masks).sum((1, 2))
    assert overlap.min() > 0.8


# ------------------------------------------------------------------------------------------------- the command


def test_the_command_refuses_what_it_cannot_do(tmp_path, capsys):
    for args, message in (
        (["--size", "225x168"], "even WIDTHxHEIGHT"),
        (["--size", "small"], "even WIDTHxHEIGHT"),
        (["--clips", "0"], "whole number above 0"),
        (["--held-out", "2"], "between 0 and 1"),
        (["--seed", "-1"], "from 0 up"),
        (["--tasks", "karaoke"], "invalid choice: 'karaoke'"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["world", "--out", str(tmp_path / "x"), *args])
        assert message in capsys.readouterr().err
    assert cli.main(["world"]) == 2
    assert "--out DIR" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    assert cli.main(["world", "--out", str(tmp_path / "mine")]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert cli.main(["world", "--baselines", str(tmp_path / "mine")]) == 2
    assert "crab world --out" in capsys.readouterr().err


def test_another_world_in_the_same_folder_is_refused(tmp_path):
    small = {"clips": 1, "tasks": ("pretrain-seg",), "size": (64, 48), "quiet": True}
    build.build(tmp_path / "w", seed=1, **small)
    with pytest.raises(WorldError, match="holds a world of seed 1, asked for is seed 2"):
        build.build(tmp_path / "w", seed=2, **small)
    (tmp_path / "w" / build.NOTES / "world.json").write_text("{")
    with pytest.raises(WorldError, match="no valid JSON"):
        build.build(tmp_path / "w", seed=1, **small)


def test_a_world_is_rendered_by_one_command_at_a_time(tmp_path, capsys):
    """Of other tasks of the same world, another one may run."""
    out = tmp_path / "w"
    args = ["world", "--out", str(out), "--clips", "1", "--size", "64x48", "--jobs", "1", "--tasks"]
    (out / build.NOTES).mkdir(parents=True)
    (out / build.NOTES / "world.json").write_text(
        json.dumps({"version": build.VERSION, "seed": 0, "size": [64, 48], "fps": 4})
    )
    with alone(out / build.NOTES / "pretrain-seg.lock", ValueError("nobody else runs here")):
        assert cli.main([*args, "pretrain-seg", "pretrain-image"]) == 2
        assert "another `crab world` is rendering pretrain-seg here" in capsys.readouterr().err
        assert not list(out.rglob("*.jsonl"))
        assert cli.main([*args, "pretrain-image"]) == 0
    assert cli.main([*args, "pretrain-seg"]) == 0


def test_damaged_notes_are_named(tmp_path, capsys):
    args = ["world", "--out", str(tmp_path / "w"), "--clips", "1", "--size", "64x48", "--tasks", "pretrain-seg"]
    assert cli.main(args) == 0
    notes = tmp_path / "w" / build.NOTES / "pretrain-seg-train.jsonl"
    for line in ("{", "[1]", '{"index": 0}'):
        notes.write_text(line + "\n")
        assert cli.main(args) == 2
        assert re.search(r"pretrain-seg-train.jsonl:1: expected the notes of a clip", capsys.readouterr().err)


RENDER = """
import pathlib, sys
from data_pipelines.world import build
if __name__ == "__main__":
    tasks = ("pretrain-seg",)
    build.build(pathlib.Path(sys.argv[1]), clips=500, seed=1, tasks=tasks, size=(64, 48), jobs=2, quiet=True)
"""


@pytest.fixture
def rendering(tmp_path):
    """A world that is being rendered by two workers: the process, the workers, and where."""
    script, out = tmp_path / "render.py", tmp_path / "w"
    script.write_text(RENDER)
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen([sys.executable, str(script), str(out)], stderr=subprocess.PIPE, text=True, env=path)
    notes = out / build.NOTES / "pretrain-seg-train.jsonl"
    try:
        for _ in range(600):
            if notes.exists() and run.poll() is None:
                break
            time.sleep(0.1)
        workers = [p for p in psutil.Process(run.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        assert len(workers) == 2
        yield run, workers, out
    finally:
        run.kill()
        run.communicate()


def test_no_worker_outlives_a_killed_command(rendering):
    run, workers, _ = rendering
    run.kill()
    run.wait()
    assert not psutil.wait_procs(workers, timeout=30)[1]


def test_a_killed_worker_ends_the_command_and_keeps_what_is_finished(rendering):
    run, workers, out = rendering
    workers[0].kill()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert re.search(r"WorldError: a process that renders was killed.*run the same command again", said)
    assert read_ledger(out, "pretrain-seg", "train")


def test_the_command_says_what_it_made(tmp_path, capsys):
    args = [
        "--clips",
        "1",
        "--seed",
        "3",
        "--size",
        "64x48",
        "--jobs",
        "1",
        "--tasks",
        "pretrain-image",
        "pretrain-seg",
    ]
    assert cli.main(["world", "--out", str(tmp_path / "w"), *args]) == 0
    assert "pretrain-image  train 1" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "w/video-llava/train_json/llava_image_.json").read_text())
    assert (tmp_path / "w/video-llava" / row["image"]).exists()


def test_shards_of_a_world_say_that_they_are_generated(tmp_path):
    assert mark_of(tmp_path) == {}
    (tmp_path / "bandstand").mkdir()
    (tmp_path / "bandstand" / "world.json").write_text('{"version": 1, "seed": 7, "size": [8, 8]}')
    marked = mark_of(tmp_path)
    assert mark_in(marked) == {"world": "bandstand", "version": 1, "seed": 7}
    (tmp_path / "bandstand" / "world.json").write_text("{")
    assert mark_of(tmp_path) == {"generated": {"world": "bandstand"}}
    assert mark_in({"generated": "yes"}) is None
