"""RETAB (weak-shot semantic segmentation by transferring semantic affinity and boundary), carried over to label maps.

Our adaptation, as the code that its authors released is for Pascal VOC: docs/methods/simformer.md says what is theirs.
It is trained to label training images, for a MaskFormer that is trained on its labels.
"""

from pathlib import Path

from pipeline.methods import Method
from pipeline.methods.retab.knobs import Knobs
from pipeline.methods.retab.model import model
from pipeline.methods.retab.sizes import Sizes

METHOD = Method(
    task="semantic",
    label="RETAB (our adaptation)",
    colour="#332288",
    about="class activation maps of image labels, carried along affinities and stopped at boundaries that are learned "
    "from base masks; our adaptation to label maps, for labelling training images",
    knobs=Knobs,
    knob_file=Path(__file__).parent / "knobs.yaml",
    sizes=Sizes,
    detector="retab",
    model=model,
    modules=(f"{__name__}.detector",),
    cost=0.7,
    autocast=(("backbone", "forward"),),
)
