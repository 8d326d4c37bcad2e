"""Pseudo label maps of training images: base masks, and novel classes where a trained model sees them."""

from pathlib import Path

import numpy as np

from pipeline.artifacts.files import write_text, writing
from pipeline.datasets.label_maps import IGNORE
from pipeline.datasets.label_maps.packs import Pack, Writer
from pipeline.errors import ExperimentError
from pipeline.tasks.semantic import stored


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


def write(split, predictions, folder):
    """Write `pseudo.json` and `pseudo.pack` of all training images, in one step each.

    Args:
        split: path of the index that `hiding.hide` wrote.
        predictions: path of the file that `prediction.label` wrote.
        folder: created if missing.

    Returns:
        Digest of the maps.

    Raises:
        ExperimentError: a training image without prediction.
    """
    hidden, folder = Pack(split), Path(folder)
    found = iter(stored.read(predictions))
    with writing(folder / "pseudo.pack") as file:
        writer = Writer(file, "pseudo.pack")
        for position, image in enumerate(hidden.images):
            name, prediction = next(found, (None, None))
            if name != image["file_name"]:
                raise ExperimentError(
                    f"{predictions}: no prediction of {image['file_name']}; label the training images again"
                )
            writer.add(name, pseudo_map(prediction, hidden.read(position), image["novel"]))
    index = writer.index(classes=hidden.facts["classes"])
    write_text(folder / "pseudo.json", index)
    return Pack(folder / "pseudo.json").facts["sha256"]
