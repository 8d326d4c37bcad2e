"""Whether this interpreter has what the command lines need; else one line that says what to do.

Plain Python 3 and its standard library: whatever interpreter was found reads this.
"""

import importlib.util
import os
import shlex
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NEEDED = ("torch", "mmcv", "mmdet", "ruamel.yaml", "mlflow", "dvc")


def _missing(name):
    try:
        return importlib.util.find_spec(name) is None
    except ImportError:
        return True


def _problem():
    """What is wrong with the interpreter and what to do, in a line; None if nothing is."""
    here = os.path.join(ROOT, ".venv", "bin", "activate")
    activate = (
        "run `source .venv/bin/activate`"
        if os.path.exists(here)
        else ("run `make setup`, then `source .venv/bin/activate`")
    )
    prefix = shlex.quote(sys.prefix)
    again = f"rm -f {prefix}/.stamp && make setup VENV={prefix}"
    if sys.version_info[:2] != (3, 11):
        found = ".".join(map(str, sys.version_info[:2]))
        return f"this is Python {found} ({sys.executable}), the project needs 3.11: {activate}"
    missing = [name for name in NEEDED if _missing(name)]
    if missing and os.path.exists(os.path.join(sys.prefix, ".stamp")):
        return f"the environment is incomplete ({sys.prefix} has no {missing[0]}): run `{again}`"
    if missing:
        return f"the environment is not activated ({sys.executable} has no {missing[0]}): {activate}"
    folders = importlib.util.find_spec("mmcv").submodule_search_locations or []
    if not [file for folder in folders for file in os.listdir(folder) if file.startswith("_ext.")]:
        remove = f"{shlex.quote(sys.executable)} -m pip uninstall -y mmcv mmcv-full"
        return f"mmcv is here without its compiled operators: run `{remove}; {again}`"
    if {"commands.launch", "commands.compare"} & set(_command()) and not os.path.exists(os.path.join(ROOT, ".git")):
        init = "git init -q && git add -A && git -c user.name=me -c user.email=me@localhost commit -qm import"
        return f"{ROOT} has no .git, which DVC needs: clone the repository, or run `{init}`"
    return None


def _command():
    """The words this process was started with."""
    if hasattr(sys, "orig_argv"):
        return sys.orig_argv
    with open("/proc/self/cmdline") as file:
        return file.read().split("\0")


def require():
    """Exit with one line unless the environment is complete; the doctor says more of the same."""
    if "commands.doctor" not in _command():
        found = _problem()
        if found:
            sys.stderr.write(f"error: {found}\n")
            sys.exit(1)
