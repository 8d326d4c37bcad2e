"""Intervals of what classes without masks reach, against hand values and against draws; table, sentences and figure."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.reporting import expectation
from pipeline.reporting.expectation import Expectation, of_mean, predicted, predicted_from_boxes

T2 = 4.302653  # Student's t of 2 degrees of freedom, 97.5 %


def test_intervals_of_three_classes_by_hand():
    values = [40, 50, 60]  # mean 50, standard deviation 10
    assert of_mean(values) == pytest.approx((50, 50 - T2 * 10 / 3**0.5, 50 + T2 * 10 / 3**0.5), rel=1e-5)
    half = T2 * 10 * (1 / 3 + 1 / 2) ** 0.5
    assert predicted(values, 2) == pytest.approx((50, 50 - half, 50 + half), rel=1e-5)
    assert predicted([0, 50, 100], 1)[1:] == (0, 100)  # an AP is no more


@pytest.mark.parametrize("count", [1, 4, 30])
def test_nineteen_of_twenty_means_of_other_classes_are_inside(count):
    rng = np.random.default_rng(count)
    draws = rng.normal(50, 6, size=(1500, 5 + count))
    inside = np.mean([row[5:].mean() in predicted(row[:5], count) for row in draws])
    assert 0.93 < inside < 0.97
    if count == 4:  # what a confidence interval is not for
        assert np.mean([row[5:].mean() in of_mean(row[:5]) for row in draws]) < 0.9


def test_nineteen_of_twenty_means_are_inside_where_boxes_say_how_hard_classes_are():
    rng = np.random.default_rng(0)
    boxes, parts = rng.uniform(20, 80, size=(1500, 9)), rng.normal(0.6, 0.05, size=(1500, 9))
    masks = boxes * parts
    intervals = [predicted_from_boxes(m[:5], b[:5], b[5:]) for m, b in zip(masks, boxes, strict=True)]
    assert 0.93 < np.mean([m[5:].mean() in i for m, i in zip(masks, intervals, strict=True)]) < 0.97
    plain = [predicted(m[:5], 4) for m in masks]
    widths = [[i.high - i.low for i in each] for each in (intervals, plain)]
    assert np.mean(widths[0]) < 0.5 * np.mean(widths[1])


def test_a_constant_part_of_the_box_leaves_no_doubt_and_no_box_no_part():
    assert predicted_from_boxes([10, 20, 30], [20, 40, 60], [50, 70]) == pytest.approx((30, 30, 30))
    assert predicted_from_boxes([10, 20, 30], [20, 0, 60], [50]) is None


def numbers(mask, box):
    return {"mask": mask, "box": box, "objects": 4, "found": 3, "extent": 70.0, "projection": 90.0}


@pytest.fixture(params=["measured", "without masks"])
def made(request):
    """Of four base classes in two groups, and two novel ones, with and without validation masks."""
    truth = 30.0 if request.param == "measured" else None
    plan = SimpleNamespace(
        dataset="toy",
        run=SimpleNamespace(method="contrastmask"),
        groups=(("a", "b"), ("c", "d")),
        measured=("x", "y"),
        kept={"e": "no validation object"},
        seed=3,
    )
    full = {name: numbers(50.0, 60.0) for name in "abcd"}
    measured = {
        (): full | {"x": numbers(truth, 55.0), "y": numbers(truth, 45.0)},
        ("a", "b"): {"a": numbers(30.0, 60.0), "b": numbers(34.0, 60.0), "c": numbers(99.0, 99.0)},
        ("c", "d"): {"c": numbers(26.0, 50.0), "d": numbers(30.0, 50.0)},
    }
    return Expectation(plan, measured), truth


def test_each_class_is_told_from_the_training_that_it_lost_its_masks_in(made):
    found, truth = made
    assert found.masks == [30, 34, 26, 30] and found.novel.mean == 30 and found.truth == truth
    table = found.table().set_index("class")
    assert table.loc["c", "mask"] == 26 and table.loc["c", "with_masks"] == 50
    assert table.loc["x", "expected"] == pytest.approx(np.mean([30 / 60, 34 / 60, 26 / 50, 30 / 50]) * 55)
    text = found.told("5 of the 10 iterations of the schedule")
    assert "Trainings of 5 of the 10 iterations" in text and "in 2 groups" in text and "seed 3" in text
    assert "Kept their masks: e (no validation object)." in text
    assert ("Measured, as validation has masks for them: 30.0, inside the interval." in text) == (truth is not None)


@pytest.mark.parametrize(("mask", "found_objects"), [(0.0, 3), (0.02, 0)])
def test_trainings_that_learned_nothing_are_told(made, mask, found_objects):
    found, _ = made
    nothing = {name: numbers(mask, 0.0) | {"found": found_objects} for name in "abcdxy"}
    text = Expectation(found.plan, dict.fromkeys(((), *found.plan.groups), nothing)).told("1 iterations")
    told = f"**The trainings are too short to tell anything**: they find {4 * found_objects} of 16 objects"
    assert told in text and "from their box AP" not in text
    assert "too short" not in found.told("1 iterations")


def test_table_and_figure_are_written(made, tmp_path):
    found, _ = made
    text = expectation.write(found, "5 iterations", tmp_path / "estimate")
    assert (tmp_path / "estimate/estimate.md").read_text() == text
    assert (tmp_path / "estimate/estimate.png").stat().st_size > 5_000
    header = (tmp_path / "estimate/estimate.csv").read_text().splitlines()[0]
    assert header == "class,group,objects,mask,with_masks,box,found,extent,projection,expected,low,high"
