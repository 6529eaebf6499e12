"""Options and fixtures of the whole suite."""

from __future__ import annotations

import pathlib
import signal
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # for `goldens` and the like, and for `configs` and `launch`
# A few small recorded cases come with the tests, so that parity is never skipped altogether.
RECORDED = HERE / "data" / "recorded"
CASES = "c0"  # the cases of the model itself, c01 to c09


def pytest_addoption(parser):
    parser.addoption(
        "--goldens", metavar="DIR", help="recorded cases of the reference (a folder with c01*.json …); default: a few"
    )
    parser.addoption("--examples", metavar="DIR", help="real media that some recorded cases were made from")


def pytest_configure(config):
    import goldens

    # A shell that starts the tests in the background has them ignore Ctrl-C, and what they start inherits that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    config.addinivalue_line("markers", "case(prefix): runs once per recorded case whose name starts with prefix")
    given = config.getoption("--goldens")
    if given and not goldens.find(pathlib.Path(given), CASES):  # else everything would be skipped, and look well
        raise pytest.UsageError(f"--goldens {given}: no recorded case ({CASES}*.json) in this folder or below it")


def _folder(config) -> pathlib.Path:
    given = config.getoption("--goldens")
    return pathlib.Path(given) if given else RECORDED


def pytest_generate_tests(metafunc):
    """`@pytest.mark.case("c05")` runs the test once for every recorded case whose name starts so."""
    import goldens

    marker = metafunc.definition.get_closest_marker("case")
    if marker is None:
        return
    given = metafunc.config.getoption("--goldens")
    found = goldens.find(_folder(metafunc.config), marker.args[0])
    if not found:
        where = f"under {given}" if given else "among those that come with the tests; give --goldens DIR"
        skip = pytest.mark.skip(reason=f"no recorded case {marker.args[0]}* {where}")
        metafunc.parametrize("case", [pytest.param(None, marks=skip)], ids=["absent"])
        return
    metafunc.parametrize("case", found, indirect=True, ids=[p.stem for p in found])


@pytest.fixture
def case(request):
    import goldens

    return goldens.Case(request.param)


@pytest.fixture
def examples(request):
    """The folder with the media of the recorded cases: named, or `examples` beside the recorded cases."""
    given = request.config.getoption("--examples")
    start = pathlib.Path(request.config.getoption("--goldens") or RECORDED).resolve()
    places = [pathlib.Path(given)] if given else [place / "examples" for place in (start, *list(start.parents)[:2])]
    for folder in places:
        if folder.is_dir():
            return folder
    return pytest.skip("media of the recorded cases not found: pass --examples DIR")


@pytest.fixture(scope="module")
def quick_compilation():
    """Programs of this file are not optimised: with small models, compiling takes longer than all the rest."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def _worst_of_process():
    import goldens

    return goldens.WORST


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """With xdist, each process hands over what it compared."""
    for name, entry in getattr(node, "workeroutput", {}).get("recorded_cases", {}).items():
        ratio, tensor, largest, checked = entry
        before = _worst_of_process().get(name, (-1.0, "", 0.0, 0))
        worse = (ratio, tensor, largest) if ratio > before[0] else before[:3]
        _worst_of_process()[name] = (*worse, before[3] + checked)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["recorded_cases"] = {k: list(v) for k, v in _worst_of_process().items()}


def pytest_terminal_summary(terminalreporter, config):
    """Prints the worst error of every recorded case against its tolerance, and the cases that nothing compared."""
    import goldens

    worst = _worst_of_process()
    if not worst:
        return
    paths = sorted({*worst, *map(str, goldens.find(_folder(config), CASES))}, key=lambda p: (pathlib.Path(p).stem, p))
    stems = [pathlib.Path(path).stem for path in paths]
    labels = [s if stems.count(s) == 1 else f"{pathlib.Path(p).parent.name}/{s}" for p, s in zip(paths, stems)]
    terminalreporter.section("recorded cases: worst error / tolerance")
    for path, label in zip(paths, labels):
        if path in worst:
            ratio, tensor, error, checked = worst[path]
            verdict = "ok " if ratio <= 1 else "BAD"
            terminalreporter.write_line(
                f"{verdict} {label:24s} {ratio:9.3g} of tolerance (max |error| {error:.3g}) in {tensor}; "
                f"{checked} compared"
            )
    if idle := [label for path, label in zip(paths, labels) if path not in worst]:
        terminalreporter.write_line(f"--  nothing was compared with: {', '.join(idle)}")
