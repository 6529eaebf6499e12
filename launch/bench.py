"""Benchmarks: `python -m launch.bench infer`, `data`, `train`, or `evaluate`.

Numbers beside limits, nothing is asserted; see docs/performance.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import shlex
import sys
from types import ModuleType
from typing import Any

import jax

from launch.benchmarks import data, evaluate, infer, report, train


def main(argv: list[str] | None = None) -> int:
    """Parses the command line, measures, writes. The table goes to standard output, progress to standard error."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m launch.bench", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "infer", help="the LoRA linear, encoding and generation against this machine's own limits"
    )
    _files(command)
    command.add_argument("--dtype", nargs="+", choices=list(infer.DTYPES), default=list(infer.DTYPES))
    command.add_argument("--only", nargs="+", choices=list(infer.SECTIONS), default=[], help="these sections")
    command.add_argument("--rounds", type=_positive, default=5, help="timed repetitions of everything (default 5)")
    command = commands.add_parser(
        "data", help="building shards, reading them as a stream, and how full packed rows are"
    )
    _files(command)
    command.add_argument("--only", nargs="+", choices=list(data.SECTIONS), default=[], help="these sections")
    command.add_argument("--rounds", type=_positive, default=5, help="timed repetitions of everything (default 5)")
    command.add_argument("--clips", type=_positive, default=60, help="clips to render per task (default 60)")
    command.add_argument("--folder", type=pathlib.Path, help="keep the rendered clips and the shards here")
    command = commands.add_parser(
        "train", help="optimizer steps against the limit of matrix products; packing, and the frozen split"
    )
    _files(command)
    command.add_argument("--dtype", nargs="+", choices=list(train.DTYPES), default=list(train.DTYPES))
    command.add_argument("--only", nargs="+", choices=list(train.SECTIONS), default=[], help="these sections")
    command.add_argument("--rounds", type=_positive, default=3, help="timed repetitions of everything (default 3)")
    command.add_argument("--model", default="bench_mid", help="sizes, a file of configs/ (default bench_mid)")
    command.add_argument(
        "--full", action="store_true", help="instead: the joint finetune at the published 7B sizes, on an accelerator"
    )
    command.add_argument("--rows", type=_positive, help="rows of a step (default 1, with --full 4)")
    command = commands.add_parser(
        "evaluate", help="items per second of every task, and the share of compiling, with an empty and a warm cache"
    )
    _files(command)
    command.add_argument(
        "--weights", type=pathlib.Path, metavar="DIR", help="instead of a random model of the toy size"
    )
    command.add_argument("--items", type=_positive, default=24, help="of every test set, at most (default 24)")
    command.add_argument("--batch", type=_positive, default=8, help="items at once (default 8)")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    command.add_argument("--folder", type=pathlib.Path, help="keep the rendered clips and the shards here")
    options = parser.parse_args(arguments)
    common = {"name": options.command, "arguments": arguments, "json_file": options.json, "document": options.update}
    if options.command == "data":
        figures = data.measure(
            folder=options.folder,
            clips=options.clips,
            rounds=options.rounds,
            only=options.only,
            progress=lambda f: _say(f"{f.section}: {f.what}, {f.value.median:.3g} {f.unit}"),
        )
        write(figures, form=data, **common)
        return 0
    if options.command == "evaluate":
        figures = evaluate.measure(
            folder=options.folder,
            weights=options.weights,
            items=options.items,
            batch=options.batch,
            dtype=options.dtype,
            progress=lambda f: _say(f"{f.section}: {f.what}, {f.value.median:.3g} {f.unit}; {f.against}"),
        )
        write(figures, form=evaluate, **common)
        return 0
    if options.command == "train":
        sizes = train.Sizes(model=options.model)
        if options.rows:
            sizes = dataclasses.replace(sizes, rows=options.rows, full_rows=options.rows)
        try:
            rows = train.measure(
                sizes, dtypes=options.dtype, rounds=options.rounds, only=options.only, full=options.full, progress=_told
            )
        except train.Unsuitable as error:
            _say(str(error))
            return 2
        write(rows, **common)
        return 0
    rows = infer.measure(
        infer.full_sizes(backend=jax.default_backend()),
        dtypes=options.dtype,
        rounds=options.rounds,
        only=options.only,
        progress=_told,
    )
    write(rows, **common)
    return 0


def _files(command: argparse.ArgumentParser) -> None:
    """Where every benchmark can write, besides standard output."""
    name = command.prog.split()[-1]
    command.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write every number here")
    command.add_argument(
        "--update",
        type=pathlib.Path,
        metavar="FILE",
        help=f"put the table between the <!-- bench:{name} --> markers here",
    )


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number above zero, found {value}")
    return number


def _told(row: report.Row) -> None:
    _say(f"{row.section}: {row.what}, {row.dtype}: {row.ratio.median:.2f} times {row.against}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def write(
    rows: list[Any],
    *,
    name: str,
    arguments: list[str],
    json_file: pathlib.Path | None,
    document: pathlib.Path | None,
    form: ModuleType = report,
) -> None:
    """Standard output, the JSON file and the document, each with the exact command and the machine.

    Args:
        rows: what was measured.
        name: of the subcommand.
        arguments: of the command line.
        json_file, document: where else to write.
        form: has `text` and `as_json` for such rows.
    """
    found = report.environment()
    line = "python -m launch.bench " + shlex.join(arguments)
    content = form.text(rows, command=line, found=found)
    sys.stdout.write(content)
    if json_file is not None:
        whole = form.as_json(rows, command=line, found=found)
        json_file.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if document is not None:
        report.update(document, f"bench:{name}", content)


if __name__ == "__main__":
    sys.exit(main())
