"""Benchmarks behind `python -m launch.bench`: each number stands beside a limit or a second form, nothing is asserted."""
