"""Examine the environment: every check is made by doing the thing, not by looking for a file.

Imports only the standard library at the top, so that it also describes an environment with nothing installed.
"""

import errno
import importlib
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass

from pipeline.artifacts import paths
from pipeline.redaction import redact, redact_uri

OK, NOTE, BROKEN = "ok", "note", "BROKEN"
REINSTALL = "run `make setup`; if that changes nothing, remove .venv and repeat"
DISK_GIB = 5
INODES = 10_000


@dataclass(frozen=True)
class Finding:
    """One line of the report. NOTE is a limitation one can work with, BROKEN stops `make reproduce`."""

    subject: str
    status: str
    found: str
    remedy: str = ""

    def __str__(self):
        line = f"{self.subject:<18} {self.status:<7} {self.found}"
        return redact(f"{line}\n{'':<27}-> {self.remedy}" if self.remedy else line)


class Problem(Exception):
    """A check found something to report: what was found, what to do, and whether one can work with it."""

    def __init__(self, found, remedy, status=BROKEN):
        super().__init__(found)
        self.finding = found, remedy, status


def check_python():
    found = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info[:2] != (3, 11):
        raise Problem(found, "the pins are for Python 3.11: run `make setup`, then `make doctor`")
    return found


def check_torch():
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    return f"{torch.__version__} ({build} build), {torch.get_num_threads()} thread(s)"


def check_gpu():
    import torch

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return "; ".join(f"{gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)
    if shutil.which("nvidia-smi") is None:
        raise Problem("none; trainings run on the CPU", "fine for the embedded default; COCO needs a GPU", NOTE)
    if torch.version.cuda is None:
        remedy = "torch is a CPU build: let pip find a CUDA build, remove .venv and run `make setup`"
    else:
        remedy = f"the driver is too old for CUDA {torch.version.cuda}, or CUDA_VISIBLE_DEVICES hides the GPU"
    raise Problem("nvidia-smi is there, but torch sees no GPU", remedy, NOTE)


def run_operators(device):
    """Run NMS and RoIAlign, forward and backward, on a case solved by hand. Returns what is wrong or None."""
    import torch
    from mmcv.ops import nms, roi_align

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]], device=device)
    _, kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)
    if kept.tolist() != [0, 2]:
        return f"nms keeps {kept.tolist()} of three boxes, expected [0, 2]"
    # On a ramp along x, RoIAlign averages to the centre of the RoI; each output spreads a gradient of one.
    ramp = torch.arange(8.0, device=device).expand(1, 1, 8, 8).contiguous().requires_grad_()
    pooled = roi_align(ramp, torch.tensor([[0.0, 1, 1, 5, 5]], device=device), 1, 1.0, 0, "avg", True)
    pooled.sum().backward()
    value, gradient = pooled.item(), ramp.grad.sum().item()
    if abs(value - 2.5) > 1e-4 or abs(gradient - 1) > 1e-4:
        return f"roi_align returns {value:.4f} and gradient {gradient:.4f}, expected 2.5 and 1"
    return None


def check_operators_cpu():
    import mmcv

    if wrong := run_operators("cpu"):
        raise Problem(wrong, REINSTALL)
    return f"mmcv-full {mmcv.__version__}: nms and roi_align are right"


def check_operators_gpu():
    import torch

    if not torch.cuda.is_available():
        raise Problem("not tried, no GPU", "", NOTE)
    try:
        wrong = run_operators("cuda")
    except RuntimeError as error:  # built for the CPU alone, or for other architectures
        wrong = str(error).splitlines()[0]
    if wrong:
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        raise Problem(
            wrong,
            f"mmcv-full was not compiled for this GPU: install nvcc of CUDA {torch.version.cuda}, "
            f'remove .venv/.stamp, run TORCH_CUDA_ARCH_LIST="{capability}" MMCV_CUDA=1 make setup',
        )
    return "nms and roi_align are right"


def check_mmdet():
    import mmdet
    from mmdet.models import build_detector  # noqa: F401  registering the models is where a bad install fails

    return mmdet.__version__


def check_git():
    if not (paths.ROOT / ".git").exists():
        raise Problem(
            "no .git in this copy, which DVC needs",
            "run `git init -q && git add -A && git -c user.name=me -c user.email=me@localhost commit -qm import` here, "
            "or clone the repository",
        )
    if shutil.which("git") is None:
        raise Problem("git is not on PATH", "install git")
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=paths.ROOT, capture_output=True, text=True)
    if done.returncode and "dubious ownership" in done.stderr:
        raise Problem(
            "git refuses this folder, which belongs to somebody else",
            f"run `git config --global --add safe.directory {shlex.quote(str(paths.ROOT))}`",
        )
    if done.returncode:
        raise Problem(
            "git has no commit here",
            "run `git add -A && git -c user.name=me -c user.email=me@localhost commit -qm import`",
            NOTE,
        )
    for name in ("dvc.lock", "dvc.yaml", "params.yaml"):
        file = paths.ROOT / name
        if file.exists() and re.search("^(<<<<<<<|>>>>>>>) ", file.read_text(errors="replace"), re.MULTILINE):
            # git leaves a file alone that `pipeline.artifacts.dvc_lock` has told it not to look at
            entry = subprocess.run(["git", "ls-files", "-v", name], cwd=paths.ROOT, capture_output=True, text=True)
            look = f"git update-index --no-skip-worktree {name} && " if entry.stdout.startswith("S") else ""
            raise Problem(
                f"{name} holds the marks of a merge (<<<<<<<)",
                f"run `{look}git checkout HEAD -- {name}`, then `python -m dvc repro` makes what differs",
            )
    ended = [
        name
        for name in ("Makefile", "pipeline/launching/launchers/job.sh")
        if (paths.ROOT / name).exists() and b"\r\n" in (paths.ROOT / name).read_bytes()
    ]
    if ended:
        files = " ".join(ended)
        raise Problem(
            f"checked out with the line ends of Windows: {files}",
            f"run `git config core.autocrlf false && rm {files} && git checkout -- {files}`",
        )
    return f"commit {done.stdout[:12]}"


