"""Message passing of ShapeProp: every cell becomes the weighted sum of its neighbourhood, again and again.

Legend: R RoIs, L latent channels, G sets of weights (L, or 1 that all channels share), H and W cells of a map.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SIDE = 3  # of the neighbourhood, in cells
NEIGHBOURS = SIDE * SIDE
EPSILON = 1e-5  # beside the sum of a cell's weights, which may all be zero


def normalised(weights: Tensor) -> Tensor:
    """Divide the weights of every cell by their sum, those of neighbours outside of the map among them.

    A cell at the border therefore loses what it would have got from there.

    Args:
        weights: [R, G x 9, H, W] in [0, 1]; channel 9 g + 3 (dy + 1) + (dx + 1) is of the neighbour (dy, dx).

    Returns:
        [R, G, 9, H, W]; zero where all weights of a cell are zero.
    """
    weights = weights.unflatten(1, (-1, NEIGHBOURS))
    return weights / (weights.sum(2, keepdim=True) + EPSILON)


def propagate(latent: Tensor, weights: Tensor, steps: int) -> Tensor:
    """Pass messages between neighbouring cells.

    Args:
        latent: [R, L, H, W].
        weights: [R, L x 9, H, W] or [R, 9, H, W] in [0, 1], see `normalised`; the same in every step.
        steps: how often.

    Returns:
        [R, L, H, W] float32.
    """
    with torch.autocast(latent.device.type, enabled=False):
        # Cells first: a neighbourhood is then a slice whose elements lie together, of all RoIs and channels.
        cells = latent.float().permute(2, 3, 0, 1)
        by_neighbour = weights.float().unflatten(1, (-1, NEIGHBOURS)).permute(2, 3, 4, 0, 1)
        return _Propagate.apply(cells, by_neighbour, steps).permute(2, 3, 0, 1)


def _neighbours(padded):
    """The maps [H, W, ...] of all neighbours, in the order of the weights, as views of [H + 2, W + 2, ...]."""
    height, width = padded.shape[0] - SIDE + 1, padded.shape[1] - SIDE + 1
    for row in range(SIDE):
        for column in range(SIDE):
            yield padded[row : row + height, column : column + width]


class _Propagate(torch.autograd.Function):
    """The steps, keeping the map before each for the gradient instead of nine products of it.

    At full size a step would keep 9 x 24 x 14 x 14 numbers for each RoI, and it keeps 24 x 16 x 16. The weights are
    `normalised` here, so that there is one copy of them, and one of their gradient.

    Args:
        latent: [H, W, R, L].
        weights: [9, H, W, R, G] in [0, 1].
        steps: how many.
    """

    @staticmethod
    def forward(ctx, latent, weights, steps):
        height, width, *others = latent.shape
        maps = latent.new_zeros(steps + 1, height + SIDE - 1, width + SIDE - 1, *others)
        maps[0, 1:-1, 1:-1] = latent
        total = weights.sum(0).add_(EPSILON)
        weights = weights.clone(memory_format=torch.contiguous_format).div_(total)
        for before, after in zip(maps[:-1], maps[1:], strict=True):
            inside = after[1:-1, 1:-1]
            for weight, neighbour in zip(weights, _neighbours(before), strict=True):
                inside.addcmul_(weight, neighbour)
        ctx.save_for_backward(weights, total, maps)
        return maps[-1, 1:-1, 1:-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        weights, total, maps = ctx.saved_tensors
        of_weights, gradient = torch.zeros_like(weights), gradient.contiguous()
        shared = weights.shape[-1] != gradient.shape[-1]
        for before in reversed(maps[:-1].unbind()):
            of_before = torch.zeros_like(before)
            for weight, of_weight, neighbour, of_neighbour in zip(
                weights, of_weights, _neighbours(before), _neighbours(of_before), strict=True
            ):
                if shared:
                    of_weight.add_((gradient * neighbour).sum(-1, keepdim=True))
                else:
                    of_weight.addcmul_(gradient, neighbour)
                of_neighbour.addcmul_(gradient, weight)
            gradient = of_before[1:-1, 1:-1]
        along = total.new_zeros(total.shape)  # what all weights of a cell lose as their sum grows
        for weight, of_weight in zip(weights, of_weights, strict=True):
            along.addcmul_(weight, of_weight)
        return gradient, of_weights.sub_(along).div_(total), None
