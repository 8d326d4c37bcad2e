"""What some ablations train with beside what `hiding` wrote: labels of the crop, all masks, pseudo label maps.

The first two read complete maps, novel pixels included: more supervision than weak-shot segmentation has. Nothing of
this is in the steps of a profile. A method puts it there where a knob asks for it, by `steps.with_crop_labels` and its
like, and names this module, which registers the types.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

from functools import cached_property
from pathlib import Path

import numpy as np
from mmdet.datasets.builder import PIPELINES

from pipeline.datasets.label_maps import IGNORE
from pipeline.datasets.label_maps.packs import Pack
from pipeline.declaration import subsets
from pipeline.errors import ExperimentError


class _Complete:
    """A step that reads complete maps of the training images of a dataset."""

    def __init__(self, dataset):
        self.dataset = dataset

    @cached_property
    def pack(self):
        return Pack(subsets.train(self.dataset).annotations)

    @cached_property
    def _positions(self):
        return {image["file_name"]: position for position, image in enumerate(self.pack.images)}

    def map_of(self, results):
        if (position := self._positions.get(results["file_name"])) is None:
            raise ExperimentError(f"{self.pack.path}: lists other images than the split; {results['pack'].remedy}")
        return self.pack.read(position)


@PIPELINES.register_module()
class CropLabels(_Complete):
    """Let a map of novel classes go the way of the image: `novel_map`, 255 elsewhere."""

    def __call__(self, results):
        complete = self.map_of(results)
        results["novel_map"] = np.where(np.isin(complete, results["novel_classes"]), complete, np.uint8(IGNORE))
        return results


@PIPELINES.register_module()
class AllMasks(_Complete):
    """The complete map; no class is without mask."""

    def __call__(self, results):
        return results | {
            "gt_semantic_seg": self.map_of(results),
            "novel_labels": np.zeros(0, np.int64),
            "novel_classes": (),
        }


@PIPELINES.register_module()
class PseudoMaps:
    """A pseudo label map; no class is without mask.

    Raises:
        ExperimentError: other maps than are named, or none of an image: never a complete one instead.
    """

    def __init__(self, index, sha256):
        self.index, self.sha256 = Path(index), sha256

    @cached_property
    def pack(self):
        pack = Pack(self.index, "label the training images again")
        if pack.facts["sha256"] != self.sha256:
            raise ExperimentError(
                f"{self.index}: other pseudo label maps than the run names; label the training images again"
            )
        self._positions = {image["file_name"]: position for position, image in enumerate(pack.images)}
        return pack

    def __call__(self, results):
        pack, name = self.pack, results["file_name"]
        if name not in self._positions:
            raise ExperimentError(f"{self.index}: no pseudo label map of {name}; label the training images again")
        return results | {
            "gt_semantic_seg": pack.read(self._positions[name]),
            "novel_labels": np.zeros(0, np.int64),
            "novel_classes": (),
        }
