"""Compare GrabCut with a worked example (`tests/golden_comparison/grabcut`): OpenCV's labels, pixel by pixel.

No authors' code is known. All is read from the fixture: images, boxes, crops and labels to begin with.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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
        yield from fixture.checks


def _check(f):
    image = f.expected("image_rgb").astype(np.uint8)
    box = tuple(f.expected("box_xyxy").tolist())
    rule = cut.Rule()
    crop = cut.region(box, image.shape, rule)
    f.equal("crop_xyxy", np.array(crop))
    # From here on by the fixture's own crop, so that another one fails its own line alone.
    crop = left, top, right, bottom = tuple(f.expected("crop_xyxy").tolist())
    begun = cut.label_map(box, crop, rule)
    centred = cut.label_map(box, crop, replace(rule, centre=CENTRE))
    f.equal("crop_label_map", begun)
    f.equal("centre_label_map", centred)
    inside = image[top:bottom, left:right]

    everywhere = cut.label_map(box, (0, 0, image.shape[1], image.shape[0]), rule)
    labels, background, found = cut.cut(image, everywhere)
    _labels(f, "rect_labels", labels)
    if (labels == f.expected("rect_labels")).all():  # models are of the labels
        f.close("rect_bgd_model", background, MODELS)
        f.close("rect_fgd_model", found, MODELS)
    for array in f.arrays:
        if turns := re.fullmatch(r"crop_labels_iter(\d+)", array):
            _labels(f, array, cut.cut(inside, begun, int(turns[1]))[0])
    _labels(f, "crop_labels", cut.cut(inside, begun)[0])
    _labels(f, "crop_labels_bgr", cut.cut(inside[..., ::-1], begun)[0])
    _labels(f, "centre_labels", cut.cut(inside, centred)[0])
    weak = f.expected("weak_image_rgb").astype(np.uint8)
    _labels(f, "weak_crop_labels", cut.cut(weak[top:bottom, left:right], begun)[0])
    theirs = f.expected("flat_labels")
    uniform = np.full((*theirs.shape, 3), 128, np.uint8)
    _labels(f, "flat_labels", cut.cut(uniform, np.where(theirs == 0, 0, 3).astype(np.uint8))[0])

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


def _labels(f, array, ours):
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
