"""The training step that makes an item of an image and its reference, each augmented by itself."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import numpy as np
from mmdet.datasets.builder import PIPELINES
from mmdet.datasets.pipelines import Compose

from pipeline.methods.simformer.pairs import PairTable
from pipeline.tasks.semantic.augmentation import paired


@PIPELINES.register_module()
class WithReference:
    """Run the steps on an image and on its reference.

    Args:
        steps: of one image, see `pipeline.tasks.semantic.steps`.
        pairs: self (the same image twice) or cross.
        draw, rare_share: as `PairTable.draw`.
    """

    def __init__(self, steps, pairs, draw, rare_share):
        self.steps = Compose(steps)
        self.pairs, self.draw, self.rare_share = pairs, draw, rare_share
        self._table = None

    def __call__(self, results):
        dataset, rng = results["dataset"], results["rng"]
        position = results["position"]
        reference = self.reference(dataset, position, rng) if self.pairs == "cross" else position
        image = self.steps(results)
        return paired(image, self.steps(dataset.record(reference, rng)))

    def reference(self, dataset, position, rng):
        """The position of the other image of a pair."""
        if self._table is None:  # of the whole data set, by what its images are said to show
            self._table = self.table(dataset)
        return self._table.draw(position, self.draw, self.rare_share, rng)

    def table(self, dataset):
        """The `PairTable` of a data set."""
        return PairTable(*flags(dataset.shown, len(dataset.CLASSES)))


def flags(shown, num_classes):
    """[N, K] bool, twice, of [(base, novel)] class indices of each of N images."""
    found = np.zeros((2, len(shown), num_classes), dtype=bool)
    for image, groups in enumerate(shown):
        for group, classes in enumerate(groups):
            found[group, image, classes] = True
    return found
