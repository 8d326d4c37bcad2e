"""Ground-truth masks of novel objects as the prior of the contrastive loss alone: the oracle of the paper's Discussion.

Only a run whose knob `supervision` is `oracle` has these steps. They leave `gt_masks`, which the mask loss reads, as
they are: there novel objects stay without a mask.
"""

from pipeline.methods.shared import two_stage

FIELD = "gt_prior_masks"


def modules(knobs):
    """The module of the steps that `steps` adds."""
    return ("pipeline.methods.contrastmask.oracle_steps",) if knobs.supervision == "oracle" else ()


def steps(given, knobs, dataset):
    """As `Method.steps`: under oracle supervision the masks of all objects join the samples as `gt_prior_masks`.

    Args:
        given: training steps.
        knobs: of the run.
        dataset: name of the dataset, whose complete annotations are read.
    """
    given = two_stage.steps(given, knobs, dataset)
    return with_prior_masks(given, dataset) if knobs.supervision == "oracle" else given


def with_prior_masks(steps, dataset):
    """Return the steps of a training pipeline with the masks of all objects added to its samples as `gt_prior_masks`.

    Args:
        steps: as `pipelines.train_pipeline` gives them.
        dataset: name of the dataset, whose complete annotations are read.
    """
    extended = []
    for step in steps:
        extended.append(step | {"keys": [*step["keys"], FIELD]} if step["type"] == "Collect" else step)
        if step["type"] == "LoadPartialAnnotations":
            extended.append({"type": "LoadPriorMasks", "dataset": dataset, "poly2mask": step["poly2mask"]})
        elif step["type"] == "FormatPartialBundle":
            extended.append({"type": "FormatPriorMasks"})
    return extended
