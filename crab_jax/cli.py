"""The `crab` command. Each verb is one call into the package; heavy imports wait until a verb is chosen."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import sys
from collections.abc import Sequence

from crab_jax import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `crab` command. Returns the exit code."""
    _cache_compilations()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an answer may hold letters that the terminal does not know
            stream.reconfigure(errors="backslashreplace")
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in argv if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="crab", description="Hears and sees at once, and says what, when, where, and which pixels."
    )
    parser.add_argument("--version", action="version", version=f"crab_jax {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, about, prepare in (
        ("infer", "answer questions about videos, sounds and images", _infer),
        ("eval", "ask everything in the test sets of shards, and make one table of it", _eval),
        ("report", "write the page of an evaluation once more, without a model", _report),
        ("convert", "convert the published PyTorch files into a weights folder", _convert),
        ("export", "write a weights folder back under the published PyTorch names", _export),
        ("data", "build shards from data sets, and look into them", _data),
        ("world", "render a world of audio-visual clips in the layouts of all data sets", _world),
        ("plan", "say whether a training run fits a TPU slice and how fast it can be; needs no TPU", _plan),
    ):
        sub = verbs.add_parser(name, help=about, description=about)
        # Only the chosen verb is imported: `crab --help` answers at once.
        sub.set_defaults(run=prepare(sub) if name == verb else None)
    args, others = parser.parse_known_args(argv)
    # A plan is made of a config whose values can be changed as in launch.train; argparse cannot know their names.
    args.overrides = [word for word in others if verb == "plan" and re.match(r"--config\.[\w.]+=", word)]
    if wrong := [word for word in others if word not in args.overrides]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    try:
        return args.run(args)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # whoever read our output has gone, as in `crab … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more at exit
        return 141


def _infer(parser: argparse.ArgumentParser):
    from crab_jax import infer

    infer.add_arguments(parser)
    return infer.run


def _eval(parser: argparse.ArgumentParser):
    from crab_jax.evaluate import command

    command.add_arguments(parser)
    return command.main


def _report(parser: argparse.ArgumentParser):
    from crab_jax.evaluate.report import command

    command.add_arguments(parser)
    return command.main


def _convert(parser: argparse.ArgumentParser):
    from crab_jax.convert import command

    command.add_arguments(parser)
    return command.run


def _export(parser: argparse.ArgumentParser):
    from crab_jax.convert import command

    command.add_export_arguments(parser)
    return command.run_export


def _world(parser: argparse.ArgumentParser):
    from data_pipelines.world import command

    command.add_arguments(parser)
    return command.run


def _plan(parser: argparse.ArgumentParser):
    from crab_jax.plan import command

    command.add_arguments(parser)
    return command.run


def _data(parser: argparse.ArgumentParser):
    from data_pipelines import command

    command.add_arguments(parser)
    return command.run


def _cache_compilations() -> None:
    """Compiled programs are kept between runs (`JAX_COMPILATION_CACHE_DIR`, empty to switch it off)."""
    try:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "crab_jax", "xla")
    except RuntimeError:  # nobody's home, as for a nameless user in a container: nothing is kept
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))


if __name__ == "__main__":
    sys.exit(main())
