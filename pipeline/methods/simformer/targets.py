"""What an image is to be parted into: base classes with a mask, novel classes with a label alone.

Legend: B images, K classes, T targets of the image with most, H and W pixels of the padded images.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255  # of label maps: hidden, unlabelled, padding


@dataclass(frozen=True)
class Targets:
    """The targets of each image: base classes first, then novel ones, each ascending, and padding behind them.

    Attributes:
        labels: [B, T] class indices, 0 behind the last target.
        maps: [B, H, W] class of each pixel that has a mask, another number elsewhere.
        has_class: [B, 2, K] bool on the host: classes with a mask, and those with a label alone.
    """

    labels: Tensor
    maps: Tensor
    has_class: np.ndarray

    @property
    def base(self) -> np.ndarray:
        """[B] number of targets with a mask, the first ones."""
        return self.has_class[:, 0].sum(1)

    @property
    def counts(self) -> np.ndarray:
        """[B] number of targets."""
        return self.has_class.sum((1, 2))

    @property
    def num_classes(self) -> int:
        return self.has_class.shape[-1]

    @property
    def has_mask(self) -> Tensor:
        """[B, T] bool, whether a target has a mask."""
        flags = np.arange(self.labels.shape[1]) < self.base[:, None]
        return torch.from_numpy(flags).to(self.labels.device)

    def masks(self, size: tuple[int, int] | None = None) -> Tensor:
        """[B, T, h, w] bool masks, empty for targets without one; at a size, see `nearest`.

        Only the matching looks at all masks at once, at the size of the predictions.
        """
        maps = self.maps if size is None else nearest(self.maps, size)
        return (maps[:, None] == self.labels[..., None, None]) & self.has_mask[..., None, None]


def nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Label maps [B, H, W] at another size [B, h, w]: at stride 4 pixel 4i, as MaskFormer's matching takes them."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None].float(), tuple(size), mode="nearest")[:, 0].to(maps.dtype)


def targets_of(maps: Tensor, novel_labels, num_classes: int) -> Targets:
    """The targets of a batch. Reads from the device once, before anything is computed there.

    Args:
        maps: [B, H, W] integer; a class index where a class has a mask, `IGNORE` elsewhere.
        novel_labels: for each image the classes that it shows and has no mask of, integer [n]; None for no such class
            in any image. A class that has a mask needs none.
        num_classes: K.
    """
    maps = maps.long()
    known = torch.where((maps >= 0) & (maps < num_classes), maps, num_classes).flatten(1)
    base = torch.zeros(len(maps), num_classes + 1, dtype=torch.bool, device=maps.device)
    base = base.scatter(1, known, True)[:, :num_classes].cpu().numpy()
    novel = np.zeros_like(base)
    for image, labels in enumerate(novel_labels or ()):
        novel[image, torch.as_tensor(labels).long().cpu().numpy()] = True
    has_class = np.stack([base, novel & ~base], axis=1)
    found = [np.nonzero(flags)[1] for flags in has_class]  # base classes first, each ascending
    labels = np.zeros((len(found), max(1, *map(len, found))), dtype=np.int64)
    for image, classes in enumerate(found):
        labels[image, : len(classes)] = classes
    return Targets(torch.from_numpy(labels).to(maps.device), maps, has_class)
