"""Compile mmcv-full's CPU operators in a few files that include its sources, which stay as they are.

Nearly all of the time of its 73 files is spent on parsing torch's headers, once for each file. This runs in the
environment that is being set up: `python -P tools/mmcv_unity.py VERSION WHEELS`. Compiler, flags and link are those of
the package's setup.py, less the debugging symbols.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

GROUPS = 7
ALONE = "pytorch/pybind.cpp"  # takes as long as two groups and is begun first
# What they define would reach whatever follows: macros `min` and `max`, names of `std`.
LAST = ("cpu/psamask.cpp", "pytorch/contour_expand.cpp")


def grouped(sources):
    """Divide sources among files to compile: each is in one group, the order of the argument does not matter.

    Neighbours in the alphabet are in different groups: variants of an operator define helpers of the same name.
    """
    alone = [source for source in sources if source.endswith(ALONE)]
    others = sorted(set(sources) - set(alone), key=lambda source: (Path(source).parent.name, Path(source).name))
    groups = [sorted(others[first::GROUPS], key=lambda source: source.endswith(LAST)) for first in range(GROUPS)]
    return [group for group in [alone, *groups] if group]


def write_unity_files(sources, folder):
    """Write a file for each group of sources. Returns their paths, the longest to compile first."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, group in enumerate(grouped(sources)):
        files.append(folder / f"unity_{number}.cpp")
        files[-1].write_text("".join(f'#include "{Path(source).absolute()}"\n' for source in group))
    return [str(file) for file in files]


def build(folder, wheels):
    """Build the wheel of the sources unpacked in `folder`, which becomes the working directory."""
    from torch.utils import cpp_extension

    extension = cpp_extension.CppExtension

    def unity_extension(name, sources, *, extra_compile_args, **options):
        files = write_unity_files(sources, Path("build") / "unity")
        flags = {**extra_compile_args, "cxx": [*extra_compile_args["cxx"], "-g0"]}
        return extension(name, files, extra_compile_args=flags, **options)

    os.chdir(folder)
    cpp_extension.CppExtension = unity_extension  # setup.py imports it by this name
    sys.argv = ["setup.py", "bdist_wheel", "--dist-dir", str(wheels)]
    runpy.run_path("setup.py", run_name="__main__")


def main(version, wheels):
    with tempfile.TemporaryDirectory(dir=Path(wheels).parent) as temporary:
        pip = [sys.executable, "-m", "pip", "download", f"mmcv-full=={version}", "--dest", temporary]
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--no-binary", "mmcv-full"], check=True)
        shutil.unpack_archive(next(Path(temporary).glob("*.tar.gz")), temporary)
        build(next(Path(temporary).glob("*/setup.py")).parent, wheels)


if __name__ == "__main__":
    main(*sys.argv[1:])
