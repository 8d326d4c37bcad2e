from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.sampler import IterationBatchSampler

flags = st.lists(st.integers(0, 1), min_size=1, max_size=40)
batch_sizes = st.integers(1, 6)
world_sizes = st.integers(1, 4)


def epoch_batches(flags, batch_size, world_size, epoch, seed=3):
    """Batches of one epoch by rank."""
    length = IterationBatchSampler(flags, batch_size, seed, 0, 0, 0, world_size).iterations_per_epoch
    span = epoch * length, (epoch + 1) * length
    return [list(IterationBatchSampler(flags, batch_size, seed, *span, rank, world_size)) for rank in range(world_size)]


@settings(max_examples=60, deadline=None)
@given(flags, batch_sizes, world_sizes, st.integers(0, 3))
def test_an_epoch_visits_every_image_once_up_to_padding(flags, batch_size, world_size, epoch):
    ranks = epoch_batches(flags, batch_size, world_size, epoch)
    assert len({len(batches) for batches in ranks}) == 1
    visits = Counter(index for batches in ranks for batch in batches for index, _ in batch)
    assert set(visits) == set(range(len(flags)))
    padding = len(set(flags)) * (batch_size - 1) + (world_size - 1) * batch_size
    assert visits.total() - len(flags) <= padding


@settings(max_examples=60, deadline=None)
@given(flags, batch_sizes, world_sizes)
def test_a_batch_is_full_and_of_one_group(flags, batch_size, world_size):
    for batches in epoch_batches(flags, batch_size, world_size, 0):
        for batch in batches:
            assert len(batch) == batch_size
            assert len({flags[index] for index, _ in batch}) == 1
            assert all(type(index) is int and 0 <= seed < 2**32 for index, seed in batch)


@settings(max_examples=60, deadline=None)
@given(flags, batch_sizes, world_sizes, st.integers(0, 2**32), st.data())
def test_resuming_continues_the_uninterrupted_run(flags, batch_size, world_size, seed, data):
    end = 30
    start = data.draw(st.integers(0, end))
    rank = data.draw(st.integers(0, world_size - 1))
    whole = list(IterationBatchSampler(flags, batch_size, seed, 0, end, rank, world_size))
    resumed = IterationBatchSampler(flags, batch_size, seed, start, end, rank, world_size)
    assert len(resumed) == end - start
    assert list(resumed) == whole[start:]
    assert list(resumed) == whole[start:], "no state is left behind by the first pass"


@settings(max_examples=60, deadline=None)
@given(flags, batch_sizes, st.integers(0, 100))
def test_a_step_has_the_same_images_however_it_is_divided(flags, batch_size, seed):
    """Four batches a step: one process in four iterations, two in two, four in one."""
    steps = {}
    for world_size in (1, 2, 4):
        accumulate = 4 // world_size
        ranks = [
            list(IterationBatchSampler(flags, batch_size, seed, 0, 6 * accumulate, rank, world_size, accumulate))
            for rank in range(world_size)
        ]
        steps[world_size] = [
            [batch for k in range(accumulate) for rank in ranks for batch in [rank[step * accumulate + k]]]
            for step in range(6)
        ]
    assert steps[1] == steps[2] == steps[4]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_no_image_within_an_epoch(world_size):
    flags = np.arange(48) % 2  # 24 a group, 12 batches of 4: nothing to pad
    ranks = epoch_batches(flags, 4, world_size, 1)
    images = [{index for batch in batches for index, _ in batch} for batches in ranks]
    assert sum(map(len, images)) == len(set().union(*images)) == 48


def test_seed_and_epoch_change_order_and_augmentation():
    flags = [0] * 16
    first, second = (epoch_batches(flags, 4, 1, epoch)[0] for epoch in (0, 1))
    other = epoch_batches(flags, 4, 1, 0, seed=4)[0]
    assert first != second and first != other
    seeds = [seed for batches in (first, second, other) for batch in batches for _, seed in batch]
    assert len(set(seeds)) == len(seeds)


def test_an_image_that_pads_is_augmented_differently():
    (batch,) = epoch_batches([0], 3, 1, 0)[0]
    assert [index for index, _ in batch] == [0, 0, 0]
    assert len({seed for _, seed in batch}) == 3


def test_nothing_left_to_do():
    sampler = IterationBatchSampler([0, 1], 1, 0, 10, 10)
    assert len(sampler) == 0 and list(sampler) == []
    assert len(IterationBatchSampler([0, 1], 1, 0, 12, 10)) == 0


def test_no_images():
    with pytest.raises(ValueError, match="no images to sample from"):
        IterationBatchSampler([], 2, 0, 0, 10)
