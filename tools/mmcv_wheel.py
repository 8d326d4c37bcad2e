"""Compile mmcv-full against the installed torch, once for each combination that its binary depends on."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tools import processes
from tools.machine import GIB, output_of
from tools.pins import SetupError

# The largest translation unit of mmcv-full peaks at 2.4 GiB in g++ 12.
COMPILE_JOB_GIB = 2.5
REPORT_SECONDS = 15
UNITY = Path(__file__).with_name("mmcv_unity.py")

PROBE = """
import json, pathlib, platform, sys, sysconfig, torch
gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
site = pathlib.Path(sysconfig.get_paths()["purelib"])
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "python": "cp%d%d" % sys.version_info[:2],
    "machine": platform.machine(),
    "visible_arch": ";".join(sorted({"%d.%d" % torch.cuda.get_device_capability(gpu) for gpu in gpus})),
    "nvidia_headers": ":".join(sorted(map(str, site.glob("nvidia/*/include")))),
}))
"""


@dataclasses.dataclass(frozen=True)
class Torch:
    """The installed torch as it describes itself."""

    version: str  # with the local part: 2.13.0+cpu, 2.13.0+cu130
    cuda: str | None  # torch.version.cuda
    python: str  # cp311
    machine: str  # x86_64
    visible_arch: str  # compute capabilities of the visible GPUs joined by ";", empty without GPU
    nvidia_headers: str  # include folders of the nvidia-* packages joined by ":"

    @classmethod
    def of(cls, python):
        """Ask the torch of interpreter `python`."""
        report = output_of(python, "-W", "ignore", "-c", PROBE)
        if report is None:
            raise SetupError(f"`{python} -c 'import torch'` fails: remove its environment and repeat")
        return cls(**json.loads(report))


@dataclasses.dataclass(frozen=True)
class Target:
    """The operators compiled for; `cuda` is the environment of a CUDA build, empty for the CPU alone."""

    cuda: dict[str, str]
    reason: str

    @property
    def label(self):
        return "sm_" + re.sub(r"[^\w.+]+", "_", self.cuda["TORCH_CUDA_ARCH_LIST"]) if self.cuda else "cpu_ops"


def choose_target(torch, mode):
    """Decide what mmcv-full is compiled for.

    Args:
        torch: the installed Torch.
        mode: MMCV_CUDA: "auto" (CUDA if all it needs is there), "1" (CUDA or an error), "0" (CPU only).

    Raises:
        SetupError: an unknown mode, or mode "1" and something is missing.
    """
    if mode not in ("auto", "0", "1"):
        raise SetupError(f"MMCV_CUDA={mode}: valid values are auto, 0 and 1")
    if mode == "0":
        return Target({}, "as MMCV_CUDA=0 asks")
    nvcc = find_nvcc()
    arch = os.environ.get("TORCH_CUDA_ARCH_LIST") or torch.visible_arch
    if torch.cuda is None:
        lacking = f"torch {torch.version} is a CPU build"
    elif nvcc is None:
        lacking = f"no nvcc: install the CUDA {torch.cuda.split('.')[0]} toolkit and set CUDA_HOME"
    elif (release := nvcc_release(nvcc)).split(".")[0] != torch.cuda.split(".")[0]:
        lacking = f"{nvcc} is of CUDA {release}, torch {torch.version} needs CUDA {torch.cuda.split('.')[0]}"
    elif not arch:
        lacking = 'no GPU is visible: set TORCH_CUDA_ARCH_LIST, such as "8.0;9.0" for A100 and H100'
    else:
        cuda = {
            "FORCE_CUDA": "1",
            "TORCH_CUDA_ARCH_LIST": arch,
            "CUDA_HOME": str(Path(nvcc).parent.parent),
            "CPATH": ":".join(filter(None, [os.environ.get("CPATH"), torch.nvidia_headers])),
        }
        return Target(cuda, f"nvcc {release}, architectures {arch}")
    if mode == "1":
        raise SetupError(f"MMCV_CUDA=1: {lacking}")
    return Target({}, lacking)


def find_nvcc():
    """Path of nvcc where torch looks for it (CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda), or None."""
    if home := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return shutil.which("nvcc", path=str(Path(home) / "bin"))
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def nvcc_release(nvcc):
    """Release of the CUDA compiler, such as "13.0"; "unknown" if it does not say."""
    match = re.search(r"release (\d+\.\d+)", output_of(nvcc, "--version") or "")
    return match[1] if match else "unknown"


def cache_root():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contrastmask" / "wheels"


def cache_folder(version, torch, target):
    """Folder of the wheel. pip's own cache would hand out a wheel compiled for another torch."""
    return cache_root() / f"mmcv_full-{version}-{torch.python}-torch{torch.version}-{target.label}-{torch.machine}"


