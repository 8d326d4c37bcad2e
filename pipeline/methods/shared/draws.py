"""Random draws of a training step, on the device, of a number that no one on the host has to know.

Legend: B images, N candidates of an image.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def step_generator(seed: int, rank: int, iteration: int, device: torch.device, purpose: str = "") -> torch.Generator:
    """Make the random generator of one training step.

    It is a function of its arguments alone, so a resumed training draws what an uninterrupted one would have drawn and
    no state needs saving. Draws for different purposes are independent.
    """
    digest = hashlib.blake2b(f"{purpose}{seed}/{rank}/{iteration}".encode(), digest_size=8).digest()
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator


class DrawsByStep:
    """A part of a model that draws, and is told before every iteration where the training stands."""

    _progress = None

    def set_progress(self, iteration: int, passes: float, seed: int, rank: int):
        """Say where the training stands; `pipeline.training.progress` does before every iteration.

        Args:
            iteration: iterations done, from 0.
            passes: passes over the training set done, with fraction.
            seed: seed of the run.
            rank: rank of this process.
        """
        self._progress = (iteration, passes, seed, rank)

    def _generator(self, device, purpose):
        """The generator of this step; None, the global one, outside of a training."""
        if self._progress is None:
            return None
        iteration, _, seed, rank = self._progress
        return step_generator(seed, rank, iteration, device, purpose)


@dataclass(frozen=True)
class Drawn:
    """What was drawn from the candidates of each image.

    Attributes:
        indices: [B, K] int64 ascending; N behind the image's last one.
        valid: [B, K] bool, False there.
        count: [B] int64.
    """

    indices: Tensor
    valid: Tensor
    count: Tensor


def draw(candidates: Tensor, numbers: Tensor, most: int, limit: Tensor | None = None) -> Drawn:
    """Draw from each image's candidates uniformly without replacement; all, if there are not more than are wanted.

    Args:
        candidates: [B, N] bool.
        numbers: [B, N] random, in [0, 1).
        most: how many are wanted.
        limit: [B], at most that many of them.
    """
    length = candidates.shape[1]
    lowest, indices = torch.where(candidates, numbers, 2.0).topk(min(most, length), dim=1, largest=False)
    drawn = lowest < 2
    if limit is not None:
        drawn = drawn & (torch.arange(drawn.shape[1], device=drawn.device) < limit[:, None])
    indices = torch.where(drawn, indices, length).sort(dim=1).values
    return Drawn(indices, indices < length, drawn.sum(1))
