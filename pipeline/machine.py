"""Settings of the machine: they change how fast a number is computed, never the number."""

import os

import cv2
import torch


def use_device():
    """Pick `cuda` or `cpu`; on a CPU fix the number of threads, or results would depend on the number of cores."""
    if torch.cuda.is_available():
        return "cuda"
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    cv2.setNumThreads(0)
    return "cpu"


def gpu_names():
    """Visible GPUs as CUDA_VISIBLE_DEVICES names them; empty without one."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",") if torch.cuda.is_available() else []
    return [str(index) for index in range(torch.cuda.device_count())]


def data_workers():
    """Loader processes: CONTRASTMASK_WORKERS, or one for every two cores."""
    return max(1, int(os.environ.get("CONTRASTMASK_WORKERS", (os.cpu_count() or 2) // 2)))
