"""The loss of an iteration from what a model returns, without waiting for a number."""

import torch

from pipeline.training.collectives import mean


def total(losses):
    """The sum of a model's losses, and what the log gets of it.

    As MMDetection's `BaseDetector._parse_losses`, whose numbers the host waits for one by one.

    Args:
        losses: {name: tensor, or list of tensors that are added up}; those with 'loss' in their name are losses.

    Returns:
        The sum, to go backward from, and {name: tensor []} of every value and the sum, means over all processes.

    Raises:
        TypeError: a value is neither.
    """
    values = {name: _value(name, value) for name, value in losses.items()}
    loss = sum(value for name, value in values.items() if "loss" in name)
    return loss, mean({name: value.detach() for name, value in (values | {"loss": loss}).items()})


def _value(name, value):
    if torch.is_tensor(value):
        return value.mean()
    if isinstance(value, list):
        return sum(each.mean() for each in value)
    raise TypeError(f"{name} is not a tensor or list of tensors")
