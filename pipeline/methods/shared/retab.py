"""RETAB: pseudo label maps from class activation maps, by affinities that stop at predicted boundaries.

The parts of the released code, which is for Pascal VOC, and how they are carried over to label maps without a
background class, in which every image mixes base and novel classes (`boundaries`, `rest_labels`, `pseudo_labels`).

Legend: h and w cells of the feature maps at stride 8, n = h w, O offsets, c centre cells, K classes.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNKNOWN = 255
RADIUS = 5  # offsets are shorter than this, in cells
STRIDE = 8
ALPHA, BETA, SQUARINGS = 16, 8, 8  # power of the background, of affinities; 2**8 steps of the random walk
EPSILON = 1e-5
TRUNK = ((512, 64), (1024, 128), (4096, 256))  # channels of conv4, conv5, conv6 of ResNet-38, and what they become


def radius_of(size) -> int:
    """The radius for maps of a size (h, w): `RADIUS`, less where the short side would not hold both of its sides.

    At least 2, so that there are offsets; a map too small for them has no pair.
    """
    return RADIUS if min(size) >= 2 * RADIUS + 1 else max((min(size) - 1) // 2, 2)


def neighbours(size, radius: int) -> tuple[Tensor, Tensor]:
    """Pairs of cells, each once: centre cells for which all offsets fit, with their neighbours on the right or below.

    Args:
        size: (h, w).
        radius: offsets are shorter than this.

    Returns:
        int64 [c] centre cells and [O, c] their neighbours, by offset.
    """
    offsets = [(0, x) for x in range(1, radius)]
    offsets += [(y, x) for y in range(1, radius) for x in range(1 - radius, radius) if x * x + y * y < radius * radius]
    height, width = size
    margin = radius - 1
    cells = np.arange(height * width).reshape(height, width)
    centre = cells[: height - margin, margin : width - margin]
    beside = [cells[y : y + height - margin, margin + x : margin + x + width - 2 * margin].ravel() for y, x in offsets]
    return torch.from_numpy(centre.ravel()), torch.from_numpy(
        np.array(beside, dtype=np.int64).reshape(len(offsets), -1)
    )


def affinity_labels(labels: Tensor, radius: int = RADIUS, background: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Which pairs are both background, both of one other class, of different classes; in none with an unknown cell.

    Args:
        labels: [h, w] class at stride 8, `UNKNOWN` where none is known.

    Returns:
        bool [O, c] each.
    """
    centre, beside = neighbours(labels.shape, radius)
    one, other = labels.flatten()[centre][None], labels.flatten()[beside]
    known = (one != UNKNOWN) & (other != UNKNOWN)
    same = one == other
    return known & same & (one == background), known & same & (one != background), known & ~same


class Trunk(nn.Module):
    """Three feature maps, each through a 1x1 convolution and an ELU, side by side."""

    def __init__(self, channels=TRUNK):
        super().__init__()
        self.squeeze = nn.ModuleList(nn.Conv2d(before, after, 1, bias=False) for before, after in channels)

    def forward(self, features) -> Tensor:
        return torch.cat([F.elu(conv(x)) for conv, x in zip(self.squeeze, features, strict=True)], dim=1)


class AffinityHead(nn.Module):
    """Features of cells whose distance is their affinity."""

    def __init__(self, channels=TRUNK):
        super().__init__()
        width = sum(after for _, after in channels)
        self.trunk, self.embed = Trunk(channels), nn.Conv2d(width, width, 1, bias=False)

    def forward(self, features) -> Tensor:
        """[B, C, h, w] of feature maps that have a size already."""
        return F.elu(self.embed(self.trunk(features)))


class BoundaryHead(nn.Module):
    """Logits of class boundaries."""

    def __init__(self, channels=TRUNK):
        super().__init__()
        self.trunk, self.classify = Trunk(channels), nn.Conv2d(sum(after for _, after in channels), 1, 1, bias=False)

    def forward(self, features, size) -> Tensor:
        """[B, H, W] at a size (H, W)."""
        logits = self.classify(self.trunk(features))
        return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=True)[:, 0]


def affinities(embedding: Tensor, radius: int = RADIUS) -> Tensor:
    """exp(-mean absolute difference) [B, O, c] of the pairs of `neighbours`, from embeddings [B, C, h, w]."""
    centre, beside = neighbours(embedding.shape[-2:], radius)
    flat = embedding.flatten(2)
    return torch.stack([(-(flat[:, :, centre] - flat[:, :, cells]).abs().mean(1)).exp() for cells in beside], dim=1)


def affinity_losses(affinity: Tensor, both_background: Tensor, both_same: Tensor, different: Tensor) -> Tensor:
    """[4]: means over the three kinds of pairs, and their sum by a quarter, a quarter, a half.

    Args:
        affinity: [..., O, c].
        both_background, both_same, different: of `affinity_labels`, bool of the same shape.
    """
    alike, unlike = -torch.log(affinity + EPSILON), -torch.log(1 + EPSILON - affinity)
    parts = [
        (kind * loss).sum() / (kind.sum() + EPSILON)
        for kind, loss in ((both_background, alike), (both_same, alike), (different, unlike))
    ]
    return torch.stack([*parts, parts[0] / 4 + parts[1] / 4 + parts[2] / 2])


