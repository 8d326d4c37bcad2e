"""Where numbers stop meaning anything: directions of short vectors, spans of flat maps."""

import pytest
import torch

from pipeline.methods.contrastmask import losses
from pipeline.methods.shared import cam


def similarity(key, query, form):
    """Of one key and one query."""
    cells, queries = torch.tensor([[key]]), torch.tensor([[query, query]])
    products = queries, cells @ queries.transpose(1, 2), cells.square().sum(-1, keepdim=True)
    return losses.similarities(*products, form)[0, 0, 0].item()


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("distance", "defined"), [(1e-4, False), (1e-3, False), (2e-3, True), (1e-1, True)])
def test_a_key_nearly_equal_to_the_query_has_no_direction(length, distance, defined):
    """Float32 rounding of |k - q|^2 is about 1e-7 of |k|^2 + |q|^2; ten times that is the limit, 1.4e-3 of a length."""
    query, key = [length, 0.0], [length * (1 + distance), 0.0]
    assert similarity(key, query, "centred") == (pytest.approx(1, abs=5e-2) if defined else 0)


@pytest.mark.parametrize(("length", "defined"), [(5e-4, False), (2e-3, True), (1.0, True)])
def test_a_key_that_is_nothing_beside_the_query_has_no_direction(length, defined):
    expected = pytest.approx(0.6, rel=1e-3) if defined else 0
    assert similarity([0.6 * length, 0.8 * length], [1.0, 0.0], "cosine") == expected


@pytest.mark.parametrize("factor", [0.1, 3.0, 50.0])
def test_the_length_of_the_query_does_not_matter_to_the_cosine(factor):
    """So the divisor of the mean over RoIs in Eq. 2 does not either (D11b)."""
    key, query = [0.3, -0.4], [1.0, 0.5]
    scaled = [factor * value for value in query]
    assert similarity(key, scaled, "cosine") == pytest.approx(similarity(key, query, "cosine"), rel=1e-6)
    assert similarity(key, scaled, "centred") != pytest.approx(similarity(key, query, "centred"), rel=1e-2)


@pytest.mark.parametrize("level", [-40.0, 1.0, 1000.0])
@pytest.mark.parametrize(("span", "is_prior"), [(3e-7, False), (1e-5, True), (1.0, True)])
def test_a_map_whose_span_is_rounding_is_no_prior(level, span, is_prior):
    maps = torch.full((1, 1, 2, 2), level)
    maps[0, 0, 0, 0] += abs(level) * span
    scaled, told = cam.min_max_normalise(maps)
    assert told.tolist() == [is_prior]
    assert sorted(scaled.flatten().tolist()) == ([0, 0, 0, 1] if is_prior else [0, 0, 0, 0])


def test_a_small_map_away_from_zero_is_judged_by_its_own_size():
    maps = torch.tensor([1e-9, 2e-9, 3e-9, 5e-9]).view(1, 1, 2, 2)
    scaled, told = cam.min_max_normalise(maps)
    assert told.all()
    assert scaled.flatten().tolist() == pytest.approx([0, 0.25, 0.5, 1], rel=1e-5)
