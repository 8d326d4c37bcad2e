"""Which pixels of two images are compared (section 6).

Legend: P pairs of images (P, 2 images: an image and its reference), B = 2P images, h and w cells, K classes, J points.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.methods.simformer.targets import Targets, nearest

JITTER = 0.1  # of the noise that orders the pixels of a region
SHARE_SAME, SHARE_OTHER = 0.8, 0.2  # of J, from within the region of one class and from the rest


@dataclass(frozen=True)
class Cells:
    """The images of a batch at the size of the pixel embedding.

    Attributes:
        labels: [B, h, w] class, meaningless where `base` is False.
        base: [B, h, w] bool, cells of a class with a mask.
        inside: [B, h, w] bool, False in the padding.
    """

    labels: Tensor
    base: Tensor
    inside: Tensor

    @classmethod
    def of(cls, targets: Targets, inside: Tensor, size) -> "Cells":
        """Of targets and the pixels [B, H, W] that are no padding, at a size (h, w)."""
        labels = nearest(targets.maps, size)
        base = (labels >= 0) & (labels < targets.num_classes)
        return cls(labels, base, nearest(inside.byte(), size).bool())


def common_classes(has_class):
    """[P, K] bool, the classes that both images of a pair have, of [B, K] bool."""
    return has_class[0::2] & has_class[1::2]


def drawn_class(common: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """One of the common classes [P, K] of each pair, uniformly by random numbers [P, K] in [0, 1).

    Returns:
        [P] its index, and [P] bool, False without any.
    """
    return torch.where(common, numbers, -1.0).argmax(1), common.any(1)


def regions(cells: Cells, chosen: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Cells that points of one class are drawn from, and those that the others are.

    Args:
        cells: of B images.
        chosen, exists: [P] class of each pair, and whether it has one; without, all base cells are the region.

    Returns:
        [B, h, w] bool each: the region, and what is neither in it nor padding.
    """
    chosen, exists = (each.repeat_interleave(2)[:, None, None] for each in (chosen, exists))
    region = torch.where(exists, cells.base & (cells.labels == chosen), cells.base)
    return region, cells.inside & ~region


def top_points(region: Tensor, noise: Tensor, count: int) -> Tensor:
    """Cells [B, J] drawn from a region [B, h, w]; where it is too small the rest lies anywhere.

    Args:
        noise: [B, h, w] in [0, 1).
        count: how many; no more than there are cells.
    """
    score = region.flatten(1).float() + JITTER * noise.flatten(1)
    return score.topk(min(count, score.shape[1]), dim=1).indices


def base_points(region: Tensor, rest: Tensor, noises: tuple[Tensor, Tensor], points: int) -> Tensor:
    """Cells [B, J'] for the similarity loss: four fifths from a region, a fifth from the rest, both rounded down."""
    counts = int(SHARE_SAME * points), int(SHARE_OTHER * points)
    drawn = [top_points(*each) for each in zip((region, rest), noises, counts, strict=True)]
    return torch.cat(drawn, dim=1)


def at_points(values: Tensor, points: Tensor) -> Tensor:
    """Columns [B, C, J] of maps [B, C, h, w] at cells [B, J]."""
    flat = values.flatten(2)
    return flat.gather(2, points[:, None].expand(-1, flat.shape[1], -1))


def other_image(values: Tensor) -> Tensor:
    """[B, ...] with the two images of each pair exchanged."""
    return values.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
