"""GrabCut (Rother et al., SIGGRAPH 2004) from a box to a mask: functions on arrays, the only ones of their kind here.

Colours outside of a box teach the background, those inside probably the object; five Gaussians for each are fitted and
the boundary cut, in turns. Nothing is trained. The first fit is random: OpenCV's generator is seeded before each call,
so that the same pixels give the same mask, in every process and thread.
"""

from dataclasses import asdict, dataclass

import cv2
import numpy as np

SEED = 0
ITERATIONS = 5
MODEL = (1, 65)  # five Gaussians of three colours: weight, mean, covariance
FOUND = (cv2.GC_FGD, cv2.GC_PR_FGD)


@dataclass(frozen=True)
class Rule:
    """From a box to its mask, of the recipe of Mask GrabCut (no authors' code is known; the numbers are ours).

    Attributes:
        margin, least_margin: context around the box, a share of its side and pixels, whichever is more.
        iterations: turns of fitting and cutting.
        centre: share of the box's sides whose centre is object for certain; 0 for none.
        least_share: of the box; a mask that covers less is given up for the whole box.
        smallest: boxes with a side below this many pixels are not cut.
    """

    margin: float = 0.25
    least_margin: int = 10
    iterations: int = ITERATIONS
    centre: float = 0.0
    least_share: float = 0.05
    smallest: int = 8

    def identity(self) -> dict:
        """All that a mask depends on beside image and box, as plain data."""
        return asdict(self) | {"seed": SEED, "opencv": cv2.__version__}


def whole_box(box, shape) -> tuple[int, int, int, int]:
    """Round a box (x1, y1, x2, y2) to pixels of an image of `shape` [H, W, ..], half open, one pixel at least.

    A number that is not finite counts as 0: whoever writes detections down refuses it.
    """
    height, width = shape[:2]
    x1, y1, x2, y2 = (int(round(float(number))) if np.isfinite(number) else 0 for number in box)
    x1, y1 = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return x1, y1, min(max(x2, x1 + 1), width), min(max(y2, y1 + 1), height)


def filled(shape, box) -> np.ndarray:
    """The pixels [H, W] bool whose centres a box (x1, y1, x2, y2) encloses; at least one of those in the image."""
    x1, y1, x2, y2 = whole_box(box, shape)
    mask = np.zeros(shape[:2], bool)
    mask[y1:y2, x1:x2] = True
    return mask


def region(box, shape, rule: Rule) -> tuple[int, int, int, int]:
    """The crop (x1, y1, x2, y2) around a whole box, with context on each side where the image has some."""
    x1, y1, x2, y2 = box
    wide, tall = (max(rule.least_margin, round(rule.margin * side)) for side in (x2 - x1, y2 - y1))
    return max(0, x1 - wide), max(0, y1 - tall), min(shape[1], x2 + wide), min(shape[0], y2 + tall)


def label_map(box, crop, rule: Rule) -> np.ndarray:
    """Labels to begin with, [h, w] uint8 of a crop: background outside of the box, probably the object inside.

    Args:
        box, crop: (x1, y1, x2, y2) in pixels of the image, whole.
        rule: `centre` of it.
    """
    x1, y1, x2, y2 = box
    left, top, right, bottom = crop
    labels = np.full((bottom - top, right - left), cv2.GC_BGD, np.uint8)
    labels[y1 - top : y2 - top, x1 - left : x2 - left] = cv2.GC_PR_FGD
    if rule.centre:
        rows, columns = (
            slice(first + round((1 - rule.centre) / 2 * side), first + round((1 + rule.centre) / 2 * side))
            for first, side in ((y1 - top, y2 - y1), (x1 - left, x2 - x1))
        )
        labels[rows, columns] = cv2.GC_FGD
    return labels


def cut(pixels, labels, iterations=ITERATIONS):
    """Let GrabCut refine labels.

    Args:
        pixels: [h, w, 3] uint8.
        labels: [h, w] uint8 to begin with, OpenCV's: 0 background, 1 object, 2 and 3 probably so. Not changed.
        iterations: turns of fitting and cutting.

    Returns:
        Labels [h, w] uint8 and the models of background and object, [65] float64 each; None without a pixel that is
        background for certain, or with too few pixels to fit.
    """
    if not (labels == cv2.GC_BGD).any() or not np.isin(labels, FOUND).any():
        return None
    labels = labels.copy()
    models = np.zeros(MODEL), np.zeros(MODEL)
    cv2.setRNGSeed(SEED)  # of this thread
    try:
        cv2.grabCut(np.ascontiguousarray(pixels), labels, None, *models, iterations, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return None
    return labels, *(model[0] for model in models)


def is_object(labels) -> np.ndarray:
    """Where labels of `cut` say object, for certain or probably: bool."""
    return np.isin(labels, FOUND)


def segment(image, box, rule: Rule) -> np.ndarray:
    """Cut an object out of its box.

    A mask of nothing, or of almost nothing, is a usual end (a uniform object, one like its background): it becomes the
    whole box, as does what cannot be cut.

    Args:
        image: [H, W, 3] uint8 RGB.
        box: (x1, y1, x2, y2) in its pixels.
        rule: how.

    Returns:
        [H, W] bool, never empty and within the rounded box.
    """
    box = whole_box(box, image.shape)
    whole = filled(image.shape, box)
    if min(box[2] - box[0], box[3] - box[1]) < rule.smallest:
        return whole
    left, top, right, bottom = crop = region(box, image.shape, rule)
    refined = cut(image[top:bottom, left:right], label_map(box, crop, rule), rule.iterations)
    if refined is None:
        return whole
    mask = np.zeros_like(whole)
    mask[top:bottom, left:right] = is_object(refined[0])
    mask &= whole
    return mask if mask.sum() >= max(1, rule.least_share * whole.sum()) else whole
