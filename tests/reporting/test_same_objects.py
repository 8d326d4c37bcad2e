"""The same objects by every method: chosen by how much methods differ, from most to the median."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle

from pipeline.artifacts import paths
from pipeline.reporting import figures, same_objects
from pipeline.tasks.instances import examples

from .conftest import SIZE
from .test_figures import GROUPS, declare, drawn

PERSON, ZEBRA = 1, 24
RUNS = [{"label": "Baseline", "run": "plain"}, {"label": "Ours", "run": "ours"}]


def record(image_id, right, category=PERSON, score=0.9, box=(2, 2, 9, 9)):
    """A prediction whose mask covers the rows of the object up to a column."""
    mask = np.zeros((SIZE, SIZE), np.uint8, order="F")
    mask[2:11, 2:right] = 1
    counts = rle.encode(mask)["counts"].decode()
    segmentation = {"size": [SIZE, SIZE], "counts": counts}
    return {"image_id": image_id, "category_id": category, "score": score, "bbox": box, "segmentation": segmentation}


@pytest.fixture
def images(workspace):
    """Five images of a novel object each, on which the methods differ the more the higher the id."""
    workspace.everything()
    workspace.validation_set({i: [(PERSON, 0.2, 0), (ZEBRA, 0.2, 0)] for i in range(1, 6)})
    workspace.write(paths.predictions("toy", "plain", 0), json.dumps([record(i, 11 - i) for i in range(1, 6)]))
    workspace.write(paths.predictions("toy", "ours", 0), json.dumps([record(i, 11) for i in range(1, 6)]))
    declare("same", "same_objects", runs=RUNS, objects=3, min_score=0.5)
    return workspace


def found():
    predictions = [figures.measured.predictions("toy", figures.experiments.load().runs[r["run"]]) for r in RUNS]
    return same_objects.objects(examples.load_ground_truth("toy"), GROUPS, predictions, 0.5)


def test_objects_are_those_at_even_ranks_from_the_largest_difference_to_the_median(images):
    figure, caption = drawn("same")
    assert "Of the 5 novel objects" in caption and "images 5, 4, 3)" in caption
    assert "3 at even ranks from the one that differs most to the median one" in caption
    assert [axis.get_title() for axis in figure.axes[:3]] == ["truth", "Baseline", "Ours"]
    assert [axis.get_ylabel() for axis in figure.axes] == ["person", "", ""] * 3
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert texts == [f"IoU {each:.2f}" for i in (5, 4, 3) for each in found()[i - 1].ious]


def test_the_caption_gives_the_mean_over_all_of_them(images):
    means = np.mean([each.ious for each in found()], axis=0)
    assert f"Mean IoU over the 5: Baseline {means[0]:.2f}, Ours {means[1]:.2f}." in drawn("same")[1]


@pytest.mark.parametrize(
    "change",
    [{"category": ZEBRA}, {"score": 0.4}, {"box": (12, 12, 5, 5)}],
    ids=["another category", "a low score", "a box elsewhere"],
)
def test_an_object_that_a_method_does_not_find_is_none_of_them(images, change):
    records = [record(i, 11, **(change if i == 5 else {})) for i in range(1, 6)]
    images.write(paths.predictions("toy", "ours", 0), json.dumps(records))
    assert [each.annotation["image_id"] for each in found()] == [1, 2, 3, 4]


def test_the_mask_is_that_of_the_box_that_fits_best(images):
    records = [record(1, 4, score=0.99, box=(2, 2, 7, 9)), record(1, 11, score=0.6)]
    images.write(paths.predictions("toy", "ours", 0), json.dumps(records))
    (only,) = found()
    assert only.ious[1] > 0.9


def test_no_object_that_all_find_is_said(images):
    images.write(paths.predictions("toy", "ours", 0), "[]")
    figures.build_figure("same")
    assert "Nothing to draw: every method finds no novel object of toy" in figures.saved_caption("same", "toy")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 6))
def test_any_number_of_objects_gives_the_largest_first_and_none_twice(spreads, count):
    all_of_them = [same_objects.Object({"id": i}, None, (), (0.0, value)) for i, value in enumerate(spreads)]
    chosen = same_objects.choose(all_of_them, count)
    assert chosen[0].spread == max(spreads) and len({each.annotation["id"] for each in chosen}) == len(chosen) <= count
    assert all(first.spread >= second.spread for first, second in zip(chosen, chosen[1:], strict=False))
    assert chosen[-1].spread >= np.percentile(spreads, 50, method="lower")


@given(st.integers(0, 90), st.integers(0, 90), st.integers(1, 60), st.integers(1, 60))
def test_the_window_is_a_square_inside_the_picture_around_the_object(x, y, width, height):
    (left, right), (top, bottom) = same_objects._window((x, y, width, height), (160, 170, 3))
    assert right - left == pytest.approx(bottom - top)
    assert -0.5 <= left and right <= 169.5 and -0.5 <= top and bottom <= 159.5
    assert left + 0.5 <= x and right + 0.5 >= x + width and top + 0.5 <= y and bottom + 0.5 >= y + height