class BuildProgress:
    """Share and remaining time of a build, from the lines of ninja that begin with `[done/total]`."""

    def __init__(self, now):
        self.started, self.done, self.total = now, 0, 0

    def feed(self, line):
        if match := re.match(r"\s*\[(\d+)/(\d+)\] ", line):  # pip indents what it passes on
            self.done, self.total = int(match[1]), int(match[2])

    def text(self, now):
        """One line for the user; `now` in seconds, on the clock of the constructor."""
        elapsed = now - self.started
        if not self.done:
            return f"mmcv-full: preparing, {elapsed:.0f} s"
        if self.done == self.total:
            return f"mmcv-full: 100 %, {self.total} of {self.total} files, linking, {elapsed:.0f} s"
        minutes, seconds = divmod(round(elapsed / self.done * (self.total - self.done)), 60)
        share = 100 * self.done // self.total
        files = f"{self.done} of {self.total} files"
        return f"mmcv-full: {share:3d} %, {files}, about {minutes} min {seconds:02d} s left"


def run_with_progress(command, environment, log_path):
    """Run `command` with its output in `log_path` and progress on the terminal. Returns the exit status."""
    progress = BuildProgress(time.monotonic())
    live = sys.stdout.isatty()
    with log_path.open("w") as log:
        process = processes.start(
            command,
            env=environment,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

        def read():
            for line in process.stdout:
                log.write(line)
                log.flush()
                progress.feed(line)

        # A file of templates compiles for half a minute without output, so the clock drives the display.
        reader = threading.Thread(target=read)
        reader.start()
        try:
            while reader.is_alive():
                reader.join(1 if live else REPORT_SECONDS)
                text = progress.text(time.monotonic())
                print(f"\r\033[K{text}" if live else text, end="" if live else "\n", flush=True)
        except BaseException:
            processes.end(process)
            raise
        finally:
            if live:
                print()
        return process.wait()


def failure(log):
    """The lines of a failed build to show: pip ends with pages of its own, so the first errors, else the end."""
    errors = [line for line in log if re.search(r"\berror: |Killed|FAILED|No space left|MemoryError", line)]
    return [line[:300] for line in errors[:10] or log[-30:]]


def compile_jobs():
    """Parallel compilations that processors and free memory allow; MAX_JOBS overrides."""
    if jobs := os.environ.get("MAX_JOBS"):
        return jobs
    available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    by_memory = int(int(available[1]) * 1024 / (COMPILE_JOB_GIB * GIB))
    return str(max(1, min(len(os.sched_getaffinity(0)), by_memory)))


def build_wheel(venv, version, target, folder, unity=True):
    """Compile mmcv-full into `folder`, which appears only when complete. Returns the wheel's path.

    Args:
        venv: pathlib.Path of the environment, whose torch it is compiled against; it keeps the log.
        version: the version of mmcv-full.
        target: the Target.
        folder: pathlib.Path of the wheel's folder.
        unity: compile the CPU operators in a few files that include the sources, and one by one only where that fails.

    Raises:
        SetupError: the sources do not compile one by one.
    """
    jobs = compile_jobs()
    environment = {**os.environ, **target.cuda, "MMCV_WITH_OPS": "1", "MAX_JOBS": jobs}
    if not target.cuda:
        # setup.py compiles for CUDA whenever torch sees a GPU, with or without nvcc.
        environment.update(CUDA_VISIBLE_DEVICES="", FORCE_CUDA="0")
    # ninja, and with conda the compiler, are in the environment, which need not be activated.
    environment["PATH"] = os.pathsep.join([str(venv / "bin"), environment["PATH"]])
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = venv / "mmcv_full_build.log"
    print(f"compiling mmcv-full {version} with {jobs} jobs, output in {log}", flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as temporary:
        wheels = Path(temporary) / "wheels"
        # For CUDA this is not shown to be safe.
        if target.cuda or not unity or not built_in_unity_files(venv, version, wheels, environment):
            command = [venv / "bin" / "python", "-m", "pip", "wheel", "-v", f"mmcv-full=={version}"]
            command += ["--wheel-dir", wheels, "--no-deps", "--no-build-isolation", "--no-cache-dir"]
            command += ["--no-binary", "mmcv-full"]
            if run_with_progress(command, environment, log) != 0:
                print(*failure(log.read_text(errors="replace").splitlines()), sep="\n", file=sys.stderr)
                raise SetupError(f"compiling mmcv-full failed, see above and {log}; then repeat")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(wheels, folder)
    return cached_wheel(folder)


def built_in_unity_files(venv, version, wheels, environment):
    """Compile the CPU operators into `wheels` in a few files. Returns whether there is a wheel; says so if not."""
    command = [venv / "bin" / "python", "-P", UNITY, version, wheels]
    log = venv / "mmcv_full_build.log"
    if run_with_progress(command, environment, log) == 0 and cached_wheel(wheels):
        return True
    shutil.rmtree(wheels, ignore_errors=True)
    kept = log.replace(log.with_name("mmcv_full_unity.log"))
    print(f"mmcv-full does not compile in unity files (see {kept}): compiling its files one by one", flush=True)
    return False


def cached_wheel(folder):
    """The wheel in `folder`, or None."""
    return next(folder.glob("mmcv_full-*.whl"), None)
