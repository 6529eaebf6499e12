"""The language model of crab-mini learns, and a stage starts from it."""

import os
import subprocess
import sys

import numpy as np
import pytest
from language_pools import CONFIG

from crab_jax.model import abstract
from crab_jax.starting import handed_on, newest_checkpoint
from launch import pretrain_language as pl
from launch.pretrain_parts import write


@pytest.mark.slow
def test_what_is_written_starts_a_stage(tmp_path):
    wanted = abstract(CONFIG)
    rng = np.random.default_rng(0)
    names = {"clip": "eye", "beats": "ear", "vl_projector": "vl_projector", "al_projector": "al_projector"}
    for part, name in names.items():
        here = {p: x for p, x in wanted.items() if p.startswith(f"{part}/")}
        write(
            tmp_path / f"{name}.safetensors", {p: rng.normal(0, 0.05, x.shape).astype(x.dtype) for p, x in here.items()}
        )
    sizes = ["--stills", "8", "--videos", "2", "--sounds", "8", "--music", "8", "--concerts", "8", "--steps", "3"]
    sizes += ["--rows", "1", "--log-every", "1"]
    out = tmp_path / "language.safetensors"
    pl.main(["--parts", str(tmp_path), "--out", str(out), *sizes])
    given = handed_on(newest_checkpoint(out))
    speaks = {p: x.shape for p, x in wanted.items() if p.startswith("llama/") and "/lora_" not in p}
    assert {p: x.shape for p, x in given.items()} == speaks
    pl.main(["--out", str(out), "--words", "1", "--rows", "2", "--steps", "1", "--start", str(out)])
    assert {p: x.shape for p, x in handed_on(newest_checkpoint(out)).items()} == speaks
    (tmp_path / "eye.safetensors").unlink()
    with pytest.raises(SystemExit):
        pl.main(["--parts", str(tmp_path), "--out", str(out), *sizes])
    with pytest.raises(SystemExit):
        pl.main(["--out", str(out), *sizes])


def test_shares_are_shares(tmp_path, capsys):
    with pytest.raises(SystemExit):
        pl.main(["--out", str(tmp_path / "x"), "--words", "1", "--among", "0.7", "--comparing", "0.5"])
    assert "at most 1 together" in capsys.readouterr().err


@pytest.mark.slow
def test_devices_divide_the_work_and_change_nothing(tmp_path):
    """Two steps of two rows: gradients are sums over rows, whoever has worked them out."""
    found = []
    for devices in (1, 2):
        out = tmp_path / f"{devices}.safetensors"
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu",
        }  # fmt: skip
        command = ["-m", "launch.pretrain_language", "--out", str(out), "--words", "1", "--rows", "2", "--steps", "2"]
        subprocess.run([sys.executable, *command], check=True, env=environment)
        found.append(handed_on(newest_checkpoint(out)))
    one, two = found
    assert one.keys() == two.keys()
    for path in one:
        np.testing.assert_allclose(np.asarray(one[path]), np.asarray(two[path]), atol=2e-5, err_msg=path)
