"""The training steps of priors: masks of novel objects from a file, points from a file or drawn from the true masks.

Legend: G objects of an image, K points of a side, S sides: foreground, background.
"""

from pipeline import compat  # noqa: F401  # isort: skip  before anything that imports torchvision

import functools
import hashlib
import json
from typing import Annotated

import numpy as np
import torch
from mmcv.parallel import DataContainer
from mmdet.core import BitmapMasks, PolygonMasks
from mmdet.datasets.builder import PIPELINES
from pydantic import AfterValidator, ConfigDict, Field

from pipeline.declaration import strict, subsets
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import prior_points
from pipeline.methods.contrastmask.oracle_steps import complete_annotations
from pipeline.methods.contrastmask.priors import GIVEN, MASKS, POINTS, path_of
from pipeline.tasks.instances.packed_coco import NO_MASK, LoadPartialAnnotations


def _pairs(values):
    if len(values) % 2:
        raise strict.refused(f"has {len(values)} numbers; valid: x, y, x, y, ...")
    return values


Coordinates = Annotated[list[float], Field(min_length=2), AfterValidator(_pairs)]
Outline = Annotated[list[float], Field(min_length=6), AfterValidator(_pairs)]


class _Lenient(strict.Strict):
    model_config = ConfigDict(extra="ignore")


class _Encoded(_Lenient):
    size: Annotated[list[int], Field(min_length=2, max_length=2)]
    counts: list[int] | str


class _Image(_Lenient):
    id: int
    file_name: str


class _Annotation(_Lenient):
    """What is read of one of a file of priors; strokes are written as COCO's polygons are."""

    may_be_empty = ("segmentation",)

    image_id: int
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)]
    segmentation: list[Outline] | _Encoded | None = None
    foreground: list[Coordinates] = []
    background: list[Coordinates] = []


class _File(_Lenient):
    images: list[_Image]
    annotations: list[_Annotation]


@functools.cache
def _read(name, sha256):
    """{name of an image: annotations} of a file in priors/; read once in a process.

    Raises:
        ExperimentError: it is not what the recipe was made of, or not such a file.
    """
    path = path_of(name)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ExperimentError(f"{path}: has changed since the training was declared; run it again")
    try:
        content = json.loads(content)
    except ValueError as error:
        raise ExperimentError(f"{path}: not valid JSON: {error}; write it again") from None
    strict.check(_File, content, str(path))
    by_id = {image["id"]: [] for image in content["images"]}
    for place, annotation in enumerate(content["annotations"]):
        if annotation["image_id"] not in by_id:
            raise ExperimentError(
                f"{path}: annotations[{place}].image_id: is {annotation['image_id']}, which images does not list; "
                "correct one of them"
            )
        by_id[annotation["image_id"]].append(annotation)
    return {image["file_name"]: by_id[image["id"]] for image in content["images"]}


class _OfFile:
    """What steps that read a file of priors share.

    Args:
        file: name of a file in priors/.
        sha256: of its content.
    """

    def __init__(self, file, sha256):
        self.file = file
        self.path = path_of(file)
        self.annotations = _read(file, sha256)

    def of_objects(self, results):
        """The file's annotation of each object, by its box; None where it has none.

        Raises ExperimentError for an image that it does not list, or whose boxes are all others.
        """
        name = results["img_info"]["filename"]
        if name not in self.annotations:
            raise ExperimentError(
                f"{self.path}: images does not list {name}, a training image; make the file of the training annotations"
            )
        listed = self.annotations[name]
        left = {}  # by box; several can share one
        for annotation in listed:
            left.setdefault(_corners(annotation["bbox"]), []).append(annotation)
        boxes = [tuple(box.tolist()) for box in results["ann_info"]["bboxes"]]
        found = [left[box].pop(0) if left.get(box) else None for box in boxes]
        if listed and boxes and not any(found):
            raise ExperimentError(
                f"{self.path}: image {name}: no bbox is one of the training annotations; keep their boxes"
            )
        return found


def _corners(box):
    """A COCO box [x, y, w, h] as CocoDataset turns it into corners, float32."""
    x, y, width, height = box
    return tuple(np.array([x, y, x + width, y + height], dtype=np.float32).tolist())


