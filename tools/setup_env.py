"""Create the project's environment: `make setup`. Needs a bare Python, nothing but its standard library.

Every version comes from environment.yml and constraints.txt. mmcv-full has no wheel for a current torch: it
is compiled against the torch just installed and kept outside the environment, for the next clone.
MMCV_CUDA=auto|0|1 chooses its operators, MAX_JOBS the parallel compilations.
"""

from __future__ import annotations  # a Python too old for the project reads this file, to say so in one line

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tools import machine, mmcv_wheel, pins, processes
from tools.pins import ROOT, SetupError

LOADS = "import pipeline.compat, mmcv.ops, mmdet"


def say(text):
    print(text, flush=True)


def create_venv(base_python, venv):
    """Create `venv` unless it works. A prefix that is no venv (conda's) is used as it is, never replaced."""
    python = venv / "bin" / "python"
    if machine.output_of(python, "-m", "pip", "--version") is not None:
        return
    if venv.exists() and not (venv / "pyvenv.cfg").exists() and any(venv.iterdir()):
        raise SetupError(f"{venv} is neither empty nor an environment with pip: set VENV to another folder")
    say(f"creating {venv} with {base_python}")
    if processes.run([base_python, "-m", "venv", "--clear", venv]) != 0:
        raise SetupError(f"{base_python} could not create {venv}: see above")


def pip_install(venv, *arguments):
    command = [venv / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    if not sys.stdout.isatty():
        command.append("-q")
    if processes.run(command, cwd=ROOT) != 0:
        raise SetupError("pip failed, see above; `make setup` continues with what is already installed")


def load_error(venv):
    """Import the compiled operators and what stands on them. Returns the error's own first line, or None."""
    command = [venv / "bin" / "python", "-W", "ignore", "-c", LOADS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    # Behind the last traceback the unindented line is the error; its message may have more lines.
    lines = done.stderr.rpartition("Traceback (most recent call last):")[2].splitlines()
    return next((line for line in lines if line.strip() and not line[0].isspace()), f"exit {done.returncode}")


def install_mmcv(venv, version, mode):
    """Install the mmcv-full that fits the installed torch, cached or compiled now; it must load."""
    torch = mmcv_wheel.Torch.of(venv / "bin" / "python")
    target = mmcv_wheel.choose_target(torch, mode)
    folder = mmcv_wheel.cache_folder(version, torch, target)
    operators = "CPU and CUDA" if target.cuda else "CPU"
    say(f"mmcv-full {version} for torch {torch.version}, {operators} operators ({target.reason})")

    def install(wheel):
        # pip cannot tell one binary of this version from another, so it must not think that it is installed.
        pip_install(venv, "--no-deps", "--force-reinstall", "--no-cache-dir", wheel)
        return load_error(venv)

    if wheel := mmcv_wheel.cached_wheel(folder):
        error = install(wheel)
        if error is None:
            return
        if error.startswith("ModuleNotFoundError"):
            raise SetupError(f"{error}: environment.yml lacks a package; compiling mmcv-full anew would not help")
        say(f"{wheel} does not load ({error}): compiling it anew")
    if error := install(mmcv_wheel.build_wheel(venv, version, target, folder)):
        raise SetupError(f"the new environment does not load ({error}): remove {venv} and {folder} and repeat")


def set_up(venv):
    """Bring `venv` to the pinned versions; its stamp says that it has them. One set-up at a time works on it."""
    with processes.alone(venv, lambda: say(f"another set-up works on {venv}: waiting for it")):
        _set_up(venv)


def _set_up(venv):
    stamp, current = venv / ".stamp", pins.fingerprint()
    if stamp.exists() and stamp.read_text() == current:
        with contextlib.suppress(OSError):  # an environment in a read-only image stays as it is
            stamp.touch()
        return
    started = time.monotonic()
    versions = pins.read_pins()
    python = venv / "bin" / "python"
    ready_made = python.exists() and not (venv / "pyvenv.cfg").exists()
    base_python = python if ready_made else machine.find_python(versions.python, venv)
    machine.check_compiler(base_python)
    machine.check_disk(venv, mmcv_wheel.cache_root())

    stamp.unlink(missing_ok=True)
    create_venv(base_python, venv)
    if (found := machine.python_version(python)) != versions.python:
        raise SetupError(f"{venv} runs Python {found}, {versions.python} is needed: remove it and repeat")
    say("installing torch")
    pip_install(venv, versions.requirement("torch"), "-c", pins.CONSTRAINTS)
    say(f"installing {len(versions.pip) - 1} further packages and what they need")
    pip_install(venv, *versions.pip, "-c", pins.CONSTRAINTS)
    install_mmcv(venv, versions.mmcv_full, os.environ.get("MMCV_CUDA", "auto"))
    stamp.write_text(current)
    say(f"environment ready after {time.monotonic() - started:.0f} s")


def main(arguments=None):
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="its folder (default: .venv)")
    try:
        set_up(parser.parse_args(arguments).venv.absolute())
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # full disk, no permission
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}; mend that and repeat `make setup`", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; `make setup` continues where it stopped", file=sys.stderr)
        return 130
    return 0


def command():
    """`main`, unwinding when it is asked to end, so that nothing half-built is left."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main())


if __name__ == "__main__":
    command()
