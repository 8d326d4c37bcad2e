"""Edges, partition, key sets and sampling: worked values, properties, and agreement with the loops of `reference`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.methods.contrastmask import edges, partition, sampling
from pipeline.methods.shared.draws import step_generator

from . import reference

PAPER = partition.PartitionRule(0.1, 1.0, "inclusive", True, "paper", 5)
RELEASED = partition.PartitionRule(0.1, 1.0, "strict", True, "band", 5)
SETS = ("easy positive", "easy negative", "hard positive", "hard negative")


def square(side, size=28, top=None):
    """Return a mask [1, size, size] of a square, centred unless placed."""
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    top = (size - side) // 2 if top is None else top
    mask[:, top : top + side, top : top + side] = True
    return mask


def sets_of(mask, rule=RELEASED):
    """Partition RoIs by their masks alone."""
    rois = len(mask)
    return partition.partition(
        mask, torch.zeros(mask.shape), torch.ones(rois, dtype=torch.bool), torch.ones(rois, dtype=torch.bool), rule
    )


def sets_of_cam(cam, rule=RELEASED):
    """Partition RoIs by their CAMs alone; the masks would say otherwise."""
    rois = len(cam)
    return partition.partition(
        torch.ones(cam.shape, dtype=torch.bool),
        cam,
        torch.zeros(rois, dtype=torch.bool),
        torch.ones(rois, dtype=torch.bool),
        rule,
    )


def test_centred_square_has_the_worked_sizes():
    mask = square(12)
    band = edges.mask_edges(mask)
    assert band.sum() == 92
    assert edges.dilate(band).sum() == 188
    sets = sets_of(mask)
    assert sets.counts[:, 0].tolist() == [108, 532, 36, 60]
    assert (sets.candidates[0] & band.flatten(1)).sum() == 44
    assert (~sets.candidates.any(0)).sum() == 48


def test_row_through_a_wide_object_reads_as_drawn_in_the_specification():
    sets = sets_of(square(12))
    row = ""
    band = edges.mask_edges(square(12))[0, 14]
    for x in range(28):
        easy_positive, easy_negative, hard_positive, hard_negative = sets.candidates.view(4, 28, 28)[:, 14, x].tolist()
        row += (
            ("P" if band[x] else "p")
            if easy_positive
            else "n"
            if easy_negative
            else "H"
            if hard_positive
            else ("h" if hard_negative else ".")
        )
    assert row.strip("n") == "nnnnnnh.PHppppppppHP.hnnnnnn".strip("n")


@pytest.mark.parametrize(("side", "hard"), [(1, 1), (2, 0), (3, 1), (4, 4), (5, 8), (6, 12)])
def test_hard_positives_of_small_squares(side, hard):
    sets = sets_of(square(side))
    assert sets.counts[2, 0] == hard
    assert sets.keeps(5).item() == (side > 4)


@pytest.mark.parametrize(("margin", "kept"), [(0, False), (1, False), (2, False), (3, True)])
def test_objects_that_almost_fill_the_roi(margin, kept):
    sets = sets_of(square(28 - 2 * margin))
    assert sets.keeps(5).item() == kept
    if margin == 1:
        assert sets.counts[3, 0] == 4
    if margin == 2:
        assert sets.counts[1, 0] == 4


@pytest.mark.parametrize(("cell", "above"), [((3, 3), 4), ((0, 0), 3)])
def test_a_single_hot_cam_cell_is_dropped(cell, above):
    from pipeline.methods.shared import cam

    coarse = torch.zeros(1, 1, 7, 7)
    coarse[0, 0][cell] = 1
    fine, _ = cam.min_max_normalise(cam.resize_map(cam.resize_map(coarse, 14), 28))
    sets = sets_of_cam(fine[:, 0])
    assert sets.counts[0, 0] == above
    assert not sets.keeps(5).item()


def test_thresholds_are_inclusive_or_strict():
    values = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).view(1, 1, 5)
    for rule, foreground, background in ((PAPER, [3, 4], [0, 1]), (RELEASED, [4], [0])):
        sides = sets_of_cam(values, rule).sides
        assert sides[0, 0].nonzero()[:, 0].tolist() == foreground
        assert sides[1, 0].nonzero()[:, 0].tolist() == background


def test_key_scale_changes_keys_and_not_queries():
    values = torch.tensor([0.0, 0.15, 0.5, 0.85, 1.0]).view(1, 1, 5)
    rule = partition.PartitionRule(0.1, 2.0, "strict", True, "band", 1)
    sets = sets_of_cam(values, rule)
    assert sets.sides.sum(-1).flatten().tolist() == [1, 1]
    assert sets.counts.flatten().tolist() == [2, 2, 2, 2]


def test_tiny_masks_take_the_side_from_the_cam_only_with_the_fallback():
    mask, cam = square(1), torch.full((1, 28, 28), 0.5)
    cam[0, :3] = 1
    for fallback, expected in ((True, 3 * 28), (False, 1)):
        rule = partition.PartitionRule(0.1, 1.0, "strict", fallback, "band", 5)
        sets = partition.partition(mask, cam, torch.tensor([True]), torch.tensor([True]), rule)
        assert sets.sides[0].sum() == expected
        assert sets.sides[1].sum() == 28 * 28 - 1


@pytest.mark.parametrize("cells", [0, 1, 2, 3, 4])
def test_a_side_of_fewer_than_two_cells_is_tiny(cells):
    """Spec section 5: fewer than 2 foreground (background) cells are replaced by CAM > 0.95 (< 0.05)."""
    mask, cam = torch.zeros(2, 10, 10, dtype=torch.bool), torch.full((2, 10, 10), 0.5)
    mask[0].view(-1)[:cells] = True
    mask[1] = ~mask[0]
    cam[:, 5, :7], cam[:, 7, :8] = 0.96, 0.04
    cam[:, 9, 0], cam[:, 9, 1] = 0.94, 0.06
    rule = partition.PartitionRule(0.1, 1.0, "strict", True, "band", 5)
    every = torch.tensor([True, True])
    sides = partition.partition(mask, cam, every, every, rule).sides
    counts = sides.sum(-1).tolist()
    assert counts == [[7 if cells < 2 else cells, 100 - cells], [100 - cells, 8 if cells < 2 else cells]]


def test_no_rois():
    sets = sets_of(torch.zeros(0, 28, 28, dtype=torch.bool))
    assert sets.counts.shape == (4, 0)
    assert sets.keeps(5).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(4, 14), share=st.floats(0.05, 0.95), masked=st.booleans())
def test_the_paper_preset_agrees_with_its_equations(seed, size, share, masked):
    rng = np.random.default_rng(seed)
    coarse = rng.random((size // 2 + 1, size // 2 + 1)) < share
    mask = np.kron(coarse, np.ones((2, 2), bool))[:size, :size]
    cam = rng.random((size, size)).astype(np.float32)
    roi = {"mask": mask if masked else None, "cam": cam}
    rule = partition.PartitionRule(0.2, 1.0, "inclusive", False, "paper", 1)
    ours = partition.partition(
        torch.from_numpy(mask)[None], torch.from_numpy(cam)[None], torch.tensor([masked]), torch.tensor([True]), rule
    )
    if masked:
        assert reference.cells_where(edges.mask_edges(torch.from_numpy(mask)[None])[0].numpy()) == reference.boundary(
            mask
        )
    for got, cells in zip(ours.sides, reference.partition(roi, 0.2), strict=True):
        assert reference.cells_where(got.view(size, size).numpy()) == sorted(cells)
    for name, got, cells in zip(SETS, ours.candidates, reference.key_sets(roi, 0.2), strict=True):
        assert reference.cells_where(got.view(size, size).numpy()) == sorted(cells), name


def generator(iteration=0, seed=0, rank=0):
    return step_generator(seed, rank, iteration, torch.device("cpu"))


def draw(sets, rule, iteration=0, kept=None):
    kept = torch.ones(sets.counts.shape[1], dtype=torch.bool) if kept is None else kept
    return sampling.sample_keys(sets, kept, rule, generator(iteration))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), sigma=st.floats(0.01, 1), order=st.sampled_from(["split_first", "sample_first"]))
def test_samples_are_subsets_of_the_right_size(seed, sigma, order):
    torch.manual_seed(seed)
    masks = torch.rand(5, 10, 10) < 0.5
    masks[1], masks[2] = True, False
    masked = torch.tensor([True, True, True, False, False])
    sets = partition.partition(masks, torch.rand(5, 10, 10), masked, torch.ones(5, dtype=torch.bool), PAPER)
    kept = torch.tensor([True, True, True, True, False])
    rule = sampling.SamplingRule(sigma, "ceil", order)
    keys = draw(sets, rule, seed, kept)
    assert not (keys & ~sets.candidates).any()
    assert not keys[:, 4].any()
    if order == "split_first":
        assert torch.equal(keys.sum(-1), sampling.sample_sizes(sets.counts, rule) * kept)
    else:
        sizes = sampling.sample_sizes((sets.candidates[:2] | sets.candidates[2:]).sum(-1), rule) * kept
        drawn = torch.stack([keys[0] | keys[2], keys[1] | keys[3]])
        assert torch.equal(drawn.sum(-1), sizes)
        assert torch.equal(keys[0][3], keys[2][3])


def test_every_cell_is_drawn_equally_often_and_easy_independent_of_hard():
    cam = torch.rand(1, 20, 20)
    sets = sets_of_cam(cam, partition.PartitionRule(0.3, 1.0, "strict", True, "band", 5))
    rule = sampling.SamplingRule(0.3, "ceil", "split_first")
    draws = torch.stack([draw(sets, rule, iteration) for iteration in range(600)])[:, :, 0]
    for which in range(4):
        candidates = sets.candidates[which, 0]
        share = float(draws[0, which].sum() / candidates.sum())
        hits = draws[:, which, candidates].float().sum(0)
        spread = (600 * share * (1 - share)) ** 0.5
        assert ((hits - 600 * share).abs() < 5 * spread).all()
    both = (draws[:, 0] & draws[:, 2]).sum(1).float().mean() / sets.counts[0, 0]
    assert both == pytest.approx(share**2, abs=0.02)


def test_rounding_is_exact_or_that_of_float32():
    counts = torch.tensor([10, 50, 90, 100, 30])
    exact = sampling.sample_sizes(counts, sampling.SamplingRule(0.3, "ceil", "split_first"))
    assert exact.tolist() == [3, 15, 27, 30, 9]
    rounded = sampling.sample_sizes(counts, sampling.SamplingRule(0.3, "ceil_float32", "split_first"))
    assert rounded.tolist() == [3, 16, 28, 31, 9]
    everything = sampling.sample_sizes(counts, sampling.SamplingRule(1.0, "ceil", "split_first"))
    assert torch.equal(everything, counts)
    few = sampling.sample_sizes(torch.tensor([0, 1]), sampling.SamplingRule(0.01, "ceil", "split_first"))
    assert few.tolist() == [0, 1]


def test_drawing_repeats_with_its_seed_and_differs_across_ranks_steps_and_seeds():
    sets = sets_of(square(12))
    rule = sampling.SamplingRule(0.3, "ceil", "split_first")
    kept = torch.tensor([True])
    first = sampling.sample_keys(sets, kept, rule, generator(3, 1, 2))
    assert torch.equal(first, sampling.sample_keys(sets, kept, rule, generator(3, 1, 2)))
    for other in (generator(4, 1, 2), generator(3, 2, 2), generator(3, 1, 3)):
        assert not torch.equal(first, sampling.sample_keys(sets, kept, rule, other))
