"""The contrastive loss: worked values, agreement with the loops of `reference`, gradients, degenerate sets."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.methods.contrastmask import losses, partition

from . import reference

PAPER = {"similarity": "cosine", "denominator": "temperature", "pooling": "roi"}
RELEASED = {"similarity": "centred", "denominator": "plain", "pooling": "batch"}


def keys_of(positives, negatives):
    """Return unit vectors along the query and against it as cells [1, P, 2], and the four key sets [4, 1, P]."""
    along, against = torch.tensor([[3.0, 0.0]]), torch.tensor([[-3.0, 0.0]])
    cells = torch.cat([along.repeat(positives, 1), against.repeat(negatives, 1)])
    member = torch.zeros(4, 1, positives + negatives, dtype=torch.bool)
    member[0, 0, :positives] = member[2, 0, :positives] = True
    member[1, 0, positives:] = member[3, 0, positives:] = True
    return cells[None], member


def terms(cells, member, query, tau, **form):
    """Evaluate the four terms for one given query on both sides."""
    queries = query.expand(1, 2, -1)
    products = queries, cells @ queries.transpose(1, 2), cells.square().sum(-1, keepdim=True)
    form = losses.LossForm(tau, tau, **form)
    return losses.contrastive_terms(losses.similarities(*products, form.similarity), member, form)


@pytest.mark.parametrize(
    ("negatives", "tau", "expected"),
    [
        (5, 0.3, -2.2698),
        (5, 0.7, -0.0634),
        (4000, 0.3, 1.6463),
        (4000, 0.7, 5.4397),
    ],
)
def test_released_form_has_the_worked_values(negatives, tau, expected):
    cells, member = keys_of(5, negatives)
    loss = terms(cells, member, torch.tensor([1.0, 0.0]), tau, **RELEASED)[0]
    assert loss.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("negatives", [1, 5, 4000])
@pytest.mark.parametrize("tau", [0.02, 0.3, 0.7])
def test_paper_form_has_the_worked_values(negatives, tau):
    cells, member = keys_of(5, negatives)
    expected = math.log1p(negatives * math.exp(-2 / tau))
    loss = terms(cells, member, torch.tensor([1.0, 0.0]), tau, **PAPER)[0].item()
    assert loss == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert loss >= 0


def random_case(seed, rois=3, channels=4, size=5):
    rng = np.random.default_rng(seed)
    cases, masks = [], []
    for _ in range(rois):
        mask = rng.random((size, size)) < 0.5
        embedding = rng.normal(0, 1, (channels, size, size)).astype(np.float32)
        cases.append({"mask": mask, "cam": None, "embedding": embedding})
        masks.append(mask)
    drawn = rng.random((4, rois, size * size)) < 0.3
    inside = np.stack([m.ravel() for m in masks])
    drawn &= np.stack([inside, ~inside, inside, ~inside])
    cells = torch.from_numpy(np.stack([c["embedding"].reshape(channels, -1).T for c in cases]))
    return cases, torch.from_numpy(np.stack(masks)), torch.from_numpy(drawn), cells


def as_cells(row, size):
    return [tuple(divmod(int(index), size)) for index in np.flatnonzero(row)]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    pooled=st.booleans(),
    form=st.sampled_from(["paper", "released"]),
    tau_easy=st.floats(0.2, 1.0),
    tau_hard=st.floats(0.2, 1.0),
    shared=st.booleans(),
)
def test_the_batched_loss_agrees_with_the_equations(seed, pooled, form, tau_easy, tau_hard, shared):
    cases, masks, drawn, cells = random_case(seed)
    sides = torch.stack([masks, ~masks]).flatten(2)
    sets = [[as_cells(drawn[which, n], 5) for which in range(4)] for n in range(3)]
    similarity = "cosine" if form == "paper" else "centred"
    denominator = "temperature" if form == "paper" else "plain"
    if shared:
        expected = reference.four_terms(
            cases, sets, reference.shared_queries(cases, 0.1), tau_easy, tau_hard, form, pooled
        )
    else:
        own = [
            reference.four_terms([case], [four], reference.shared_queries([case], 0.1), tau_easy, tau_hard, form)
            for case, four in zip(cases, sets, strict=True)
        ]
        present = drawn.any(-1)[[0, 2, 1, 3]].numpy()
        expected = [
            np.mean([own[n][t] for n in range(3) if present[t, n]]) if present[t].any() else 0 for t in range(4)
        ]
    loss_form = losses.LossForm(tau_easy, tau_hard, similarity, denominator, "batch" if pooled and shared else "roi")
    contributes = sides.any(-1).t() if shared else None
    products = losses.compare_with_queries(cells, losses.query_weights(sides), contributes, False)
    got = losses.contrastive_terms(losses.similarities(*products, similarity), drawn, loss_form)
    assert got.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("detached", [True, False])
def test_products_have_the_gradient_of_their_formula(shared, detached):
    torch.manual_seed(1)
    cells = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(3, 6, 2, dtype=torch.float64)
    contributes = torch.tensor([[True, False], [True, True], [True, True]]) if shared else None
    factors = [
        torch.randn(1 if shared else 3, 2, 4, dtype=torch.float64),
        torch.randn(3, 6, 2, dtype=torch.float64),
        torch.randn(3, 6, 1, dtype=torch.float64),
    ]

    def formula(c):
        own = torch.einsum("rps,rpc->rsc", weights, c)
        queries = own
        if shared:
            share = contributes.double() / contributes.sum(0)
            queries = (own * share[..., None]).sum(0, keepdim=True)
        if detached:
            queries = queries.detach()
        return queries, torch.einsum("rpc,rsc->rps", c, queries.expand(3, -1, -1)), c.square().sum(-1, keepdim=True)

    ours = losses.compare_with_queries(cells, weights, contributes, detached)
    theirs = formula(cells)
    for got, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(got, expected.to(got))
    terms = list(zip(ours, theirs, factors, strict=True))[1 if detached else 0 :]
    (gradient,) = torch.autograd.grad(sum((o * f).sum() for o, _, f in terms), cells)
    (expected,) = torch.autograd.grad(sum((t * f).sum() for _, t, f in terms), cells)
    assert torch.allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("form", [PAPER, RELEASED])
def test_empty_sets_give_finite_losses_and_gradients(form):
    _, masks, drawn, cells = random_case(0)
    sides = torch.stack([masks, ~masks]).flatten(2)
    for empty in (slice(0, 1), slice(1, 2), slice(0, 4), slice(1, 4)):
        keys = drawn.clone()
        keys[empty] = False
        leaf = cells.clone().requires_grad_()
        products = losses.compare_with_queries(leaf, losses.query_weights(sides), sides.any(-1).t(), False)
        loss = losses.contrastive_terms(
            losses.similarities(*products, form["similarity"]), keys, losses.LossForm(0.3, 0.7, **form)
        )
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert torch.isfinite(leaf.grad).all()
        if empty == slice(0, 4):
            assert loss.sum() == 0


def test_zero_and_equal_vectors_have_similarity_zero_and_bounded_gradients():
    for form in ("cosine", "centred"):
        cells = torch.zeros(1, 3, 4)
        cells[0, 0, 0] = cells[0, 1, 0] = 2.0
        cells.requires_grad_()
        weights = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
        products = losses.compare_with_queries(cells, weights, torch.ones(1, 2, dtype=torch.bool), False)
        cosines = losses.similarities(*products, form)
        cosines.sum().backward()
        assert cosines[0, 0, 2].abs() == (0 if form == "cosine" else 1)
        if form == "centred":
            assert cosines[0, 0, 0] == 0
        assert cells.grad.abs().max() < 10


def test_temperatures_near_zero_do_not_overflow():
    cells, member = keys_of(5, 50)
    for query in ([1.0, 0.0], [-1.0, 0.0]):
        for form in (PAPER, RELEASED):
            assert torch.isfinite(terms(cells, member, torch.tensor(query), 0.005, **form)).all()


def test_warm_up_of_the_weight():
    steps = [losses.warmup_weight(epoch, "steps", 4) for epoch in (0, 0.9, 1, 2.5, 3, 4, 11)]
    assert steps == [0.25, 0.25, 0.25, 0.5, 0.75, 1, 1]
    linear = [losses.warmup_weight(epoch, "linear", 4) for epoch in (0, 2, 4, 11)]
    assert linear == [0.25, 0.625, 1, 1]
    assert losses.warmup_weight(0, "linear", 0) == losses.warmup_weight(0, "steps", 0) == 1


def test_terms_pair_the_intended_sets():
    pairs = [(query, positives, negatives) for query, positives, negatives, _ in losses.TERMS]
    assert pairs == [
        (partition.FOREGROUND, partition.EASY_POSITIVE, partition.EASY_NEGATIVE),
        (partition.FOREGROUND, partition.HARD_POSITIVE, partition.HARD_NEGATIVE),
        (partition.BACKGROUND, partition.EASY_NEGATIVE, partition.EASY_POSITIVE),
        (partition.BACKGROUND, partition.HARD_NEGATIVE, partition.HARD_POSITIVE),
    ]
