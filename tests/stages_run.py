"""Stages one after the other in one process, and what becomes of their runs: most of each is starting and compiling.

python tests/stages_run.py LIST.json

The list holds entries `["train", STAGE, ARGUMENT, WORKDIR, {dotted name: value}]` and `["crab", ARGUMENT, …]`; the exit
code of each goes to standard output, as a JSON list in the last line.
"""

import importlib
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from absl import flags

from crab_jax import cli
from launch import train


def stage(name: str, argument: str, workdir: str, values: dict) -> int:
    """What `python -m launch.train` does with its flags read."""
    config = importlib.import_module(f"configs.{name}").get_config(argument)
    start = tuple(values.pop("stage.start", ()))
    config.update_from_flattened_dict(values)
    config.stage.start = start
    return train.run(config, pathlib.Path(workdir))


def main() -> int:
    flags.FLAGS(["train", "--config=configs/finetune.py", "--workdir=unused"])
    codes = []
    for kind, *rest in json.loads(pathlib.Path(sys.argv[1]).read_text()):
        codes.append(stage(*rest) if kind == "train" else cli.main(rest))
    sys.stdout.write(f"{json.dumps(codes)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
