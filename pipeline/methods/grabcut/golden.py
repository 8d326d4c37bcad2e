"""Compare GrabCut with a worked example (`tests/golden_comparison/grabcut`): OpenCV's labels, pixel by pixel.

No authors' code is known. All is read from the fixture: images, boxes, crops and labels to begin with.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import ExperimentError
from pipeline.methods.grabcut import cut
from pipeline.methods.shared.golden import Check, Fixture, fixture_files, holds, load_arrays

PIXELS = 0.005  # share of the pixels of a crop that may be labelled otherwise: the first fit is random
MODELS = 1e-5  # of the largest absolute value
CENTRE = 0.2  # of the example with a certain centre


def verify(directory: Path) -> Iterator[Check]:
    """Check every fixture in a directory.

    Args:
        directory: holds `grabcut.npz`.

    Yields:
        One result per array.

    Raises:
        ExperimentError: there is no fixture, an unknown one, or one that cannot be read or lacks an array.
    """
    for file in fixture_files(directory):
        if file.name != "grabcut.npz":
            raise ExperimentError(f"{file}: unknown fixture; known is grabcut.npz")
        fixture = Fixture(file.name, load_arrays(file), file.parent)
        _check(fixture)
        if file.suffix == ".npz":
            fixture.tell_unread()
        yield from fixture.checks


def _check(f):
    image = f.expected("image_rgb").astype(np.uint8)
    box = tuple(f.expected("box_xyxy").tolist())
    rule = cut.Rule()
    _fitting(f, "crop_xyxy", _crops(box, image.shape, rule))
    # From here on by the fixture's own crop and centre, so that another one fails its own line alone.
    crop = left, top, right, bottom = tuple(f.expected("crop_xyxy").tolist())
    begun = cut.label_map(box, crop, rule)
    f.equal("crop_label_map", begun)
    _fitting(f, "centre_label_map", _centred(box, crop, rule))
    centred = f.expected("centre_label_map").astype(np.uint8)
    inside = image[top:bottom, left:right]

    everywhere = cut.label_map(box, (0, 0, image.shape[1], image.shape[0]), rule)
    labels, background, found = cut.cut(image, everywhere) or (None, None, None)
    _labels(f, "rect_labels", labels)
    if labels is not None and (labels == f.expected("rect_labels")).all():  # models are of the labels
        f.close("rect_bgd_model", background, MODELS)
        f.close("rect_fgd_model", found, MODELS)
    for array in f.arrays:
        if turns := re.fullmatch(r"crop_labels_iter(\d+)", array):
            _labels(f, array, _cut(inside, begun, int(turns[1])))
    _labels(f, "crop_labels", _cut(inside, begun))
    _labels(f, "crop_labels_bgr", _cut(inside[..., ::-1], begun))
    _labels(f, "centre_labels", _cut(inside, centred))
    weak = f.expected("weak_image_rgb").astype(np.uint8)
    _labels(f, "weak_crop_labels", _cut(weak[top:bottom, left:right], begun))
    theirs = f.expected("flat_labels")
    uniform = np.full((*theirs.shape, 3), 128, np.uint8)
    _labels(f, "flat_labels", _cut(uniform, np.where(theirs == 0, 0, 3).astype(np.uint8)))

    expected = f.expected("crop_mask")
    # What is cut away from almost all of the box is the whole box, which the raw mask of the example is not.
    if expected.sum() >= rule.least_share * cut.filled(image.shape, box).sum():
        _pixels(f, "crop_mask", cut.segment(image, box, rule), expected, inside.shape[:2])
    for name, picture, known in (("weak", weak, "weak_crop_labels"), ("flat", uniform, "flat_labels")):
        if not cut.is_object(f.expected(known)).any():
            rows, columns = np.nonzero(theirs)
            place = box if name == "weak" else (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            mask = cut.segment(picture, place, rule)
            f.holds(f"{name}: the whole box", (mask == cut.filled(picture.shape, place)).all())


def _crops(box, shape, rule):
    """What "a quarter of the side" may mean: our rounding first."""
    x1, y1, x2, y2 = box
    for whole in (round, math.floor, math.ceil):
        wide, tall = (max(rule.least_margin, whole(rule.margin * side)) for side in (x2 - x1, y2 - y1))
        yield max(0, x1 - wide), max(0, y1 - tall), min(shape[1], x2 + wide), min(shape[0], y2 + tall)


def _centred(box, crop, rule):
    """Labels with a centre that is certain: ours first, then what is left of the box within a margin."""
    yield cut.label_map(box, crop, replace(rule, centre=CENTRE))
    x1, y1, x2, y2 = (side - first for side, first in zip(box, crop[:2] * 2, strict=True))
    for whole in (round, math.floor):
        labels = cut.label_map(box, crop, rule)
        wide, tall = (whole((1 - CENTRE) / 2 * side) for side in (x2 - x1, y2 - y1))
        labels[y1 + tall : y2 - tall, x1 + wide : x2 - wide] = cv2.GC_FGD
        yield labels


def _fitting(f, array, candidates):
    """Compare with that of several readings of the text which fits; where none does, with ours, the first."""
    candidates = [np.array(each) for each in candidates]
    f.equal(array, next((each for each in candidates if np.array_equal(each, f.expected(array))), candidates[0]))


def _cut(pixels, labels, *iterations):
    found = cut.cut(pixels, labels, *iterations)
    return found and found[0]


def _labels(f, array, ours):
    if ours is None:
        f.holds(array, False, "(ours cannot cut)")
        f.expected(array)
        return
    _pixels(f, array, ours, f.expected(array), f.expected(array).shape)


def _pixels(f, array, ours, theirs, crop):
    """Compare labels or masks; so many pixels of a crop may differ."""
    if ours.shape != theirs.shape:
        f.checks.append(holds(f.name, array, False, f"(shape {ours.shape}, expected {theirs.shape})"))
        return
    wrong, allowed = int((ours != theirs).sum()), PIXELS * np.prod(crop)
    note = f"({wrong} of {theirs.size} differ)" if wrong else ""
    share = wrong / theirs.size
    f.checks.append(Check(f.name, array, wrong, share, allowed, wrong / allowed, wrong <= allowed, note))
