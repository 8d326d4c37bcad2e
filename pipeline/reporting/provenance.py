"""Where and from what a page was built: commit, machine, versions, hours. For index.html and the snapshot."""

import os
import platform
import subprocess
from importlib import metadata

import psutil

from pipeline.artifacts import attempts, paths, working_copy
from pipeline.artifacts.training_log import read_progress

PACKAGES = ("torch", "mmdet", "mmcv-full", "numpy", "dvc", "mlflow")
# tracked, but no code: written by commands, or chosen
NOT_CODE = ("dvc.lock", "reports", "README.md", "docs", "pipeline/selection.yaml")


def commit():
    """Commit of the working copy, and which files of its code differ from it."""
    command = ["git", "diff", "--name-only", "HEAD", "--", ".", *(f":(exclude){name}" for name in NOT_CODE)]
    try:
        changed = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        changed = []
    return {"hash": working_copy.commit().removesuffix("-dirty"), "changed": [name for name in changed if name]}


def machine():
    """Hardware of this machine, one string for each part."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return {
        "CPU": f"{processor()}, {cores} core{'s' * (cores != 1)}, {memory:.0f} GiB of memory",
        "GPU": ", ".join(_gpus()) or "none",
        "System": f"{platform.system()} {platform.machine()}",
    }


def processor():
    """Model of the processor, as the system names it."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return (names or [platform.processor() or platform.machine()])[0]


def _gpus():
    """Models of the GPUs, equal ones counted; empty without nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.split("\n")
    except (OSError, subprocess.SubprocessError):
        return []
    names = [name.strip() for name in names if name.strip()]
    return [name if names.count(name) == 1 else f"{names.count(name)} × {name}" for name in dict.fromkeys(names)]


def versions():
    """{package: version} of Python and of the installed ones among PACKAGES, without importing any."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def fingerprints(dataset, run, result):
    """The trainings behind a run, as far as known: {seed: fingerprint}; the seed of an unfinished attempt is None."""
    if result is not None:
        return {one.entry["seed"]: one.entry["fingerprint"] for one in result.per_seed if "fingerprint" in one.entry}
    attempt = attempts.read(dataset, run)
    return {None: attempt.fingerprint} if attempt and attempt.fingerprint else {}


def training_seconds(fingerprint):
    """Training time so far, start-up left out; None if it was not trained on this machine."""
    return read_progress(paths.scratch(fingerprint)).get("seconds")


def duration(seconds):
    """Format seconds in the two largest units that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
