"""The knobs of SimFormer; differences between text and code are numbered as in `recipes.yaml`."""

from typing import Literal

from pydantic import Field

from pipeline.declaration.knobs import KnobSet


class Knobs(KnobSet):
    """What of supervision, pairs and losses an experiment can turn.

    Attributes:
        recipe: preset that the value `recipe` refers to.
        supervision: classes with masks: base, all (FullyOracle), or pseudo (re-training on pseudo label maps).
        pseudo_labels: name of the run whose pseudo label maps `supervision: pseudo` reads, or none.
        without_map: images that have labels and no map: none (there are none), or labels (they teach classes alone).
        image_labels: novel labels of an image: of the whole image, or of what its crop shows (D1).
        complementary_weight: weight of the complementary loss; 0 leaves novel classes with their labels alone.
        complementary_floor: probability below which no novel proposal has to cover a pixel that is not base (D12).
        pairs: pixel pairs: none (Basic), self (both images of a pair are the same), cross.
        pair_draw: how the reference image is drawn (D4).
        pair_rare_share: probability that of several novel classes the one with fewest partners is taken (D4b).
        points: J, pixels that are drawn from each image of a pair; for base and novel pairs alike.
        similarity_weight: weight of the loss of the similarity net.
        distillation_weight: weight of the distillation to novel classes (D3).
        distillation: its form: cross entropy (ce), margin form (cce), or b with a threshold, such as b0.5 (D9).
        student: pixels whose scores are compared: of both images, or of one (D2).
        detach_embedding: stop the similarity loss at the pixel embedding (D3b).
        detach_teacher: stop the distillation at the similarity net (D3c).
        teacher_statistics: pass of the teacher updates the running statistics of the similarity net (D10).
        balance_pairs: pairs that the class balance counts: those in the loss, or all (D11).
        exchange_balance: the class balance counts the pairs of all processes, or of each (D11b).
        backbone_rate: learning rate of the backbone as a share of that of the rest.
    """

    recipe: Literal["paper", "released"]
    supervision: Literal["base", "all", "pseudo"]
    pseudo_labels: str = Field(min_length=1, description="none, or the name of a run")
    without_map: Literal["none", "labels"]
    image_labels: Literal["image", "crop"]
    complementary_weight: float = Field(ge=0)
    complementary_floor: float = Field(gt=0, lt=1)
    pairs: Literal["none", "self", "cross"]
    pair_draw: Literal["one_common", "deconfounded", "random", "common_base", "novel_list"]
    pair_rare_share: float = Field(ge=0, le=1)
    points: int = Field(ge=2)
    similarity_weight: float = Field(ge=0)
    distillation_weight: float = Field(ge=0)
    distillation: str = Field(
        pattern=r"^(ce|cce|b(0|1|0?\.\d+))$", description="ce, cce, or b and a threshold, as b0.5"
    )
    student: Literal["cross_image", "same_image"]
    detach_embedding: bool
    detach_teacher: bool
    teacher_statistics: bool
    balance_pairs: Literal["counted", "all"]
    exchange_balance: bool
    backbone_rate: float = Field(gt=0, le=1)
