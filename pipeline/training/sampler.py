"""Which images make up which training batch: a pure function of (seed, iteration).

No state is kept between iterations, so a run resumed at iteration k trains on exactly the batches, and with
exactly the augmentations, that an uninterrupted run would have used from k on, whatever the number of data
workers.
"""

import numpy as np
from torch.utils.data import Sampler

from pipeline.errors import ExperimentError


def divide(batch_size, images_per_gpu, world_size):
    """Share the images of an optimiser step among processes: (images per process and iteration, iterations per step).

    Raises ExperimentError if they cannot be shared equally.
    """
    images = min(images_per_gpu, max(batch_size // world_size, 1))
    accumulate, rest = divmod(batch_size, images * world_size)
    if rest:
        raise ExperimentError(
            f"batch_size {batch_size} is not a multiple of {images} images in each of {world_size} processes "
            "(pipeline/experiments/profiles.yaml, profiles.<profile>.training: batch_size, images_per_gpu)"
        )
    return images, accumulate


class IterationBatchSampler(Sampler):
    """Yield batches `[(image index, sample seed), ...]` for iterations `start_iteration` to `max_iterations`
    - 1.

    An epoch visits every image once, in a random order, in batches of one aspect-ratio group (as
    MMDetection's GroupSampler, so that landscape and portrait images are not padded to a common square). A
    group that does not fill its last batch is padded with its own images, and the epoch with whole batches
    until it has whole optimiser steps. Epochs follow each other without end. A step consists of `accumulate *
    world_size` consecutive batches: in its k-th iteration rank r takes batch `k * world_size + r`, so the images of a
    step do not depend on how many processes share them.

    The sample seed seeds the augmentation of that sample (see `PartialCocoDataset.__getitem__`); an image
    that pads an epoch has another one than in its first place.

    Args:
        group_flags: group of each image, ints [N]; `dataset.flag` in MMDetection.
        batch_size: images per batch and rank.
        seed: of orders and augmentations.
        start_iteration: first iteration to yield, 0 in a fresh run.
        max_iterations: end of training, counted from 0, not from `start_iteration`.
        rank, world_size: of this process among the data-parallel ones.
        accumulate: iterations per optimiser step.
    """

    def __init__(
        self, group_flags, batch_size, seed, start_iteration, max_iterations, rank=0, world_size=1, accumulate=1
    ):
        self.group_flags = np.asarray(group_flags)
        if not len(self.group_flags):
            raise ValueError("no images to sample from")
        self.batch_size = batch_size
        self.seed = seed
        self.start_iteration = start_iteration
        self.max_iterations = max_iterations
        self.rank = rank
        self.world_size = world_size
        self.accumulate = accumulate
        sizes = np.unique(self.group_flags, return_counts=True)[1]
        batches = int(np.ceil(sizes / batch_size).sum())
        self.iterations_per_epoch = -(-batches // (world_size * accumulate)) * accumulate

    def __len__(self):
        return max(self.max_iterations - self.start_iteration, 0)

    def __iter__(self):
        batches, current = None, None
        for iteration in range(self.start_iteration, self.max_iterations):
            epoch, position = divmod(iteration, self.iterations_per_epoch)
            if epoch != current:
                batches, current = self._epoch(epoch), epoch
            yield batches[position]

    def _epoch(self, epoch):
        """Batches of this rank in one epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for group in np.unique(self.group_flags):
            order = rng.permutation(np.flatnonzero(self.group_flags == group))
            order = np.resize(order, -(-len(order) // self.batch_size) * self.batch_size)
            batches.append(order.reshape(-1, self.batch_size))
        batches = rng.permutation(np.concatenate(batches))
        total = self.iterations_per_epoch * self.world_size
        batches = np.take(batches, range(total), axis=0, mode="wrap")
        seeds = rng.integers(2**32, size=batches.shape)
        mine = slice(self.rank, None, self.world_size)
        return [
            list(zip(indices, sample_seeds, strict=True))
            for indices, sample_seeds in zip(batches[mine].tolist(), seeds[mine].tolist(), strict=True)
        ]
