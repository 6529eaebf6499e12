"""Checkpoints of a run: damaged, unfinished and unwanted ones; disks that are full; processes that are killed."""

import errno
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import ToyStream, ToySystem, settings, toy_params

from crab_jax.groups import CheckpointError
from crab_jax.train import checkpoint
from crab_jax.train.checkpoint import Checkpoints, named, read_trainables
from crab_jax.train.loop import train

TOY = pathlib.Path(__file__).with_name("toy_run.py")
ABOUT = {"config": {"a": 1}, "fingerprint": {"base": "0"}, "stream": {"batch": 3}}


def state_of(step):
    return {"params": {"net/kernel": jnp.full((64, 64), step, jnp.float32)}, "step": jnp.int32(step)}


def like():
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state_of(0))


def save(folder, steps, **options):
    with Checkpoints(folder, **options) as saves:
        for step, loss in steps.items():
            saves.save(step, state_of(step), ABOUT, loss=loss)
            saves.wait()
        return saves.steps()


def restored(folder):
    with Checkpoints(folder) as saves:
        state, about = saves.restore(like(), ABOUT)
    assert about["stream"] == {"batch": 3}
    assert float(state["params"]["net/kernel"][0, 0]) == int(state["step"])
    return int(state["step"])


def test_the_newest_and_the_best_stay(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: float("nan"), 6: 2.2}
    assert save(tmp_path, losses, keep_last=2, keep_best=1) == [6, 5, 2]
    assert restored(tmp_path) == 6
    assert read_trainables(tmp_path / "2")["net/kernel"][0, 0] == 2


def test_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path / "new") as saves:
        assert saves.restore(like(), ABOUT) is None


def test_a_saved_array_is_that_of_its_step(tmp_path):
    """The step gives its memory away while the checkpoint is still being written."""
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    with Checkpoints(tmp_path) as saves:
        state = state_of(7)
        saves.save(7, state, ABOUT, loss=1.0)
        overwrite(state["params"]["net/kernel"]).block_until_ready()
    assert restored(tmp_path) == 7


def damage(place, kind):
    files = sorted(p for p in place.rglob("*") if p.is_file())
    if kind == "about":
        (place / "about" / "metadata").write_text('{"format": 1, "arr')
    elif kind == "arrays":
        shutil.rmtree(place / "arrays")
    elif kind == "empty":
        for path in files:
            path.write_bytes(b"")
    elif kind == "half":
        for path in files:
            if "ocdbt" not in path.name and path.parent.name == "d":
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "manifest":
        (place / "arrays" / "manifest.ocdbt").unlink()


