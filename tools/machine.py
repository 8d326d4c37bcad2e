"""What the machine must bring: Python with venv and headers, a C++ compiler, disk space."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.pins import SetupError

GIB = 2**30
# The CPU environment takes 2.1 GiB; the rest is for pip's downloads and the outputs of the embedded default.
# A CUDA build of torch brings the CUDA libraries along.
ENVIRONMENT_GIB = {"cpu": 6, "cuda": 16}
UPDATE_GIB = 2
BUILD_GIB = 1


def output_of(*command):
    """Standard output of `command` without surrounding space, or None if it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def python_version(python):
    """Version of interpreter `python`, such as "3.11", or None if it does not run."""
    return output_of(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")


def find_python(version, venv):
    """Path of a working Python `version` on PATH that can create environments and is not that of `venv`.

    The first one need not work: pyenv has shims for versions not selected, Debian's Python has no ensurepip.
    """
    others, without_venv = set(), None
    for name in (f"python{version}", "python3", "python"):
        for folder in os.get_exec_path():
            candidate = shutil.which(name, path=folder)
            if candidate is None or Path(folder).absolute() == venv / "bin":
                continue
            found = python_version(candidate)
            if found != version:
                others.update({found} - {None})
            elif output_of(candidate, "-c", "import ensurepip, venv") is None:
                without_venv = candidate
            else:
                return candidate
    if without_venv:
        raise SetupError(f"{without_venv} cannot create environments: install python{version}-venv and repeat")
    seen = f" (found {', '.join(sorted(others))})" if others else ""
    raise SetupError(
        f"Python {version} is needed and not on PATH{seen}: "
        f"install python{version}, python{version}-venv and python{version}-dev and repeat"
    )


def check_compiler(python):
    """Require a C++17 compiler and the headers of interpreter `python`, by compiling against them."""
    compiler = os.environ.get("CXX", "c++")  # the rule of torch.utils.cpp_extension
    if shutil.which(compiler) is None:
        raise SetupError(f"no C++ compiler: {compiler!r} is not on PATH; install g++ (or set CXX) and repeat")
    include = output_of(python, "-c", "import sysconfig; print(sysconfig.get_paths()['include'])")

    def compiles(source):
        command = [compiler, "-std=c++17", "-fsyntax-only", "-I", include, "-x", "c++", "-"]
        return subprocess.run(command, input=source, text=True, capture_output=True).returncode == 0

    if not compiles("#include <optional>\n"):
        raise SetupError(f"the C++ compiler {compiler!r} does not compile C++17: install g++ 9 or newer and repeat")
    if not compiles("#include <Python.h>\n"):
        raise SetupError(f"no Python.h in {include}: install the headers of {python} (python3.11-dev) and repeat")


def check_disk(venv, cache):
    """Require free space for environment, cached wheel and build, added up where they share a disk."""
    flavour = "cuda" if shutil.which("nvidia-smi") or shutil.which("nvcc") else "cpu"
    needs = [
        (venv, UPDATE_GIB if venv.exists() else ENVIRONMENT_GIB[flavour]),
        (cache, BUILD_GIB),
        (Path(tempfile.gettempdir()), BUILD_GIB),
    ]
    disks = {}
    for path, gib in needs:
        folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
        disk = folder.stat().st_dev
        first, total = disks.get(disk, (folder, 0))
        disks[disk] = first, total + gib
    for folder, gib in disks.values():
        free = shutil.disk_usage(folder).free / GIB
        if free < gib:
            raise SetupError(
                f"no disk space: {free:.1f} GiB free on the disk of {folder}, {gib} GiB needed; free some and repeat"
            )
