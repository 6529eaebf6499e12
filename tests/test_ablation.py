"""The ablation's plan, commands, table and resuming, with stand-ins for training and evaluation."""

import argparse
import json
import pathlib
import re
import shlex
import signal
import subprocess

import pytest
from models import tiny_config, tiny_params

from configs import train_mini
from crab_jax import checkpoint, cli
from crab_jax.evaluate.plan import digest_of_weights
from crab_jax.tokens import Tokenizer
from launch import ablation


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the ablation with commands that only say what they would have done; returns exit code and commands."""

    def start(*extra, code=lambda command: 0):
        calls = []

        def stand_in(command, **_):
            calls.append(command)
            if (result := code(command)) == 0 and "eval" in command:
                out = pathlib.Path(command[command.index("--out") + 1])
                out.mkdir(parents=True, exist_ok=True)
                seed = int(re.search("/seed([0-9]+)/", str(out))[1])
                tasks = command[command.index("--task") + 1].split(",")
                sets = [
                    {
                        "task": t,
                        "split": "test",
                        "runs": [{"headline": ["accuracy"], "numbers": {"accuracy": seed / 4}}],
                    }
                    for t in tasks
                ]
                (out / "table.json").write_text(json.dumps({"test_sets": sets}))
            return subprocess.CompletedProcess(command, result)

        monkeypatch.setattr(ablation.subprocess, "run", stand_in)
        monkeypatch.setattr(ablation, "digest_of", lambda weights: f"of {weights.name}")
        argv = ["--base", "b", "--shards", "s", "--out", str(tmp_path / "out"), "--tasks", "avqa,s4", *extra]
        return ablation.main(argv), calls

    return start


def test_every_variant_and_seed_is_trained_converted_and_scored(run, tmp_path):
    code, calls = run("--seeds", "2", "--steps", "10")
    assert code == 0
    kinds = [next(k for k in ("launch.train", "convert", "eval") if k in c) for c in calls]
    models = 2 * (2 + len(ablation.VARIANTS) - 1)  # the single-task variant has one model per task
    assert kinds == ["launch.train", "convert", "eval"] * models
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert "| avqa/test, accuracy | 0.375 ± 0.177 (2) |" in table
    scores = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert scores["single-task"] == {"avqa/test, accuracy": [0.25, 0.5], "s4/test, accuracy": [0.25, 0.5]}


def test_the_budget_is_the_same(run):
    _, calls = run("--seeds", "1", "--steps", "10")
    trained = [c for c in calls if "launch.train" in c]
    steps = [next(a for a in c if a.startswith("--config.run.steps=")) for c in trained]
    assert [s.split("=")[1] for s in steps] == ["5", "5"] + ["10"] * (len(trained) - 2)


def test_variants_differ_in_heads_and_reasoning(run):
    _, calls = run("--seeds", "1")
    told = {c[c.index("--workdir") + 1].split("/out/")[1].split("/")[0]: c for c in calls if "launch.train" in c}
    config = {name: c[c.index("--config") + 1] for name, c in told.items()}
    assert config["heads-5"].endswith("tasks=avqa+s4,heads=5")
    assert "--config.data.reasoning=False" in told["heads-3-no-reasoning"]
    assert "--config.data.reasoning=True" in told["heads-3"]
    assert "--config.loss.heads=('binary',)" in told["heads-3"]


def test_it_goes_on_where_it_was(run):
    code, _ = run("--seeds", "1", code=lambda command: 75 * ("heads-3/seed1/avqa+s4/run" in " ".join(command)))
    assert code == 75
    code, more = run("--seeds", "1")
    assert code == 0
    again = {c[c.index("--workdir") + 1].split("/out/")[1] for c in more if "launch.train" in c}
    assert again == {f"{name}/seed1/avqa+s4/run" for name in ("heads-3", "heads-5", "heads-3-no-reasoning")}


def test_it_goes_on_with_the_same_weights_after_a_kill_while_scoring(tmp_path, monkeypatch):
    """`crab eval` refuses to go on with other bytes. A weights folder stands for the run; it is really converted."""
    args = ablation.parse(["--base", "b", "--shards", "s", "--out", str(tmp_path / "out"), "--tasks", "avqa"])
    (trial,) = ablation.trials([v for v in ablation.VARIANTS if v.name == "heads-3"], args.tasks, seeds=1, steps=1)
    tokenizer = tmp_path / "tokenizer.model"
    tokenizer.write_bytes(Tokenizer.tiny().model)
    run = args.out / trial.folder / "run"
    checkpoint.save(run, config=tiny_config(), params=tiny_params(), tokenizer=tokenizer)
    scored = []

    def stand_in(command, **_):
        if "convert" in command:
            return subprocess.CompletedProcess(command, cli.main(command[command.index("convert") :]))
        if "eval" in command:
            scored.append(digest_of_weights(pathlib.Path(command[command.index("--weights") + 1])))
            return subprocess.CompletedProcess(command, -signal.SIGKILL)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(ablation.subprocess, "run", stand_in)
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            ablation.conduct(trial, args)
    assert len(scored) == 2
    assert scored[0] == scored[1]


OTHER = {
    "base": ["--base", "c"], "shards": ["--shards", "t"], "model": ["--model", "tiny"], "steps": ["--steps", "20"],
    "rows": ["--rows", "3"], "learning_rate": ["--learning-rate", "2e-3"], "limit": ["--limit", "7"],
    "split": ["--split", "val"], "set": ["--set", "optim.b2=0.9"],
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_another_budget_wants_another_folder(run, tmp_path, capsys, name):
    given = ["--seeds", "1", "--variants", "heads-1"]
    assert run(*given)[0] == 0
    table = (tmp_path / "out" / "ablation.md").read_text()
    code, calls = run(*given, *OTHER[name])
    assert (code, calls) == (2, [])
    assert re.search(rf"other settings \({name}: there .*, now .*\); choose another --out", capsys.readouterr().err)
    assert (tmp_path / "out" / "ablation.md").read_text() == table
    assert run(*given) == (0, [])


def test_a_folder_without_settings_is_refused(run, tmp_path, capsys):
    """Of an ablation before there were settings, or of something else."""
    (tmp_path / "out" / "heads-1" / "seed1").mkdir(parents=True)
    assert run("--seeds", "1") == (2, [])
    assert "no settings.json" in capsys.readouterr().err
    (tmp_path / "out" / ablation.SETTINGS).write_text("[1]")
    assert run("--seeds", "1") == (2, [])
    assert "expected the settings of an ablation, found list" in capsys.readouterr().err


def test_seeds_variants_and_tasks_may_grow(run, tmp_path):
    def workdirs(calls):
        return {c[c.index("--workdir") + 1].split("/out/")[1] for c in calls if "launch.train" in c}

    def table():
        return json.loads((tmp_path / "out" / "ablation.json").read_text())

    code, _ = run("--seeds", "1", "--variants", "heads-1")
    assert (code, table()) == (0, {"heads-1": {"avqa/test, accuracy": [0.25], "s4/test, accuracy": [0.25]}})
    code, calls = run("--seeds", "2", "--variants", "heads-1,heads-3")
    assert code == 0
    assert workdirs(calls) == {f"{trial}/avqa+s4/run" for trial in ("heads-3/seed1", "heads-1/seed2", "heads-3/seed2")}
    whole = table()
    # Models of more tasks are other models: they have other data, and single ones a smaller share of the steps.
    code, calls = run("--seeds", "1", "--variants", "single-task,heads-1", "--tasks", "ave,avqa,s4")
    assert workdirs(calls) == {
        "heads-1/seed1/avqa+ave+s4/run", *(f"single-task/seed1/avqa+ave+s4/{t}/run" for t in ("avqa", "ave", "s4"))
    }  # fmt: skip
    assert set(table()["heads-1"]) == {f"{task}/test, accuracy" for task in ("avqa", "ave", "s4")}
    # What was there is there: the table of what was asked before costs nothing.
    assert run("--seeds", "2", "--variants", "heads-1,heads-3") == (0, [])
    assert table() == whole
    assert run("--tasks", "s4,avqa", "--seeds", "1", "--variants", "heads-1") == (0, [])
    assert table() == {"heads-1": {name: values[:1] for name, values in whole["heads-1"].items()}}


def test_a_failed_trial_loses_no_other(run, tmp_path, capsys):
    code, _ = run("--seeds", "1", code=lambda command: int("heads-1/seed1/avqa+s4/run" in " ".join(command)))
    assert code == 1
    assert "log.txt" in capsys.readouterr().err
    scores = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert scores["heads-1"] == {}
    assert scores["heads-5"]


def test_unknown_names_are_refused():
    with pytest.raises(argparse.ArgumentTypeError, match="heads-7"):
        ablation._variants("heads-3,heads-7")
    with pytest.raises(argparse.ArgumentTypeError, match="avqb"):
        ablation._tasks("ave,avqb")
    with pytest.raises(argparse.ArgumentTypeError, match="NAME=VALUE"):
        ablation._pair("rows")


def test_the_config_takes_every_value(run):
    """What the command line of a training run sets must exist in the config of the stage."""
    from configs import finetune

    _, calls = run("--seeds", "1")
    for command in (c for c in calls if "launch.train" in c):
        config = finetune.get_config(command[command.index("--config") + 1].partition(":")[2]).to_dict()
        for flag in (a for a in command if a.startswith("--config.")):
            node = config
            for name in flag.partition("=")[0].split(".")[1:]:
                node = node[name]


def test_the_guide_makes_its_own_base():
    """Of a stage that `launch/train_mini.sh` leaves, and that has not been trained on the tasks of the ablation."""
    guide = (pathlib.Path(__file__).parents[1] / "docs" / "ablation.md").read_text(encoding="utf-8")
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", guide, re.DOTALL)).replace("\\\n", "")
    told = [shlex.split(line, comments=True) for line in commands.splitlines()]
    (asked,) = [c for c in told if "launch.ablation" in c and "WEIGHTS" not in c]
    (convert,) = [c for c in told if c[:2] == ["crab", "convert"]]
    assert convert[convert.index("--out") + 1] == asked[asked.index("--base") + 1]
    runs, _, stage = convert[2].rpartition("/")
    assert runs == "runs/mini"
    assert stage in train_mini.STAGES
    assert not {*train_mini.STAGES[stage]["shares"]} & {*asked[asked.index("--tasks") + 1].split(",")}