@pytest.mark.parametrize("kind", ["about", "arrays", "empty", "half", "manifest"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path, kind, caplog):
    save(tmp_path, {1: 1.0, 2: 1.0})
    damage(tmp_path / "2", kind)
    assert restored(tmp_path) == 1
    assert "set aside" in caplog.text
    assert (tmp_path / "damaged-2").is_dir()
    assert save(tmp_path, {2: 1.0})[0] == 2  # the number is free again
    assert restored(tmp_path) == 2


def test_an_unfinished_one_is_no_checkpoint(tmp_path):
    save(tmp_path, {1: 1.0, 2: 1.0})
    unfinished = next(iter(tmp_path.glob("2")))
    os.rename(unfinished, tmp_path / "2.orbax-checkpoint-tmp")
    assert restored(tmp_path) == 1
    assert save(tmp_path, {2: 2.0}) == [2, 1]  # what is left of it is cleared away by then, not before
    assert not list(tmp_path.glob("*tmp*"))


def test_nothing_that_can_be_read(tmp_path):
    save(tmp_path, {1: 1.0, 2: 1.0})
    for step in "12":
        damage(tmp_path / step, "empty")
    with pytest.raises(CheckpointError, match=r"none of 2 checkpoints can be read .*remove them to start anew"):
        restored(tmp_path)
    there = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"no good checkpoint, only damaged-1, damaged-2, .*remove them to start"):
        restored(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == there
    for step in "12":
        shutil.rmtree(tmp_path / f"damaged-{step}")
    with Checkpoints(tmp_path) as saves:
        assert saves.restore(like(), ABOUT) is None


def too_many_files(path, wanted, read=checkpoint.read_arrays):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        return read(path, wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def failing(error):
    def read(*_):
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "cause"),
    [
        (too_many_files, "Too many open files"),
        (failing(OSError(errno.EIO, os.strerror(errno.EIO))), "Input/output error"),
        (failing(PermissionError(errno.EACCES, os.strerror(errno.EACCES))), "Permission denied"),
        (failing(MemoryError()), "MemoryError"),
        (failing(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")), "Out of memory"),
        (failing(ValueError(f"UNKNOWN: {'Error reading ' * 99}: a [os_error_code='116']")), os.strerror(errno.ESTALE)),
        (failing(ValueError("DEADLINE_EXCEEDED: no answer")), "no answer"),
    ],
    ids=["files", "disk", "permission", "memory", "device memory", "stale", "time"],
)  # fmt: skip
def test_a_sound_checkpoint_that_could_not_be_read_stays(tmp_path, monkeypatch, read, cause):
    save(tmp_path, {1: 1.0, 2: 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "read_arrays", read)
        with pytest.raises(checkpoint.Unreadable, match=rf"{tmp_path}/2: could not be read \(.*{cause}.*left as it is"):
            restored(tmp_path)
    assert restored(tmp_path) == 2


def test_an_error_of_the_system_behind_the_library_is_no_damage(tmp_path):
    """As TensorStore tells it: a file that is there and cannot be opened."""
    save(tmp_path, {1: 1.0, 2: 1.0})
    (data,) = (tmp_path / "2" / "arrays" / "d").iterdir()
    away = data.rename(tmp_path / "away")
    data.symlink_to(data)
    with pytest.raises(checkpoint.Unreadable, match="Too many levels of symbolic links"):
        restored(tmp_path)
    away.replace(data)
    assert restored(tmp_path) == 2


def test_another_dtype_is_not_cast(tmp_path):
    """Orbax would."""
    save(tmp_path, {1: 1.0})
    wanted = like()
    wanted["params"]["net/kernel"] = jax.ShapeDtypeStruct(
        (64, 64), jnp.bfloat16, sharding=wanted["params"]["net/kernel"].sharding
    )
    with Checkpoints(tmp_path) as saves, pytest.raises(checkpoint.Mismatch, match=r"float32 .* there, bfloat16"):
        saves.restore(wanted, ABOUT)


def test_no_room(tmp_path, monkeypatch):
    save(tmp_path, {1: 1.0})
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    message = "make room and start the same command again .checkpoint 1 is the last good one"
    with Checkpoints(tmp_path) as saves, pytest.raises(CheckpointError, match=message):
        saves.save(2, state_of(2), ABOUT, loss=1.0)
    assert restored(tmp_path) == 1


def test_a_disk_that_fills_up_meanwhile(tmp_path):
    """No file may grow any further, as on a full disk."""
    save(tmp_path, {1: 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = {"params": {"net/kernel": jnp.asarray(np.random.default_rng(0).standard_normal((64, 64), np.float32))}}
    saves = Checkpoints(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(CheckpointError, match=r"could not be written .*checkpoint 1 is the last good one"):  # noqa: PT012
            saves.save(2, state_of(2) | noise, ABOUT, loss=1.0)  # it may fail at once or in the background
            saves.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert restored(tmp_path) == 1


def start(workdir, *arguments):
    return subprocess.Popen(
        [sys.executable, str(TOY), str(workdir), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_again_and_again(tmp_path, times, seed):
    """SIGKILL at random moments of start, training and saving; the result is that of a run that nobody disturbed."""
    arguments = ["--steps", "40", "--seconds", "0.02", "--every", "1"]
    draw = random.Random(seed)
    survived = 0
    for _ in range(times):
        process = start(tmp_path / "killed", *arguments)
        # From the first line on it trains; before, it imports and compiles, and nothing can be lost.
        line = process.stdout.readline() if draw.random() < 0.9 else ""
        time.sleep(draw.uniform(0.0, 1.5))
        survived += process.poll() is None
        process.kill()
        process.communicate()
        assert "Error" not in line
    assert survived, "every run had ended before it was killed"
    process = start(tmp_path / "killed", *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    options = dict(steps=40, every=40)
    whole = train(settings(tmp_path / "whole", **options), ToySystem(), *toy_params(), ToyStream())
    found = read_trainables(tmp_path / "killed" / "checkpoints" / "40")
    for path, x in named(whole.state.params).items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)


def test_killed_three_times(tmp_path):
    kill_again_and_again(tmp_path, 3, seed=0)


@pytest.mark.slow
def test_killed_ten_times(tmp_path):
    kill_again_and_again(tmp_path, 10, seed=1)
