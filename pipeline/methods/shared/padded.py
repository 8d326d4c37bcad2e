"""Lists of different lengths as one tensor, so that a batch is worked on at once.

Legend: B images, N rows of the longest list.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Padded:
    """Rows of each image, filled up with zeros.

    Attributes:
        rows: [B, N, ...], N at least 1.
        valid: [B, N] bool, whether a row is one of the image's.
    """

    rows: Tensor
    valid: Tensor

    @classmethod
    def of(cls, lists):
        """Pad tensors [n, ...], one for each image; what is padded already is left alone."""
        if isinstance(lists, cls):
            return lists
        rows = pad_sequence(lists, batch_first=True)
        valid = pad_sequence([rows.new_ones(len(each), dtype=torch.bool) for each in lists], batch_first=True)
        if not rows.shape[1]:
            rows, valid = pad(rows, (0, 0) * (rows.dim() - 2) + (0, 1)), pad(valid, (0, 1))
        return cls(rows, valid)

    def at(self, indices: Tensor) -> Tensor:
        """Rows [B, K, ...] of each image at its indices [B, K]; index N, one too large, gives the last row."""
        return rows_at(self.rows, indices)


def rows_at(rows: Tensor, indices: Tensor) -> Tensor:
    """Rows [B, K, ...] of [B, N, ...] at indices [B, K]; index N, one too large, gives the last row."""
    indices = indices.clamp(min=0, max=rows.shape[1] - 1)
    trailing = rows.shape[2:]
    return rows.gather(1, indices.view(*indices.shape, *[1] * len(trailing)).expand(*indices.shape, *trailing))
