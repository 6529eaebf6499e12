"""Options and fixtures of the whole suite."""

from __future__ import annotations

import pathlib
import sys

import pytest

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1])]  # `goldens`; `configs`

import goldens


def pytest_addoption(parser):
    parser.addoption(
        "--goldens", metavar="DIR", help="recorded cases of the reference (a folder holding c01*.json … c09*.json)"
    )
    parser.addoption("--examples", metavar="DIR", help="real media that some recorded cases were made from")


def pytest_generate_tests(metafunc):
    """`@pytest.mark.case("c05")` runs the test once for every recorded case whose name starts so."""
    marker = metafunc.definition.get_closest_marker("case")
    if marker is None:
        return
    folder = metafunc.config.getoption("--goldens")
    if folder is None:
        reason = "recorded cases not given: pytest tests/parity --goldens DIR"
        metafunc.parametrize("case", [pytest.param(None, marks=pytest.mark.skip(reason=reason))], ids=["no-goldens"])
        return
    found = goldens.find(pathlib.Path(folder), marker.args[0])
    if not found:
        reason = f"no recorded case {marker.args[0]}* under {folder}"
        metafunc.parametrize("case", [pytest.param(None, marks=pytest.mark.skip(reason=reason))], ids=["absent"])
        return
    metafunc.parametrize("case", found, indirect=True, ids=[p.stem for p in found])


@pytest.fixture
def case(request):
    return goldens.Case(request.param)


@pytest.fixture
def examples(request):
    """The folder with the media of the recorded cases."""
    given = request.config.getoption("--examples")
    folder = (
        pathlib.Path(given)
        if given
        else pathlib.Path(request.config.getoption("--goldens") or "/nowhere") / ".." / "examples"
    )
    if not folder.is_dir():
        pytest.skip("media of the recorded cases not found: pass --examples DIR")
    return folder


def pytest_configure(config):
    config.addinivalue_line("markers", "case(prefix): runs once per recorded case whose name starts with prefix")


def pytest_terminal_summary(terminalreporter):
    """Prints the worst error of every recorded case against its tolerance."""
    if not goldens.WORST:
        return
    terminalreporter.section("recorded cases: worst error / tolerance")
    for name, (ratio, tensor, error, checked) in sorted(goldens.WORST.items()):
        verdict = "ok " if ratio <= 1 else "BAD"
        terminalreporter.write_line(
            f"{verdict} {name:24s} {ratio:9.3g} of tolerance (max |error| {error:.3g}) in {tensor}; {checked} tensors"
        )