def check_dvc():
    import dvc
    from dvc.repo import Repo

    if not (paths.ROOT / ".git").exists():
        raise Problem(f"{dvc.__version__}, not tried without .git", "see above", NOTE)
    with Repo(str(paths.ROOT)):
        return f"{dvc.__version__}, repository opens"


def check_mlflow():
    import mlflow

    from pipeline.declaration import experiments
    from pipeline.tracking import store

    uri = redact_uri(store.tracking_uri())
    if (file := store.sqlite_file(store.tracking_uri())) and not file.exists():
        return f"{mlflow.__version__}, local store {uri} (made by the first training)"
    try:
        store.find_experiment(experiments.chosen_dataset())
    except store.StoreError as error:
        remedy = error.remedy
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise Problem(f"{mlflow.__version__}, {uri}: {error.matter}", remedy) from None
        remedy += "; or unset MLFLOW_TRACKING_URI to use the local store"
        raise Problem(f"{mlflow.__version__}, {uri} does not answer: {error.matter}", remedy) from None
    return f"{mlflow.__version__}, local store {uri}" if file else f"{mlflow.__version__}, server {uri} answers"


def check_disk():
    home = paths.home()
    quoted = shlex.quote(str(home))
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise Problem(
                f"{home} cannot be written: {error.strerror}",
                f"make it yours and writable (`ls -ld {quoted}`), or set CONTRASTMASK_HOME to a folder that is",
            ) from None
    free, inodes = shutil.disk_usage(home).free / 2**30, os.statvfs(home)
    found = f"{free:.0f} GiB free for {home}"
    if free < DISK_GIB:
        raise Problem(found, f"free {DISK_GIB} GiB, or move the data with CONTRASTMASK_HOME")
    if inodes.f_files and inodes.f_favail < INODES:
        raise Problem(
            f"{found}, but only {inodes.f_favail} more files",
            f"remove files until {INODES} are free (`df -i {quoted}`), or move the data with CONTRASTMASK_HOME",
        )
    return found


def check_port():
    try:
        socket.create_server(("127.0.0.1", 5000)).close()
    except OSError:
        with socket.create_server(("127.0.0.1", 0)) as free:
            other = free.getsockname()[1]
        raise Problem("5000, where `make ui` listens, is in use", f"run `make ui PORT={other}`", NOTE) from None
    return "5000 is free for `make ui`"


def check_declarations():
    from pipeline.declaration import experiments
    from pipeline.errors import ExperimentError
    from pipeline.launching import settings

    try:
        declared = experiments.load()
        settings.load()
        experiments.selected(declared)
    except ExperimentError as error:
        raise Problem(str(error), "until then nothing is drawn, trained or shown") from None
    counts = f"{len(declared.runs)} runs, {len(declared.tables)} tables, {len(declared.figures)} figures"
    return f"{counts}, declared as they should be"


def check_dataset():
    from pipeline.declaration import experiments
    from pipeline.errors import ExperimentError

    try:
        dataset = experiments.chosen_dataset()
    except ExperimentError as error:
        raise Problem(str(error), "choose a declared dataset in params.yaml") from None
    if not paths.manifest(dataset).exists():
        raise Problem(f"{dataset} (params.yaml) is not here yet", "`make reproduce` prepares it", NOTE)
    if not paths.images_root(dataset).is_dir():
        raise Problem(
            f"{dataset} (params.yaml) has annotations, but no images in {paths.images_root(dataset)}",
            "run `python -m stages.download`",
        )
    return f"{dataset} (params.yaml), images in {paths.images_root(dataset)}"


CHECKS = {
    "Python": check_python,
    "torch": check_torch,
    "GPU": check_gpu,
    "operators on CPU": check_operators_cpu,
    "operators on GPU": check_operators_gpu,
    "mmdet": check_mmdet,
    "git": check_git,
    "DVC": check_dvc,
    "MLflow": check_mlflow,
    "port": check_port,
    "disk": check_disk,
    "declarations": check_declarations,
    "dataset": check_dataset,
}


def examine():
    """Make every check; one that breaks does not hide the next. Returns the list of findings."""
    warnings.filterwarnings("ignore")
    findings = []
    try:
        importlib.import_module("pipeline.compat")  # before mmcv and mmdet; without torch the checks say so
    except ImportError:
        pass
    for subject, check in CHECKS.items():
        try:
            findings.append(Finding(subject, OK, check()))
        except Problem as problem:
            found, remedy, status = problem.finding
            findings.append(Finding(subject, status, found, remedy))
        except ImportError as error:
            findings.append(Finding(subject, BROKEN, f"does not import: {error}", REINSTALL))
        except Exception as error:  # a doctor reports what it finds
            findings.append(Finding(subject, BROKEN, f"{type(error).__name__}: {error}", REINSTALL))
    return findings
