"""The shape priors that a training begins with: a file that stage `priors` makes of a split's base masks."""

import zipfile

import numpy as np

from pipeline.artifacts import paths
from pipeline.errors import ExperimentError

FILE = "centres.npz"


def array(number: int) -> str:
    """Name of the array of `number` centres."""
    return f"centres_{number}"


def read(dataset: str, key: str, number: int, cells: int) -> np.ndarray:
    """The centres [1, number, cells, cells] float32 in [0, 1] of a split's shapes.

    Args:
        dataset: its name.
        key: of the split and the method, `methods.priors_key`.
        number, cells: how many, and their size.

    Raises:
        ExperimentError: they are not made yet, damaged, or of another size.
    """
    path = paths.learnt_priors(dataset, key) / FILE
    direction, _, method = key.rpartition("_")
    again = f"run `python -m stages.priors {method} {direction} --dataset {dataset}`"
    try:
        with np.load(path) as found:
            centres = found[array(number)]
    except FileNotFoundError:
        raise ExperimentError(f"{path}: no such file; {again}") from None
    except KeyError:
        raise ExperimentError(f"{path}: holds no {number} centres; {again}") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ExperimentError(f"{path}: damaged ({error}); {again}") from None
    if centres.shape != (number, cells, cells) or not np.isfinite(centres).all():
        raise ExperimentError(f"{path}: {array(number)} is {centres.shape}, not {(number, cells, cells)}; {again}")
    return centres[None].astype(np.float32)
