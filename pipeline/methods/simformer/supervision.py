"""What images are trained with: base masks and image labels, or what an ablation or a re-training has instead.

Steps are named here and registered by `pipeline.tasks.semantic.complete`: reading a declaration imports no torch.
"""

import json

from pipeline.artifacts import paths
from pipeline.errors import ExperimentError
from pipeline.tasks.semantic.steps import after_loading

COMPLETE = "pipeline.tasks.semantic.complete"
PSEUDO = "pseudo"  # folder of a run's pseudo label maps, beside its checkpoints


def paired(knobs) -> bool:
    """Whether there are losses of pixel pairs: with all masks no class needs them."""
    return knobs.supervision == "base" and knobs.pairs != "none"


def modules(knobs) -> tuple[str, ...]:
    """What registers the types of `steps`."""
    return (COMPLETE,) if knobs.supervision != "base" or knobs.image_labels == "crop" else ()


def steps(given: list, knobs, dataset: str) -> list:
    """Training steps with the maps and labels of the knobs `supervision` and `image_labels`.

    Raises:
        ExperimentError: `supervision: pseudo` names no run.
    """
    if knobs.supervision == "all":
        return after_loading(given, {"type": "AllMasks", "dataset": dataset})
    if knobs.supervision == "pseudo":
        if knobs.pseudo_labels == "none":
            raise ExperimentError("knob pseudo_labels is none; with `supervision: pseudo` name the run that labelled")
        index = pseudo_index(dataset, knobs.pseudo_labels)
        return after_loading(given, {"type": "PseudoMaps", "index": str(index), "sha256": _digest(index)})
    if knobs.image_labels == "crop":
        return after_loading(given, {"type": "CropLabels", "dataset": dataset})
    return given


def pseudo_index(dataset: str, run: str):
    """Path of the index of the pseudo label maps of a run."""
    return paths.run(dataset, run) / PSEUDO / "pseudo.json"


def _digest(index):
    """Digest of the maps, part of the training's identity; none of maps that are yet to be made: training refuses."""
    try:
        return json.loads(index.read_text())["sha256"]
    except (OSError, ValueError, KeyError):
        return ""
