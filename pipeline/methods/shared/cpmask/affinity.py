"""The non-local block of CPMask's mask head, whose attention is supervised by the masks.

Legend: R RoIs, C channels, H and W cells of a RoI feature, N = H x W cells in row-major order.
"""

import torch
from mmcv.cnn import constant_init, kaiming_init
from mmcv.runner import BaseModule
from torch import Tensor, nn

# The authors'. It is part of what the block computes: attention is nearly uniform at first, so the block's output is
# nearly constant, and the batch norm blows up what is left of it.
BATCH_NORM_EPS = 1e-4
# A position whose deviation over channels is below this fraction of its mean holds rounding noise only.
FLAT = 1e-6
# A RoI with fewer foreground cells has no two that could attend to each other.
FEWEST_CELLS = 2


class CountedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics in training are of the counted RoIs alone.

    The others are normalised by these statistics and leave no trace, so that it does not matter whether RoIs without a
    mask are computed: the host need not know which they are. Without a counted one nothing moves.
    """

    def forward(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        """As `nn.BatchNorm2d` on [R, C, H, W]; `counted` is [R] bool, None for all."""
        if not self.training:
            return super().forward(x)
        if counted is None:
            counted = x.new_ones(len(x), dtype=torch.bool)
        cells = counted[:, None, None, None]
        number = counted.sum() * (x.shape[-2] * x.shape[-1])
        mean = torch.where(cells, x, 0.0).sum((0, 2, 3)) / number.clamp(min=1)
        centred = x - mean[:, None, None]
        variance = torch.where(cells, centred.square(), 0.0).sum((0, 2, 3)) / number.clamp(min=1)
        self._move(mean.detach(), variance.detach(), number)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _move(self, mean, variance, number):
        """Update the running statistics, of which the variance is the unbiased one, as torch does."""
        share = (self.momentum * (number > 0)).to(mean)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * number / (number - 1).clamp(min=1), share)
        self.num_batches_tracked.add_(number > 0)


class AffinityBlock(BaseModule):
    """Let the cells of a RoI attend to each other (non-local block), and tell how much each does.

    Query, key and value are 1x1 convolutions with ReLU; query and key are standardised over channels at each cell; what
    the attention gathers goes through another 1x1 convolution with ReLU and a batch norm, and is added.

    Args:
        channels: C.
        norm_init: initial weight of the batch norm, 'ones' (the authors' code) or 'zeros' (its comment; the block is
            then the identity at first).
    """

    def __init__(self, channels, norm_init="ones"):
        super().__init__()
        self.norm_init = norm_init
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)
        self.norm = CountedBatchNorm2d(channels, eps=BATCH_NORM_EPS)

    def init_weights(self):
        for conv in (self.query, self.key, self.value, self.output):
            kaiming_init(conv)
        constant_init(self.norm, 1 if self.norm_init == "ones" else 0)

    def forward(self, x: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Join each cell's feature with those that it attends to; in float32 whatever the precision around.

        Args:
            x: [R, C, H, W].
            counted: [R] bool, RoIs in the batch statistics; None for all.

        Returns:
            [R, C, H, W] float32, and the affinity [R, N, N]: how much a cell (row) attends to each (column), 1 in all.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            query, key = (standardised(layer(x).relu().flatten(2)) for layer in (self.query, self.key))
            affinity = (query.transpose(1, 2) @ key / x.shape[1] ** 0.5).softmax(-1)
            value = self.value(x).relu().flatten(2)
            gathered = (value @ affinity.transpose(1, 2)).view_as(x)
            return x + self.norm(self.output(gathered).relu(), counted), affinity


def standardised(rows: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over channels at each cell of [R, C, N]; the deviation is the unbiased one.

    A cell whose channels are all the same, such as zero behind a ReLU, would be divided by zero: it stays zero here.
    """
    centred = rows - rows.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / max(rows.shape[1] - 1, 1)
    is_flat = variance <= (FLAT * rows.detach().mean(1, keepdim=True)).square()
    return torch.where(is_flat, 0.0, centred) / torch.where(is_flat, 1.0, variance).sqrt()


def affinity_per_roi(affinity: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """How much of their attention the foreground cells of a RoI give to its foreground, in the mean.

    Args:
        affinity: [R, N, N] of `AffinityBlock`.
        masks: [R, 2H, 2W] bool, or any multiple; every second row and column counts.

    Returns:
        [R] in [0, 1], and [R] bool: whether there are two foreground cells at all.
    """
    foreground = on_cells(masks, affinity.shape[-1]).to(affinity.dtype)
    cells = foreground.sum(1)
    inside = torch.einsum("rij,ri,rj->r", affinity, foreground, foreground)
    return inside / cells.clamp(min=1), cells >= FEWEST_CELLS


def on_cells(masks: Tensor, number: int) -> Tensor:
    """Masks [R, h, w] at the cells of a square RoI feature, N in `number`: [R, N]; the first of each cell's counts."""
    step = masks.shape[-1] // round(number**0.5)
    return masks[:, ::step, ::step].flatten(1)


def affinity_loss(affinity: Tensor, masks: Tensor, in_loss: Tensor) -> Tensor:
    """Distance (L1) of `affinity_per_roi` to 1, averaged over RoIs; 0 with a graph where none counts.

    Args:
        affinity, masks: as `affinity_per_roi`.
        in_loss: [R] bool.

    Returns:
        A number in [0, 1].
    """
    inside, has_pair = affinity_per_roi(affinity, masks)
    counts = has_pair & in_loss
    return ((1 - inside).abs() * counts).sum() / counts.sum().clamp(min=1)
