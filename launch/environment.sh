# Makes the virtual environment of this checkout and installs the project into it. Sourced by quickstart.sh, test.sh and,
# on the workers of a TPU, for tpu_pod.sh.
#
#   environment EXTRAS     e.g. environment ""  or  environment "[test]"
#   bring_python           before it: gets a Python where there is none that is new enough
#
# PYTHON   the interpreter to start from (default: the first of python3, python3.13, 3.12, 3.11 that is new enough)
# VENV     where the environment goes (default: .venv in the checkout)

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    new_enough "$PYTHON" || { echo "error: PYTHON=$PYTHON is not Python 3.11 or newer" >&2; exit 1; }
    echo "$PYTHON"
    return
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if new_enough "$candidate"; then echo "$candidate"; return; fi
  done
  echo "error: no Python 3.11 or newer found; install one, or set PYTHON=/path/to/python" >&2
  exit 1
}

# Sets PYTHON where no Python here is new enough and can make environments, as on images of TPU VMs: uv brings one.
bring_python() {
  local python
  if python="$(find_python 2>/dev/null)" && "$python" -c 'import ensurepip' 2>/dev/null; then return; fi
  echo "== bringing Python 3.12 with uv: nothing here is Python 3.11 or newer and can make environments"
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --disable-pip-version-check --user "uv>=0.5,<1" || return
  UV_PYTHON_PREFERENCE=only-managed python3 -m uv python install --quiet 3.12 || return
  PYTHON="$(UV_PYTHON_PREFERENCE=only-managed python3 -m uv python find 3.12)"
}

environment() {
  local extras="$1" python stamp want
  VENV="${VENV:-$PWD/.venv}"
  # pip too: where the system lacks ensurepip, a first attempt leaves an environment without it.
  if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
    python="$(find_python)" || exit 1
    if [ -e "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
      echo "error: VENV=$VENV is no virtual environment, so it is not replaced; remove it, or set VENV to a new folder" >&2
      exit 1
    fi
    echo "== making a virtual environment in $VENV ($("$python" --version))"
    rm -rf "$VENV"
    "$python" -m venv "$VENV" || {
      echo "error: cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2
      exit 1
    }
  fi
  stamp="$VENV/.installed-${extras//[^a-z]/_}"
  want="$(cksum < setup.py) $PWD"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    echo "== packages are installed already"
  else
    echo "== installing crab_jax$extras and what it needs into $VENV (a few minutes the first time)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip || return
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$extras" || return
    echo "$want" > "$stamp"
  fi
}
