"""Mask GrabCut at test time: the detector of boxes, whose detections GrabCut turns into masks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from mmdet.models.builder import DETECTORS
from mmdet.models.detectors import FasterRCNN

from pipeline.errors import ExperimentError
from pipeline.hardware import data_workers
from pipeline.methods.grabcut import cut


@DETECTORS.register_module()
class GrabCutRCNN(FasterRCNN):
    """`FasterRCNN` that gives each detection a mask, cut out of the image as it lies on disk.

    Nothing of it learns from a mask: its training is the detector's, and its state too. Scores and boxes are the
    detector's. Masks are cut by `hardware.data_workers` threads, as OpenCV holds no lock of Python meanwhile and its
    random generator belongs to a thread; their number changes no mask.

    Args:
        grabcut: `cut.Rule`.
        kwargs: as `FasterRCNN`.
    """

    def __init__(self, grabcut, **kwargs):
        super().__init__(**kwargs)
        self.rule = cut.Rule(**grabcut)

    @property
    def with_mask(self):
        """Detections have masks, though no head predicts them."""
        return True

    def simple_test(self, img, img_metas, proposals=None, rescale=False):
        """Detect objects in a batch of images and cut out their masks.

        Args:
            img, img_metas, proposals: as `FasterRCNN`; `filename` of an image is read again.
            rescale: give boxes and masks in the original image; must be true, for only that is on disk.

        Returns:
            Per image (boxes per class, masks [H, W] bool per class) in MMDetection's format.

        Raises:
            ExperimentError: an image cannot be read, or is turned or of another size than when it was detected in.
        """
        if not rescale:
            raise ValueError("rescale must be true: masks are cut in the original image")
        found = super().simple_test(img, img_metas, proposals, rescale)
        return [(boxes, self.masks(boxes, meta)) for boxes, meta in zip(found, img_metas, strict=True)]

    def aug_test(self, imgs, img_metas, rescale=False):
        """As `simple_test`, of an image's augmented views."""
        found = super().aug_test(imgs, img_metas, rescale)
        return [(boxes, self.masks(boxes, meta)) for boxes, meta in zip(found, img_metas[0], strict=True)]

    def masks(self, boxes, meta):
        """Cut the detections of an image out of it: masks [H, W] bool per class.

        Args:
            boxes: per class [D, 5], (x1, y1, x2, y2, score) in pixels of the original image.
            meta: of the image.
        """
        if not sum(map(len, boxes)):
            return [[] for _ in boxes]
        image = _read(meta)
        cv2.setNumThreads(0)  # within a cut; they run side by side
        # Boxes of several categories often are the same one.
        whole = [[cut.whole_box(box[:4], image.shape) for box in of_class] for of_class in boxes]
        different = list(dict.fromkeys(box for of_class in whole for box in of_class))
        with ThreadPoolExecutor(data_workers()) as threads:
            masks = dict(
                zip(different, threads.map(lambda box: cut.segment(image, box, self.rule), different), strict=True)
            )
        return [[masks[box] for box in of_class] for of_class in whole]


def _read(meta) -> np.ndarray:
    """The image [H, W, 3] uint8 RGB that a detection was made in, as its pixels are stored."""
    path = Path(meta["filename"])
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if path.is_file() else None
    if image is None:
        raise ExperimentError(f"{path}: cannot be read as an image; GrabCut needs it beside its detections")
    if image.shape[:2] != tuple(meta["ori_shape"][:2]):
        (height, width), expected = image.shape[:2], meta["ori_shape"]
        raise ExperimentError(
            f"{path}: is {width} x {height}, but objects were detected in {expected[1]} x {expected[0]} pixels; "
            "write it again without a turn by EXIF"
        )
    return np.ascontiguousarray(image[..., ::-1])
