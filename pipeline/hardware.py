"""Settings of the machine: they change how fast a number is computed, and not the number beyond rounding."""

import os

import cv2
import torch

from pipeline.errors import ExperimentError

MOST = 65536  # of anything that is counted here


def use_device():
    """Pick `cuda` or `cpu`; on a CPU fix the number of threads, or results would depend on the number of cores."""
    if torch.cuda.is_available():
        return "cuda"
    torch.set_num_threads(_positive("OMP_NUM_THREADS", 1, "threads"))
    cv2.setNumThreads(0)
    return "cpu"


def gpu_names():
    """Visible GPUs as CUDA_VISIBLE_DEVICES names them; empty without one."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",") if torch.cuda.is_available() else []
    return [str(index) for index in range(torch.cuda.device_count())]


def data_workers(cores=None):
    """Loader processes: CONTRASTMASK_WORKERS, or one for every two cores, of a training's share if that is given."""
    cores = (os.cpu_count() or 2) if cores is None else cores
    return _positive("CONTRASTMASK_WORKERS", max(1, cores // 2), "data workers")


def test_batch():
    """Images that are predicted at a time: CONTRASTMASK_TEST_BATCH, or one. More change scores by rounding alone.

    Raises:
        ExperimentError: the variable is not a positive integer.
    """
    return _positive("CONTRASTMASK_TEST_BATCH", 1, "images")


def _positive(variable, default, what):
    """An environment variable that is a positive integer; the default if it is unset or empty."""
    value = os.environ.get(variable, "").strip() or str(default)
    if not (value.isascii() and value.isdecimal() and 0 < int(value) <= MOST):
        raise ExperimentError(f"{variable}={value!r}: not a number of {what}; valid: 1, 2, ..., or unset it")
    return int(value)
