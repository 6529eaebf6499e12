#!/usr/bin/env bash
# Sets everything up on a fresh machine and runs the tests.
#
#   bash launch/test.sh [pytest arguments]
#   bash launch/test.sh --goldens DIR      also compares with every recorded case of the reference in DIR
#   bash launch/test.sh DIR                the same, if DIR holds recorded cases (c01_….json or folders of them)
#   bash launch/test.sh -m slow            what takes longer than the suite should
#
# Needs Python 3.11 or newer and the package registry; safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
environment "[test]"
echo "== ruff"
"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m ruff format --check --quiet .
echo "== pytest"
args=(-q -n "${TEST_PROCESSES:-2}" --dist loadfile)
case " $* " in *" -m "*) ;; *) args+=(-m "not slow") ;; esac
before=""
for word in "$@"; do
  # A folder with recorded cases is no folder with tests.
  if [ -d "$word" ] && [ "$before" != --goldens ] && [ -n "$(find "$word" -maxdepth 2 -name 'c[0-9][0-9]*.json' -print -quit)" ]; then
    args+=(--goldens)
  fi
  args+=("$word")
  before="$word"
done
exec env JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" "$VENV/bin/python" -m pytest "${args[@]}"