@PIPELINES.register_module()
class LoadMasksOfFile(_OfFile):
    """Load the masks that a file has of novel objects as `gt_prior_masks`, and as `gt_prior_given` which have one.

    Later steps treat them like `gt_masks`. Base objects have none: their own mask parts them.

    Args:
        file, sha256: as `_OfFile`.
        poly2mask: as `LoadPartialAnnotations`.
    """

    def __init__(self, file, sha256, poly2mask=True):
        super().__init__(file, sha256)
        self.poly2mask = poly2mask
        self.loader = LoadPartialAnnotations(with_mask=True, poly2mask=poly2mask)

    def __call__(self, results):
        image = results["img_info"]
        size = image["height"], image["width"]
        masks = []
        for annotation, novel in zip(self.of_objects(results), results["ann_info"]["is_novel"], strict=True):
            mask = annotation.get("segmentation") if annotation and novel else None
            if isinstance(mask, dict) and tuple(mask["size"]) != size:
                raise ExperimentError(
                    f"{self.path}: image {image['filename']}: a segmentation has the size {mask['size']}, the image "
                    f"{list(size)} (height, width); make it of that image"
                )
            masks.append(mask or None)
        results[GIVEN] = np.array([mask is not None for mask in masks], dtype=bool)
        masks = [NO_MASK if mask is None else mask for mask in masks]
        if self.poly2mask:
            results[MASKS] = BitmapMasks([self.loader._poly2mask(mask, *size) for mask in masks], *size)
        else:
            results[MASKS] = PolygonMasks([self.loader.process_polygons(mask) for mask in masks], *size)
        results["mask_fields"].append(MASKS)
        return results


class _Points:
    """Put points of novel objects into the samples as `gt_prior_points`, which later steps move as they move boxes."""

    def add(self, results, marked):
        """Lay out `marked`, for each object foreground and background, each [n, 2], as boxes without extent."""
        most = max([len(points) for sides in marked for points in sides], default=1)
        laid = np.full((len(marked), 2, max(1, most), 4), np.nan, dtype=np.float32)
        for row, sides in zip(laid, marked, strict=True):
            for side, points in zip(row, sides, strict=True):
                side[: len(points)] = np.tile(points, 2)
        results["prior_points_shape"] = laid.shape
        results[POINTS] = laid.reshape(-1, 4)
        results["bbox_fields"].append(POINTS)
        return results


NOTHING = [np.zeros((0, 2))] * 2


@PIPELINES.register_module()
class LoadPointsOfFile(_OfFile, _Points):
    """Load the strokes that a file has of novel objects, `foreground` and `background` of its annotations.

    Args:
        file, sha256: as `_OfFile`.
    """

    def __call__(self, results):
        marked = []
        info = results["ann_info"]
        for annotation, box, novel in zip(self.of_objects(results), info["bboxes"], info["is_novel"], strict=True):
            marked.append(self._walked(annotation, box) if annotation and novel else NOTHING)
        return self.add(results, marked)

    def _walked(self, annotation, box):
        sides = []
        for side in ("foreground", "background"):
            strokes = [np.array(stroke, float).reshape(-1, 2) for stroke in annotation.get(side, ())]
            sides.append(np.concatenate([NOTHING[0], *(prior_points.walk(stroke, box) for stroke in strokes)]))
        return sides


@PIPELINES.register_module()
class DrawPoints(_Points):
    """Draw points or scribbles of novel objects from their true masks, by the rule of `prior_points`.

    Args:
        dataset: name of the dataset, whose complete annotations are read.
        drawn: 'points' or 'scribbles'.

    Raises ExperimentError for an object that the complete annotations do not have, or have without a mask.
    """

    def __init__(self, dataset, drawn):
        self.dataset = dataset
        self.drawn = drawn
        self.loader = LoadPartialAnnotations(with_mask=True)

    def __call__(self, results):
        image, info = results["img_info"], results["ann_info"]
        left = {}
        for annotation in complete_annotations(self.dataset).imgToAnns[image["id"]]:
            left.setdefault(_corners(annotation["bbox"]), []).append(annotation)
        marked = []
        for box, novel in zip(info["bboxes"], info["is_novel"], strict=True):
            same = left.get(tuple(box.tolist()))
            annotation = same.pop(0) if same else None
            marked.append(self._marks(annotation, box, image) if novel else NOTHING)
        return self.add(results, marked)

    def _marks(self, annotation, box, image):
        complete = subsets.train(self.dataset).annotations
        if annotation is None:
            raise ExperimentError(
                f"image {image['filename']}: a box of the split is not in {complete}; run `dvc repro split`"
            )
        if not annotation.get("segmentation"):
            raise ExperimentError(
                f"{complete}: annotation {annotation['id']} has no mask, which prior: {self.drawn} is drawn from; let "
                "`prior_file` name a file with points, or choose another `prior`"
            )
        mask = self.loader._poly2mask(annotation["segmentation"], image["height"], image["width"])
        return [prior_points.walk(line, box) for line in prior_points.marks(mask, box, self.drawn)]


@PIPELINES.register_module()
class FormatPriors:
    """Keep `gt_prior_masks` on the CPU, and make tensors of `gt_prior_given` [G] and `gt_prior_points` [G, S, K, 2].

    Places without a point are NaN.
    """

    def __call__(self, results):
        if MASKS in results:
            results[MASKS] = DataContainer(results[MASKS], cpu_only=True)
            results[GIVEN] = DataContainer(torch.from_numpy(results[GIVEN]))
        if POINTS in results:
            points = results[POINTS].reshape(results["prior_points_shape"])[..., :2]
            results[POINTS] = DataContainer(torch.from_numpy(points.astype(np.float32)))
        return results
