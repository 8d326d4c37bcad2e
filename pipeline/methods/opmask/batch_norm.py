"""Batch norm over the RoIs of all processes, however many each has."""

import torch
from mmcv.cnn.bricks.registry import NORM_LAYERS
from torch import Tensor
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.training.collectives import exchange_group, world_size


@NORM_LAYERS.register_module()
class RoIBatchNorm(_BatchNorm):
    """The released code's synchronised batch norm.

    In one process it is torch's batch norm. Several weigh their statistics by their numbers of RoIs; one without any
    still takes part, forward and backward, and where none has any, nothing moves.

    Args:
        over_processes: whether processes share statistics.
        variance: what several processes keep of it: 'biased' as it normalises, or 'unbiased' as torch's batch norm.
        args, kwargs: as `torch.nn.BatchNorm2d`.
    """

    def __init__(self, *args, over_processes=True, variance="biased", **kwargs):
        super().__init__(*args, **kwargs)
        self.over_processes = over_processes
        self.variance = variance

    def _check_input_dim(self, input):
        if input.dim() != 4:
            raise ValueError(f"expected RoI features [R, C, h, w], got {input.dim()} dimensions")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise RoI features [R, C, h, w]."""
        if not (self.training and self.over_processes and world_size() > 1):
            return super().forward(x)
        self._check_input_dim(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalised(x.float()).to(x.dtype)

    def _normalised(self, x):
        # Sums, so that a process without RoIs contributes zeros that its graph still hangs on.
        cells = x.shape[2] * x.shape[3]
        rois = x.new_full((1,), len(x))
        sums = torch.cat([x.sum((0, 2, 3)) / cells, x.square().sum((0, 2, 3)) / cells, rois])
        sums = SumOverProcesses.apply(sums)
        count = sums[-1].detach()
        mean, square = (sums[:-1] / count.clamp(min=1)).chunk(2)
        variance = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            share = self.momentum * count.clamp(max=1)
            values = count * cells
            kept = variance if self.variance == "biased" else variance * values / (values - 1).clamp(min=1)
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(kept.detach(), share)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes; its gradient is summed as well."""

    @staticmethod
    def forward(ctx, tensor):
        return _summed(tensor)

    @staticmethod
    def backward(ctx, gradient):
        return _summed(gradient)


def _summed(tensor):
    total = tensor.contiguous().clone()
    dist.all_reduce(total, group=exchange_group())
    return total
