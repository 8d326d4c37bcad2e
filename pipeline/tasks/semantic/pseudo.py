"""Pseudo label maps of training images: base masks, and novel classes where a trained model sees them.

A training on them reads those that the run of its `labels` made with the same seed.
"""

from dataclasses import replace

import numpy as np

from pipeline.artifacts import paths
from pipeline.artifacts.files import write_text, writing
from pipeline.datasets.label_maps import IGNORE
from pipeline.datasets.label_maps.packs import Pack, Writer
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.tasks.semantic import data, stored
from pipeline.tasks.semantic.steps import changed


def training_set(training):
    """As `data.training_set`; of a training on pseudo label maps, with those of its own seed.

    Raises:
        ExperimentError: there are none, or not of every training image.
    """
    if training.labels is None:
        return data.training_set(training)
    index = paths.label_index(training.dataset, training.labels, training.seed)
    remedy = f"run `{experiments.repro('label', training.labels, again=True)}`"
    maps = Pack(index, remedy)
    steps = changed(training.data["train"], "PseudoMaps", index=str(index), sha256=maps.facts["sha256"])
    images = data.training_set(replace(training, data=training.data | {"train": steps}))
    labelled = {image["file_name"] for image in maps.images}
    if lacking := [image["file_name"] for image in images.pack.images if image["file_name"] not in labelled]:
        raise ExperimentError(
            f"{index}: no pseudo label map of {len(lacking)} training images, such as {lacking[0]}; {remedy}"
        )
    return images


def pseudo_map(prediction, base_map, novel_labels):
    """One pseudo label map (released `pseudo_labeling.py`).

    Args:
        prediction: uint8 [H, W], the best of all classes.
        base_map: uint8 [H, W], base classes where their masks are, 255 elsewhere.
        novel_labels: the novel classes that the image is known to show.

    Returns:
        uint8 [H, W]: the base map, then those novel classes where they are predicted, else 255.
    """
    novel = np.where(np.isin(prediction, novel_labels), prediction, np.uint8(IGNORE))
    return np.where(base_map != IGNORE, base_map, novel).astype(np.uint8)


def write(hidden, predictions, index):
    """Write the pseudo label maps of all training images, a pack and its index, in one step each, the index last.

    Args:
        hidden: `Pack` of what training may see, which `hiding.hide` wrote.
        predictions: path of a file of predicted maps of its images, in their order (`stored`).
        index: path; the pack lies beside it.

    Raises:
        ExperimentError: a training image without prediction.
    """
    found = iter(stored.read(predictions))
    index.unlink(missing_ok=True)  # of another pack
    pack = index.with_suffix(".pack")
    with writing(pack) as file:
        writer = Writer(file, pack.name)
        for position, image in enumerate(hidden.images):
            name, prediction = next(found, (None, None))
            if name != image["file_name"]:
                raise ExperimentError(f"{predictions}: no prediction of {image['file_name']}; label the images again")
            writer.add(name, pseudo_map(prediction, hidden.read(position), image["novel"]))
    write_text(index, writer.index(classes=hidden.facts["classes"]))
