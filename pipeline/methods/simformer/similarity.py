"""The similarity net: whether two pixels are of the same class, from their embeddings (section 6).

Legend: N pairs, C channels of an embedding, P images, J points.
"""

import torch
import torch.nn.functional as F
from mmcv.runner import BaseModule
from torch import Tensor, nn


class Block(nn.Module):
    """Two 1x1 convolutions, each with batch normalisation and ReLU, beside a skip; no ReLU after their sum."""

    def __init__(self, in_channels, width):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(in_channels, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)
        self.squeeze = nn.Conv2d(in_channels, width, 1) if in_channels != width else None

    def forward(self, x: Tensor, track: bool) -> Tensor:
        skip = x if self.squeeze is None else self.squeeze(x).relu()
        y = normalised(self.norm1, self.conv1(x), track).relu()
        return normalised(self.norm2, self.conv2(y), track).relu() + skip


class SimilarityNet(BaseModule):
    """Tell from two concatenated embeddings whether their pixels are of one class; which comes first matters.

    Pairs are the images of a batch here, of one pixel each. As maps of pixels they would give the same up to rounding;
    but a ReLU at zero turns rounding into another gradient, and in this form both codes round alike.

    Args:
        in_channels: of both embeddings together.
        width, blocks: of the net.
    """

    def __init__(self, in_channels, width, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(Block(in_channels if not block else width, width) for block in range(blocks))
        self.classify = nn.Conv2d(width, 2, 1)

    def forward(self, pairs: Tensor, track: bool = True) -> Tensor:
        """Logit [N] of "same class" for pairs [N, 2C], which are normalised together.

        Args:
            track: move the running statistics, in training.
        """
        x = pairs[..., None, None]
        for block in self.blocks:
            x = block(x, track)
        different, same = self.classify(x)[..., 0, 0].unbind(1)
        return same - different


def normalised(norm: nn.BatchNorm2d, x: Tensor, track: bool) -> Tensor:
    """Batch normalisation; in training without `track` by the batch alone, and nothing remembers it."""
    if norm.training and not track:
        return F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
    return norm(x)


def all_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Concatenated embeddings [P, J J, 2C] of every point of `first` with every one of `second`, [P, C, J] each."""
    first, second = first.transpose(1, 2), second.transpose(1, 2)
    shape = (len(first), first.shape[1], second.shape[1], first.shape[2])
    rows = torch.cat([first[:, :, None].expand(shape), second[:, None].expand(shape)], dim=-1)
    return rows.flatten(1, 2)


class ClassBalance(nn.Module):
    """How many pixel pairs of the last iterations were of the same class, and the loss weights that follow.

    Args:
        length: iterations that are remembered; before the first one there is one pair of either kind.

    Attributes:
        counts: [length, 2] numbers of pairs of the same and of different classes, the last iteration last. A buffer, so
            that a resumed training weighs as an uninterrupted one.
    """

    def __init__(self, length=25):
        super().__init__()
        self.register_buffer("counts", torch.zeros(length, 2))
        self.counts[-1] = 1

    def add(self, same: Tensor, different: Tensor):
        """Remember the numbers [] of an iteration and forget those of the oldest."""
        new = torch.stack([same, different]).to(self.counts)
        self.counts.copy_(torch.cat([self.counts[1:], new[None]]))

    def weights(self) -> tuple[Tensor, Tensor]:
        """Weights [] of pairs of different classes and of the same: the share of the other kind each."""
        share = self.counts.sum(0) / self.counts.sum().clamp(min=1)
        return share[0], share[1]
