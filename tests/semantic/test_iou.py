"""Counts of pixels and what is made of them, against counting one by one and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix, jaccard_score

from pipeline.tasks.semantic import iou

K = 5
LABELS = st.sampled_from([*range(K), iou.IGNORE])
SHAPE = st.shared(st.tuples(st.integers(1, 6), st.integers(1, 6)), key="shape")


def maps(dtype):
    return arrays(dtype, SHAPE, elements=LABELS)


@pytest.mark.parametrize("types", [(np.uint8, np.uint8), (np.int64, np.int64), (np.uint8, np.int64)])
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_counts_are_those_of_pixel_by_pixel(types, data):
    prediction, truth = (data.draw(maps(dtype)) for dtype in types)
    expected = np.zeros((K + 1, K), np.int64)
    for predicted, true in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if true != iou.IGNORE:
            expected[K if predicted == iou.IGNORE else predicted, true] += 1
    found = iou.counts(prediction, truth, K)
    assert found.dtype == np.int64 and (found == expected).all()
    assert (iou.confusion(prediction, truth, K) == expected[:K]).all()


@settings(deadline=None, max_examples=50)
@given(prediction=arrays(np.uint8, SHAPE, elements=st.integers(0, K - 1)), truth=maps(np.uint8))
def test_it_is_scikit_learns_matrix_and_jaccard_score(prediction, truth):
    known = truth != iou.IGNORE
    found = iou.confusion(prediction, truth, K)
    if not known.any():
        assert not found.any()
        return
    assert (found.T == confusion_matrix(truth[known], prediction[known], labels=range(K))).all()
    scores = iou.summary(found, [0, 1, 2], [3, 4])
    expected = 100 * jaccard_score(truth[known], prediction[known], labels=range(K), average=None, zero_division=0)
    present = np.isin(range(K), truth[known])
    assert np.allclose(scores["iou"][present], expected[present]) and np.isnan(scores["iou"][~present]).all()
    assert scores["mIoU"] == pytest.approx(expected[present].mean())


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("wrong", ["prediction", "truth"])
def test_a_value_that_is_no_class_is_refused(dtype, wrong):
    given = {"prediction": np.zeros((2, 2), dtype), "truth": np.zeros((2, 2), dtype)}
    given[wrong][0, 0] = K
    with pytest.raises(ValueError, match=f"below {K} nor 255"):
        iou.counts(**given, num_classes=K)
    with pytest.raises(ValueError, match="pixels"):
        iou.counts(np.zeros((2, 2)), np.zeros((2, 3)), K)


def test_a_pixel_without_prediction_is_a_miss():
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    scores = iou.summary(iou.counts(np.array([[0, 255, 1, 0]], np.uint8), truth, 3), [0], [1, 2])
    assert scores["iou"][:2] == pytest.approx([100 / 3, 50]) and scores["pixel_accuracy"] == 50
    assert scores["accuracy"][:2] == pytest.approx([50, 50])


def test_means_are_over_classes_that_occur_whether_or_not_others_are_predicted():
    """The released evaluator divides its overall mean by those that are predicted only as well."""
    truth, prediction = np.array([0, 0, 0, 1], np.uint8), np.array([0, 2, 2, 1], np.uint8)
    scores = iou.summary(iou.counts(prediction, truth, 4), [0, 3], [1, 2])
    assert np.isnan(scores["iou"][2:]).all()
    assert scores["novel_mIoU"] == 100 and scores["base_mIoU"] == pytest.approx(100 / 3)
    assert scores["mIoU"] == pytest.approx((100 + 100 / 3) / 2)
    assert scores["frequency_weighted_IoU"] == pytest.approx(0.75 * 100 / 3 + 0.25 * 100)


def test_more_pixels_than_float32_counts_are_counted_exactly(monkeypatch):
    prediction, truth = (np.random.default_rng(seed).integers(0, K, 1000).astype(np.uint8) for seed in (0, 1))
    whole = iou.counts(prediction, truth, K)
    monkeypatch.setattr(iou, "EXACT", 7)
    assert (iou.counts(prediction, truth, K) == whole).all()


def test_nothing_to_count_is_undefined_and_no_number():
    scores = iou.summary(np.zeros((3, 3), int), [0, 1], [2])
    assert all(np.isnan(value).all() for value in scores.values())
    assert np.isnan(iou.summary(np.ones((2, 2), int), [0, 1], [])["novel_mIoU"])
