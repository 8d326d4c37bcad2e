"""RETAB on label maps: what its parts must hold, whatever they are given; its numbers are in test_verify.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.methods.shared import retab


@settings(max_examples=30, deadline=None)
@given(st.integers(11, 16), st.integers(11, 16), st.integers(0, 2**16))
def test_pairs_are_of_one_kind_and_each_once(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = retab.UNKNOWN
    centre, beside = retab.neighbours(labels.shape, 5)
    pairs = {(int(one), int(other)) for cells in beside for one, other in zip(centre, cells, strict=True)}
    assert len(pairs) == beside.numel() and not any((other, one) in pairs for one, other in pairs)
    for one, other in pairs:
        rows, columns = abs(one // width - other // width), abs(one % width - other % width)
        assert 0 < rows**2 + columns**2 < 25
    kinds = torch.stack(retab.affinity_labels(labels))
    known = (labels.flatten()[centre] != retab.UNKNOWN) & (labels.flatten()[beside] != retab.UNKNOWN)
    assert torch.equal(kinds.sum(0), known.long())


@pytest.mark.parametrize("size, radius", [((12, 14), 5), ((11, 40), 5), ((10, 40), 4), ((5, 9), 2), ((3, 9), 2)])
def test_the_radius_shrinks_with_the_map(size, radius):
    assert retab.radius_of(size) == radius
    assert retab.neighbours(size, radius)[0].numel()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (3, 4), (4, 9)])
def test_maps_too_small_for_a_pair_have_losses_and_stay_as_they_are(size):
    radius = retab.radius_of(size)
    embedding = torch.rand(1, 6, *size, requires_grad=True)
    affinity = retab.affinities(embedding, radius)
    kinds = retab.affinity_labels(torch.randint(0, 3, size), radius)
    losses = retab.affinity_losses(affinity, *(kind[None] for kind in kinds))
    assert all(torch.isfinite(loss) for loss in losses)
    cams = torch.rand(2, *size)
    first, second = retab.propagated(cams, affinity[0].detach(), torch.ones(size, dtype=torch.bool), radius)
    assert first.shape[1:] == second.shape[1:] and torch.isfinite(second).all()


def test_nothing_walks_across_a_boundary_in_the_first_stage():
    inside = torch.ones(12, 14, dtype=torch.bool)
    inside[:, 6:8] = False
    centre, beside = retab.neighbours((12, 14), 3)
    first, second = retab.affinity_matrices(torch.full(beside.shape, 0.9), (12, 14), inside, 3)
    maps = torch.zeros(1, 12, 14)
    maps[0, :, :6] = 1
    left = retab.walked(maps, first)
    assert left[0, :, 8:].abs().max() == 0 and left[0, :, :6].min() > 0.99
    assert torch.equal(first, first.T) and second[0, 6] == 0.0 and not torch.equal(second, second.T)


def test_boundaries_are_between_base_classes_alone():
    base = torch.full((4, 6), retab.UNKNOWN)
    base[:, :2], base[:, 2:4] = 1, 3
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[:, 1:3] = True
    assert torch.equal(retab.boundaries(base), expected)
    assert not retab.boundaries(torch.full((3, 3), retab.UNKNOWN)).any()


def test_base_masks_stay_and_only_classes_of_the_image_compete_for_the_rest():
    base = torch.full((8, 8), retab.UNKNOWN)
    base[:, :4] = 2
    cams, labels = torch.zeros(2, 8, 8), torch.tensor([5, 7])
    cams[1, :4], cams[0, 4:6] = 0.95, 0.5
    learned = retab.rest_labels(base, cams, labels, 0.9, 9)
    assert learned[0, 0] == 2 and learned[0, 5] == 7 and learned[5, 5] == retab.UNKNOWN and learned[7, 5] == 9
    assert set(retab.rest_labels(base, cams[:0], labels[:0], 0.9, 9).unique().tolist()) == {2, 9}
    found = retab.pseudo_labels(base, retab.with_background(cams), labels)
    assert (found[:, :4] == 2).all() and (found[:4, 4:] == 7).all() and (found[6:, 4:] == retab.UNKNOWN).all()
