"""Batch norm over the instances of all processes, none of which need have one."""

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from pipeline.training.collectives import exchange_group, world_size


class InstanceBatchNorm(nn.BatchNorm2d):
    """`BatchNorm2d` whose statistics are of the instances of all processes of a training.

    As `SyncBatchNorm`, but on a CPU, too, and in a process that has no instance.

    Args:
        channels: of the input.
        synced: exchange statistics; otherwise each process has its own.
        kwargs: as `BatchNorm2d`.
    """

    def __init__(self, channels, synced=True, **kwargs):
        super().__init__(channels, **kwargs)
        self.synced = synced

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise [R, C, H, W] in training by the statistics of all instances, else by the moving averages."""
        if not self.training or not self.synced or world_size() == 1:
            if self.training and not len(maps):  # nothing to normalise, but both parameters stay in the graph
                return maps * self.weight[:, None, None] + self.bias[:, None, None]
            return super().forward(maps)
        maps32 = maps.float()
        count = maps32.new_tensor([maps32.shape[0] * maps32.shape[2] * maps32.shape[3]])
        sums = all_reduce(torch.cat([maps32.sum((0, 2, 3)), count]), group=exchange_group())
        count = sums[-1].detach().clamp(min=1)
        mean = sums[:-1] / count
        centred = maps32 - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3)), group=exchange_group()) / count
        self._remember(mean.detach(), variance.detach(), sums[-1].detach())
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(maps.dtype)

    @torch.no_grad()
    def _remember(self, mean, variance, count):
        """Update the moving averages as `BatchNorm2d`, by the unbiased variance; without an instance they stay."""
        share = torch.where(count > 0, self.momentum, 0.0)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), share)
        self.num_batches_tracked.add_(1)
