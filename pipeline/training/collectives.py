"""What the processes of a training tell each other; a single process talks to itself and waits for nobody."""

import functools
from datetime import timedelta

import torch
from torch import distributed as dist

PATIENCE = timedelta(minutes=30)  # of a collective operation; the first one waits for the slowest process to start


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def agree(value):
    """The first process's value, in every process."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def gather(value):
    """The values of all processes in order of rank, in every process."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def any_of(value):
    """Whether a value is true in any process, in every process."""
    if world_size() == 1:
        return value
    found = torch.tensor(int(value))
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_control_group())
    return bool(found)


def mean(values):
    """{name: tensor []} averaged over all processes in one operation, in every process.

    Raises RuntimeError if the names of another process are others.
    """
    if world_size() == 1:
        return values
    _require_same(tuple(values))
    means = torch.stack(list(values.values())) / world_size()
    dist.all_reduce(means)
    return dict(zip(values, means.unbind(), strict=True))


@functools.cache  # to ask is to wait for the GPU
def _require_same(names):
    if any(others != names for others in gather(names)):
        raise RuntimeError(f"the processes of the training have different losses; this one has {', '.join(names)}")


def barrier():
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier(group=_control_group())


@functools.cache
def _control_group():
    """A group for what processes tell each other between steps: through the CPU, so that it waits for no GPU."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


@functools.cache
def exchange_group():
    """A group of all processes beside the one that DistributedDataParallel reduces gradients in.

    Every process must ask for it at the same point of its program.
    """
    return dist.new_group(timeout=PATIENCE)
