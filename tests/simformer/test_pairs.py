"""Pair table, draws and points: what must hold of any classes and regions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.methods.simformer.pairs import BASE_LIMIT, PairTable
from pipeline.methods.simformer.points import base_points, common_classes, drawn_class, top_points

FLAGS = st.integers(2, 9).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=n, max_size=n)
)
RULES = ("one_common", "deconfounded", "random", "common_base", "novel_list")


@settings(max_examples=60, deadline=None)
@given(FLAGS, st.integers(0, 2**16))
def test_partners_are_what_their_lists_say(rows, seed):
    flags = np.array(rows)
    base, novel = flags[:, :4], flags[:, 4:]
    table = PairTable(base, novel)
    for image in range(len(flags)):
        found = table.partners(image)
        assert list(found.exact) == np.flatnonzero(novel[image]).tolist()
        exactly = {other for other in range(len(flags)) if (novel[other] & novel[image]).sum() == 1}
        for label, others in found.exact.items():
            assert set(others) == {other for other in exactly if novel[other, label]}
        several = novel[image].sum() >= 2
        assert set(found.novel) == (set(range(len(flags))) - exactly if several else set())
        assert set(found.base) == {other for other in range(len(flags)) if (base[other] & base[image]).any()}
        generator = np.random.default_rng(seed)
        for rule in RULES:
            drawn = table.draw(image, rule, 0.3, generator)
            assert 0 <= drawn < len(flags)
        drawn = table.draw(image, "deconfounded", 0.0, generator)
        if drawn != image:
            assert drawn in (exactly if several else set(found.base))
        elif not several:
            assert set(found.base) <= {image}


def test_a_list_over_its_limit_is_a_uniform_sample_always_the_same():
    table = PairTable(np.ones((400, 1), dtype=bool), np.zeros((400, 1), dtype=bool))
    first = table.partners(7).base
    assert len(first) == BASE_LIMIT and np.array_equal(first, table.partners(7).base)
    counts = np.bincount(np.concatenate([table.partners(image).base for image in range(400)]), minlength=400)
    assert counts.min() > 20 and counts.max() < 90  # 50 each, within chance
    assert len(PairTable(table.base, table.novel, limits=None).partners(7).base) == 400


def test_the_rare_class_is_taken_as_often_as_is_asked_for():
    novel = np.array([[1, 1], [1, 0], [1, 0], [1, 0], [0, 1]], dtype=bool)
    table, generator = PairTable(np.ones((5, 1), dtype=bool), novel), np.random.default_rng(0)
    for share, expected in ((0.0, 0.5), (1.0, 1.0)):
        found = np.mean([table.draw(0, "deconfounded", share, generator) == 4 for _ in range(400)])
        assert found == pytest.approx(expected, abs=0.08)


def test_an_unknown_rule_and_tables_that_do_not_fit_are_refused():
    table = PairTable(np.ones((2, 1), dtype=bool), np.ones((2, 1), dtype=bool))
    with pytest.raises(ValueError, match="unknown rule 'Deconf'"):
        table.draw(0, "Deconf", 0.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="not one table each"):
        PairTable(np.ones((2, 1), dtype=bool), np.ones((3, 1), dtype=bool))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 64), st.integers(0, 2**16))
def test_points_lie_in_their_region_as_long_as_there_is_room(count, size, seed):
    generator = torch.Generator().manual_seed(seed)
    region = torch.zeros(1, 64, dtype=torch.bool)
    region[0, torch.randperm(64, generator=generator)[:size]] = True
    points = top_points(region.view(1, 8, 8), torch.rand(1, 8, 8, generator=generator), count)
    assert len(points[0].unique()) == count
    assert int(region[0, points[0]].sum()) == min(size, count)


def test_points_are_drawn_uniformly_from_the_region():
    region = torch.zeros(1, 8, 8, dtype=torch.bool)
    region[0, :4] = True
    generator = torch.Generator().manual_seed(0)
    drawn = [top_points(region, torch.rand(1, 8, 8, generator=generator), 4)[0] for _ in range(800)]
    counts = torch.bincount(torch.cat(drawn), minlength=64)
    assert not counts[32:].any() and counts[:32].min() > 60 and counts[:32].max() < 140  # 100 each


@pytest.mark.parametrize("points, expected", [(100, (80, 20)), (16, (12, 3)), (50, (40, 10)), (150, (120, 30))])
def test_four_fifths_are_of_the_region(points, expected):
    region = torch.zeros(1, 16, 16, dtype=torch.bool)
    region[0, :8] = True
    found = base_points(region, ~region, (torch.rand(1, 16, 16),) * 2, points)
    assert found.shape[1] == sum(expected) and int((found < 128).sum()) == expected[0]


def test_the_class_is_drawn_from_the_common_ones_alone():
    has_class = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    common = common_classes(has_class)
    generator = torch.Generator().manual_seed(0)
    drawn = [drawn_class(common, torch.rand(2, 4, generator=generator)) for _ in range(200)]
    chosen = torch.stack([classes for classes, _ in drawn])
    assert set(chosen[:, 0].tolist()) == {1, 3} and 60 < int((chosen[:, 0] == 1).sum()) < 140
    assert drawn[0][1].tolist() == [True, False]
