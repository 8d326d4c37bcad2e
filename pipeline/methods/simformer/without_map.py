"""The training step for images of which labels are known and no map: they teach classes, and no pixel of them counts.

Without it an image without map would look like one whose pixels are all novel: the complementary loss would have the
novel proposals cover all of it, and pixel pairs would have its base pixels differ from those of its reference.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

from mmcv.parallel import DataContainer
from mmdet.datasets.builder import PIPELINES
from mmdet.datasets.pipelines import Compose

from pipeline.methods.simformer.pairs import PairTable
from pipeline.methods.simformer.reference import WithReference, flags


def unmapped(pack, position):
    """Whether an image of a split has no map."""
    return bool(pack.images[position].get("unmapped"))


@PIPELINES.register_module()
class LabelsAlone:
    """Run the steps of one image; of an image without map all is taken for padding, its labels stay.

    Args:
        steps: of one image, see `pipeline.tasks.semantic.steps`.
    """

    def __init__(self, steps):
        self.steps = Compose(steps)

    def __call__(self, results):
        done = self.steps(results)
        if unmapped(results["pack"], results["position"]):
            metas = done["img_metas"].data | {"img_shape": (0, 0, 3)}
            done["img_metas"] = DataContainer(metas, cpu_only=True)
        return done


@PIPELINES.register_module()
class WithMappedReference(WithReference):
    """As `WithReference`, between images with a map; one without is its own reference.

    So it has no part in the loss of base pairs; the distillation compares its pixels with each other.
    """

    def reference(self, dataset, position, rng):
        return position if unmapped(dataset.pack, position) else super().reference(dataset, position, rng)

    def table(self, dataset):
        mapped = [not unmapped(dataset.pack, position) for position in range(len(dataset))]
        return PairTable(*flags(dataset.shown, len(dataset.CLASSES)), usable=mapped)
