"""What boxes tell of masks: extents, and rows and columns touched, of masks painted by hand."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.tasks.instances import extents

BOX = [4, 6, 10, 8]  # x, y, width, height


def painted(x, y, width, height):
    mask = np.zeros((20, 20), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    encoded = coco_mask.encode(mask)
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


@pytest.mark.parametrize(
    "mask, extent, projection",
    [(BOX, 1, 1), ([4, 6, 5, 8], 0.5, 13 / 18), ([4, 6, 20 - 4, 8], 80 / 128, 1), ([0, 0, 2, 2], 0, 0)],
)
def test_a_mask_that_fills_half_fills_and_leaves_its_box(mask, extent, projection):
    assert extents.extent(BOX, painted(*mask)) == pytest.approx(extent)
    assert extents.projection(BOX, painted(*mask)) == pytest.approx(projection)


def test_a_diagonal_touches_every_row_and_column():
    mask = coco_mask.encode(np.asfortranarray(np.eye(20, dtype=np.uint8)))
    assert extents.extent([0, 0, 20, 20], mask) == extents.projection([0, 0, 20, 20], mask) == 1


def test_an_empty_mask_reaches_nowhere():
    mask = coco_mask.encode(np.zeros((20, 20), np.uint8, order="F"))
    assert extents.extent(BOX, mask) == extents.projection(BOX, mask) == 0


def test_objects_are_found_once_by_the_most_confident_of_their_class(tmp_path):
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "none"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 3, 3], "iscrowd": 0},
            {"id": 3, "image_id": 1, "category_id": 2, "bbox": BOX, "iscrowd": 0},
            {"id": 4, "image_id": 1, "category_id": 2, "bbox": BOX, "iscrowd": 1},
        ],
    }
    truth.createIndex()

    def detection(score, category, mask, box=BOX):
        return {"image_id": 1, "category_id": category, "score": score, "bbox": box, "segmentation": painted(*mask)}

    detections = [detection(0.3, 1, BOX), detection(0.9, 1, [4, 6, 5, 8]), detection(0.9, 2, BOX, [12, 12, 8, 8])]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(detections))
    expected = {
        "a": {"objects": 2, "found": 1, "extent": 50, "projection": pytest.approx(1300 / 18)},
        "b": {"objects": 1, "found": 0, "extent": None, "projection": None},
    }
    assert extents.measure(truth, detections) == extents.measure(truth, path) == expected
