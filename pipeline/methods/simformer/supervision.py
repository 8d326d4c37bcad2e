"""What images are trained with: base masks and image labels, or what an ablation or a re-training has instead.

Steps are named here and registered by `pipeline.tasks.semantic.complete`: reading a declaration imports no torch.
"""

from pipeline.errors import ExperimentError
from pipeline.tasks.semantic.steps import with_all_masks, with_crop_labels, with_pseudo_maps

COMPLETE = "pipeline.tasks.semantic.complete"
PSEUDO = "pipeline.tasks.semantic.pseudo"  # finds the maps of a training


def paired(knobs) -> bool:
    """Whether there are losses of pixel pairs: with all masks no class needs them."""
    return knobs.supervision == "base" and knobs.pairs != "none"


def modules(knobs) -> tuple[str, ...]:
    """What registers the types of `steps`, and finds what they read."""
    if knobs.supervision == "pseudo":
        return COMPLETE, PSEUDO
    return (COMPLETE,) if knobs.supervision != "base" or knobs.image_labels == "crop" else ()


def steps(given: list, knobs, dataset: str) -> list:
    """Training steps with the maps and labels of the knobs `supervision` and `image_labels`."""
    if knobs.supervision == "all":
        return with_all_masks(given, dataset)
    if knobs.supervision == "pseudo":
        return with_pseudo_maps(given)
    return with_crop_labels(given, dataset) if knobs.image_labels == "crop" else given


def labelled_by(knobs) -> str | None:
    """As `Method.labelled_by`.

    Raises:
        ExperimentError: `supervision: pseudo` names no run, or another supervision names one that it would not read.
    """
    named, read = knobs.pseudo_labels != "none", knobs.supervision == "pseudo"
    if read and not named:
        raise ExperimentError("knob pseudo_labels is none; with `supervision: pseudo` name the run that labelled")
    if named and not read:
        raise ExperimentError(
            f"knob pseudo_labels is {knobs.pseudo_labels!r}; with `supervision: {knobs.supervision}` nothing reads "
            "them: write none, or `supervision: pseudo`"
        )
    return knobs.pseudo_labels if read else None
