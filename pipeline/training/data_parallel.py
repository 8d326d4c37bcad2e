"""A model and its batches on the devices of a training, in one process or in several that average their gradients."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import warnings

import torch
from mmcv.parallel import scatter_kwargs
from torch.nn.parallel import DistributedDataParallel

# Newer than the torch of some CUDA builds, and about a distinction that makes no difference here.
warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)


def averaged(model):
    """A model whose gradients are means over all processes; its parameters are on the device of this one."""
    device = next(model.parameters()).device
    # Images without positive RoIs may leave parts of the heads without gradients in one process alone.
    return DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        broadcast_buffers=False,
        find_unused_parameters=True,
    )


def to_device(batch, device):
    """A batch of mmcv's data containers as the arguments of a model on a device, 'cpu' or 'cuda'."""
    target = torch.cuda.current_device() if device == "cuda" else -1
    _, (arguments,) = scatter_kwargs((), batch, [target])
    return arguments
