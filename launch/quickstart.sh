#!/usr/bin/env bash
# Sets everything up on a fresh machine and answers all nine tasks once.
#
#   bash launch/quickstart.sh [--out DIR] [--seed N]
#
# Needs Python 3.11 or newer and the package registry; safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
environment ""
export CRAB_JAX_SETUP_S="$SECONDS" # for the summary
exec "$VENV/bin/python" -m launch.quickstart "$@"