def boundary_loss(logits: Tensor, boundary: Tensor, background: Tensor, foreground: Tensor) -> Tensor:
    """Cross entropy []: mean over boundary pixels, half the means over those of background and foreground.

    Args:
        logits: [B, H, W].
        boundary, background, foreground: bool of that shape.
    """
    losses = F.binary_cross_entropy_with_logits(logits, boundary.to(logits.dtype), reduction="none")
    means = [(kind * losses).sum() / (kind.sum() + EPSILON) for kind in (boundary, background, foreground)]
    return means[0] + means[1] / 2 + means[2] / 2


def affinity_matrices(affinity: Tensor, size, inside: Tensor, radius: int = RADIUS) -> tuple[Tensor, Tensor]:
    """Affinities [n, n] (row: from, column: to) of the two stages; 1 on the diagonal.

    Args:
        affinity: [O, c] of the pairs of `neighbours`.
        size: (h, w).
        inside: [h, w] bool, False on boundaries.

    Returns:
        That of the first stage, between cells off the boundaries; that of the second, between cells on them and from
        the former to the latter.
    """
    count = math.prod(size)
    centre, beside = neighbours(size, radius)
    dense = affinity.new_zeros(count, count)
    dense[centre.expand_as(beside), beside] = affinity
    dense = dense + dense.T
    start, end = inside.flatten()[:, None], inside.flatten()[None]
    diagonal = torch.eye(count, dtype=dense.dtype, device=dense.device)
    return dense * (start & end) + diagonal, dense * ~end + diagonal


def walked(maps: Tensor, affinity: Tensor, beta: int = BETA, squarings: int = SQUARINGS) -> Tensor:
    """Maps [K, h, w] after 2**squarings steps of a random walk by affinities [n, n]."""
    step = affinity**beta
    step = step / step.sum(0, keepdim=True)
    for _ in range(squarings):
        step = step @ step
    return (maps.flatten(1) @ step).view_as(maps)


def with_background(maps: Tensor, alpha: int = ALPHA) -> Tensor:
    """[1 + K, h, w]: first how certain it is that no class [K, h, w] is there, (1 - their largest value)**alpha."""
    return torch.cat([(1 - maps.amax(0, keepdim=True)) ** alpha, maps])


def at_full_size(maps: Tensor) -> Tensor:
    """Maps [K, h, w] at `STRIDE` times their size."""
    return F.interpolate(maps[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)[0]


def propagated(cams: Tensor, affinity: Tensor, inside: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Maps of background and classes [1 + K, H, W] at full size, after the first and after both stages.

    The second stage starts from those of the first, pooled again.

    Args:
        cams: [K, h, w] activation maps at stride 8, in [0, 1].
        affinity: [O, c] of the pairs of `neighbours`.
        inside: [h, w] bool, False on boundaries.
        radius: of those pairs.
    """
    first, second = affinity_matrices(affinity, cams.shape[1:], inside, radius)
    maps = at_full_size(walked(with_background(cams), first))
    return maps, at_full_size(walked(F.avg_pool2d(maps[None], STRIDE)[0], second))


# Carried over to label maps without background: our adaptation, as no code for it was released.


def boundaries(base_map: Tensor) -> Tensor:
    """[H, W] bool, base pixels that touch a base pixel of another class: what a boundary net learns from (a).

    Args:
        base_map: [H, W] base class of each pixel, `UNKNOWN` elsewhere.
    """
    found = torch.zeros_like(base_map, dtype=torch.bool)
    for axis in (0, 1):
        length = base_map.shape[axis] - 1
        one, other = base_map.narrow(axis, 0, length), base_map.narrow(axis, 1, length)
        border = (one != other) & (one != UNKNOWN) & (other != UNKNOWN)
        found.narrow(axis, 0, length).logical_or_(border)
        found.narrow(axis, 1, length).logical_or_(border)
    return found


def rest_labels(base_map: Tensor, cams: Tensor, labels: Tensor, sure: float, num_classes: int) -> Tensor:
    """Labels [h, w] of the cells for `affinity_labels`: base classes, novel ones where a map is sure, K elsewhere (b).

    Args:
        base_map: [h, w] base class, `UNKNOWN` elsewhere.
        cams: [k, h, w] maps of the novel classes of the image, in [0, 1].
        labels: [k] their indices.
        sure: from this value on a map says so; below 1 - `sure` of all of them a cell is of none, between unknown.
        num_classes: K, the label of a cell of none.
    """
    rest = base_map == UNKNOWN
    if not len(labels):
        return torch.where(rest, num_classes, base_map)
    best, which = cams.max(0)
    found = torch.where(best >= sure, labels[which], torch.where(best < 1 - sure, num_classes, UNKNOWN))
    return torch.where(rest, found, base_map)


def pseudo_labels(base_map: Tensor, maps: Tensor, labels: Tensor) -> Tensor:
    """A pseudo label map [H, W]: base masks, elsewhere the best of background and the image's novel classes (c).

    Args:
        base_map: [H, W] base class, `UNKNOWN` elsewhere.
        maps: [1 + k, H, W] of background and those classes, of `propagated`.
        labels: [k] their indices.
    """
    best = torch.cat([labels.new_tensor([UNKNOWN]), labels])[maps.argmax(0)]
    return torch.where(base_map == UNKNOWN, best, base_map)
