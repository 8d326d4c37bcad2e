"""Boundary targets, non-local block, its loss, batch statistics and initial weights, a part at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from torch import nn

from pipeline import compat  # noqa: F401
from pipeline.methods.shared.cpmask.affinity import (
    AffinityBlock,
    CountedBatchNorm2d,
    affinity_loss,
    affinity_per_roi,
    on_cells,
    standardised,
)
from pipeline.methods.shared.cpmask.boundary import boundary, dilate, erode
from pipeline.methods.shared.cpmask.mask_head import CPMaskHead

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)))
# Without a search for the smallest example: there is no large one.
QUICK = settings(max_examples=30, deadline=None, phases=(Phase.explicit, Phase.generate))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@QUICK
@given(MASKS)
def test_boundaries_are_where_dilation_and_erosion_differ(masks):
    cross = ndimage.generate_binary_structure(2, 1)[None]
    grown = ndimage.binary_dilation(masks, cross, border_value=0)
    shrunk = ndimage.binary_erosion(masks, cross, border_value=1)
    given_ = torch.from_numpy(masks)
    assert np.array_equal(dilate(given_).numpy(), grown) and np.array_equal(erode(given_).numpy(), shrunk)
    assert np.array_equal(boundary(given_).numpy(), grown & ~shrunk)


@QUICK
@given(MASKS)
def test_a_mask_and_its_background_have_one_boundary(masks):
    given_ = torch.from_numpy(masks)
    assert torch.equal(boundary(given_), boundary(~given_))
    assert torch.equal(boundary(given_).transpose(1, 2), boundary(given_.transpose(1, 2)))


def test_no_boundary_runs_along_the_border_of_a_roi():
    half = torch.zeros(1, 6, 6, dtype=torch.bool)
    half[:, :, :3] = True
    expected = torch.zeros_like(half)
    expected[:, :, 2:4] = True
    assert torch.equal(boundary(half), expected), "one cell inside, one outside"
    assert not boundary(torch.ones(2, 5, 5, dtype=torch.bool)).any()
    assert boundary(torch.zeros(0, 5, 5, dtype=torch.bool)).shape == (0, 5, 5)


@QUICK
@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 100))
def test_batch_statistics_are_of_the_counted_rois(counted, seed):
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(len(counted), 4, 3, 2, generator=generator) + 1
    chosen = torch.tensor(counted)
    ours, theirs = CountedBatchNorm2d(4, eps=1e-4), nn.BatchNorm2d(4, eps=1e-4)
    for norm in (ours, theirs):
        with torch.no_grad():
            norm.weight.copy_(torch.arange(1.0, 5))
            norm.bias.fill_(0.5)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    found = ours(x.requires_grad_(), chosen)
    assert torch.isfinite(found).all()
    if not any(counted):
        assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items()), "nothing moves"
        found.sum().backward()
        assert all(torch.isfinite(each.grad).all() for each in (x, ours.weight, ours.bias))
        return
    alone = x.detach()[chosen].requires_grad_()
    expected = theirs(alone)
    torch.testing.assert_close(found[chosen], expected, rtol=1e-4, atol=1e-4)
    upstream = torch.randn(expected.shape, generator=generator)
    (found[chosen] * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(x.grad[chosen], alone.grad, rtol=1e-3, atol=1e-4)
    assert not x.grad[~chosen].any()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x))


@QUICK
@given(st.integers(1, 4), st.integers(2, 9), st.integers(0, 100))
def test_standardised_cells(rois, channels, seed):
    rows = torch.randn(rois, channels, 5, generator=torch.Generator().manual_seed(seed)).relu()
    rows[0, :, 0] = 0
    rows[0, :, 1] = 3.7
    rows.requires_grad_()
    found = standardised(rows)
    assert not found[0, :, :2].any(), "a cell whose channels are all the same stays zero"
    flat = rows.std(1) < 1e-6
    expected = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
    torch.testing.assert_close(found.movedim(1, -1)[~flat], expected.movedim(1, -1)[~flat], rtol=1e-3, atol=1e-4)
    found.square().sum().backward()
    assert torch.isfinite(rows.grad).all()


def block(channels=6, **options):
    made = AffinityBlock(channels, **options)
    made.init_weights()
    return made


def test_attention_sums_to_one_and_a_dead_query_makes_it_uniform():
    made, x = block(), torch.randn(3, 6, 4, 4)
    joined, affinity = made(x)
    assert joined.shape == x.shape and affinity.shape == (3, 16, 16)
    torch.testing.assert_close(affinity.sum(2), torch.ones(3, 16))
    nn.init.constant_(made.query.weight, 0)
    nn.init.constant_(made.query.bias, -1)
    joined, affinity = made(x.requires_grad_())
    torch.testing.assert_close(affinity, torch.full((3, 16, 16), 1 / 16))
    joined.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in (x, *made.parameters()))


def test_zeros_as_first_weight_of_its_norm_make_the_block_the_identity():
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(block(norm_init="zeros")(x)[0], x)
    assert not torch.equal(block(norm_init="ones")(x)[0], x)


def test_without_a_roi():
    made = block()
    joined, affinity = made(torch.zeros(0, 6, 4, 4, requires_grad=True), torch.zeros(0, dtype=torch.bool))
    assert joined.shape == (0, 6, 4, 4) and affinity.shape == (0, 16, 16)
    loss = affinity_loss(affinity, torch.zeros(0, 8, 8, dtype=torch.bool), torch.zeros(0, dtype=torch.bool))
    loss.backward()
    assert loss == 0


def test_masks_are_looked_at_in_every_second_row_and_column():
    masks = torch.zeros(1, 6, 6, dtype=torch.bool)
    masks[0, 2, 4] = masks[0, 3, 3] = True
    assert on_cells(masks, 9).view(3, 3).nonzero().tolist() == [[1, 2]]


@QUICK
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 1000))
def test_affinity_loss_is_what_loops_over_rois_and_cells_give(rois, size, seed):
    generator = torch.Generator().manual_seed(seed)
    affinity = torch.randn(rois, size**2, size**2, generator=generator).softmax(2)
    masks = torch.rand(rois, 2 * size, 2 * size, generator=generator) < torch.rand(rois, 1, 1, generator=generator)
    in_loss = torch.rand(rois, generator=generator) < 0.7
    within = []
    for attention, mask, counts in zip(affinity, masks, in_loss, strict=True):
        cells = [i for i in range(size**2) if mask[2 * (i // size), 2 * (i % size)]]
        if len(cells) >= 2 and counts:
            within.append(sum(float(attention[i, j]) for i in cells for j in cells) / len(cells))
    expected = sum(abs(1 - value) for value in within) / len(within) if within else 0.0
    assert float(affinity_loss(affinity, masks, in_loss)) == pytest.approx(expected, abs=1e-5)
    inside, has_pair = affinity_per_roi(affinity, masks)
    assert (inside >= 0).all() and (inside < 1 + 1e-5).all() and len(has_pair) == rois


def test_one_foreground_cell_has_no_pair():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 0, 0] = masks[1, 2, 2] = True
    uniform = torch.full((2, 4, 4), 0.25)
    assert affinity_per_roi(uniform, masks)[1].tolist() == [False, True]
    assert float(affinity_loss(uniform, masks, torch.tensor([True, True]))) == pytest.approx(0.5)


def head(**options):
    settings_ = {"num_convs": 2, "in_channels": 16, "conv_out_channels": 16, "boundary_convs": 2, "norm_groups": 4}
    settings_ |= {"boundary_loss_weight": 0.5, "affinity_loss_weight": 0.5, "affinity_gradient": True}
    made = CPMaskHead(**settings_ | options)
    made.init_weights()
    return made


def test_initial_weights():
    """Kaiming's rule by the outputs; deviations as those of the authors' head, 1.42 of the gate among them."""
    made = head(in_channels=256, conv_out_channels=256, norm_groups=32)
    deviations = {
        "convs.0.conv": math.sqrt(2 / (9 * 256)),
        "boundary_convs.1.conv": math.sqrt(2 / (9 * 256)),
        "transform.conv": math.sqrt(2 / 256),
        "affinity.query": math.sqrt(2 / 256),
        "affinity.output": math.sqrt(2 / 256),
        "upsample": math.sqrt(2 / (4 * 256)),
        "boundary_upsample": math.sqrt(2 / (4 * 256)),
        "boundary_gate": math.sqrt(2),
        "conv_logits": 0.001,
        "boundary_logits": 0.001,
    }
    state = made.state_dict()
    for name, expected in deviations.items():
        assert state[f"{name}.weight"].std() == pytest.approx(expected, rel=0.15), name
    biases = {name: value for name, value in state.items() if name.endswith("bias") and "gn" not in name}
    assert len(biases) == 14 and not any(value.any() for value in biases.values())
    assert (state["affinity.norm.weight"] == 1).all() and made.affinity.norm.eps == 1e-4


def test_without_training_masks_are_those_with_their_boundaries():
    made, x = head().eval(), torch.randn(3, 16, 6, 6)
    masks, boundaries, _ = made.forward_with_boundary(x)
    assert masks.shape == boundaries.shape == (3, 1, 12, 12)
    assert torch.equal(made(x), masks)


@pytest.mark.parametrize("trains", [True, False])
def test_which_loss_trains_what(trains):
    made, x = head(affinity_gradient=trains), torch.randn(3, 16, 6, 6)
    masks = torch.rand(3, 12, 12) < 0.5
    everyone = torch.ones(3, dtype=torch.bool)
    losses = made.loss(*made.forward_with_boundary(x, everyone), masks, everyone)
    parameters = dict(made.named_parameters())
    reached = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        reached[name] = {
            key for key, g in zip(parameters, gradients, strict=True) if g is not None and g.abs().sum() > 0
        }
    parts = {name: {key.split(".")[0] for key in keys} for name, keys in reached.items()}
    assert parts["loss_boundary"] == {"boundary_convs", "boundary_upsample", "boundary_logits"}
    assert parts["loss_mask"] == {
        "boundary_convs",
        "boundary_gate",
        "transform",
        "convs",
        "affinity",
        "upsample",
        "conv_logits",
    }
    if not trains:
        assert (
            reached["loss_affinity"] == set() and losses["loss_affinity"].requires_grad and losses["loss_affinity"] > 0
        )
        return
    assert parts["loss_affinity"] == {"boundary_convs", "boundary_gate", "transform", "convs", "affinity"}
    affine = {key.split(".")[1] for key in reached["loss_affinity"] if key.startswith("affinity")}
    assert affine == {"query", "key"}
