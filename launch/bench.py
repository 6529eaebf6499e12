"""Benchmarks: `python -m launch.bench infer`. Numbers beside limits, nothing is asserted; see docs/performance.md."""

from __future__ import annotations

import argparse
import json
import pathlib
import shlex
import sys

import jax

from launch.benchmarks import infer, report


def main(argv: list[str] | None = None) -> int:
    """Parses the command line, measures, writes. The table goes to standard output, progress to standard error."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m launch.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "infer", help="the LoRA linear, encoding and generation against this machine's own limits"
    )
    command.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write every number here")
    command.add_argument("--dtype", nargs="+", choices=list(infer.DTYPES), default=list(infer.DTYPES))
    command.add_argument("--only", nargs="+", choices=list(infer.SECTIONS), default=[], help="these sections")
    command.add_argument("--rounds", type=_positive, default=5, help="timed repetitions of everything (default 5)")
    command.add_argument(
        "--update",
        type=pathlib.Path,
        metavar="FILE",
        help="put the table between the <!-- bench:infer --> markers here",
    )
    options = parser.parse_args(arguments)
    rows = infer.measure(
        infer.full_sizes(backend=jax.default_backend()),
        dtypes=options.dtype,
        rounds=options.rounds,
        only=options.only,
        progress=_say,
    )
    write(rows, name=options.command, arguments=arguments, json_file=options.json, document=options.update)
    return 0


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number above zero, found {value}")
    return number


def _say(row: report.Row) -> None:
    sys.stderr.write(f"{row.section}: {row.what}, {row.dtype}: {row.ratio.median:.2f} times {row.against}\n")


def write(
    rows: list[report.Row],
    *,
    name: str,
    arguments: list[str],
    json_file: pathlib.Path | None,
    document: pathlib.Path | None,
) -> None:
    """Standard output, the JSON file and the document, each with the exact command and the machine."""
    found = report.environment()
    line = "python -m launch.bench " + shlex.join(arguments)
    content = report.text(rows, command=line, found=found)
    sys.stdout.write(content)
    if json_file is not None:
        whole = report.as_json(rows, command=line, found=found)
        json_file.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if document is not None:
        report.update(document, f"bench:{name}", content)


if __name__ == "__main__":
    sys.exit(main())
