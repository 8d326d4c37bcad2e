"""Priors of novel RoIs beside the CAM: masks of any source, points and scribbles.

A prior parts the cells of novel RoIs in the contrastive loss and does nothing else: the mask loss reads `gt_masks`, in
which novel objects stay without a mask. A run whose knob `prior` is `cam` or `oracle` has nothing of this.
"""

import functools
import hashlib

from pipeline.artifacts import paths
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import oracle

MASKS, GIVEN, POINTS = oracle.FIELD, "gt_prior_given", "gt_prior_points"
NONE = "none"
DRAWN = ("points", "scribbles")  # priors that are drawn from the true masks without a file
HERE = ("file", *DRAWN)  # those that this module adds to the model and the steps


def settled(knobs):
    """The knobs with one word for the oracle, `supervision: oracle`, which `prior: oracle` is another for.

    Raises:
        ExperimentError: the prior does not go with the supervision, or needs a file.
    """
    if knobs.prior == "cam" or (knobs.prior, knobs.supervision) == ("oracle", "oracle"):
        return knobs
    if knobs.supervision != "all":
        raise ExperimentError(
            f"knob prior is {knobs.prior!r}, which parts novel RoIs beside base ones; valid with it: supervision: all, "
            f"not {knobs.supervision!r}"
        )
    if knobs.prior == "oracle":
        return knobs.model_copy(update={"supervision": "oracle"})
    if knobs.prior == "file" and knobs.prior_file == NONE:
        raise ExperimentError("knob prior is 'file' and prior_file 'none'; let prior_file name a file in priors/")
    return knobs


def modules(knobs):
    """The modules of the types that `with_prior` and `steps` add."""
    knobs = settled(knobs)
    if knobs.prior in HERE:
        return tuple(f"{__package__}.{name}" for name in ("prior_head", "prior_steps"))
    return oracle.modules(knobs)


def with_prior(roi_head, knobs):
    """The configuration of ContrastMask's RoI head for the prior of its knobs, which are `settled`."""
    if knobs.prior not in HERE:
        return roi_head
    return roi_head | {
        "type": "PriorContrastMaskRoIHead",
        "prior_radius": knobs.prior_radius,
        "cl_head": roi_head["cl_head"] | {"type": "PriorContrastiveHead", "rest": knobs.prior_rest},
    }


def steps(given, knobs, dataset):
    """As `Method.steps`: masks or points of novel objects join the samples, as `prior_steps` says.

    A file is known by its content: another one is another training.
    """
    knobs = settled(knobs)
    given = oracle.steps(given, knobs, dataset)
    if knobs.prior not in HERE:
        return given
    source = {"dataset": dataset, "drawn": knobs.prior}
    if knobs.prior_file != NONE:
        source = {"file": knobs.prior_file, "sha256": _digest(knobs.prior_file)}
    fields = [MASKS, GIVEN] if knobs.prior == "file" else [POINTS]
    extended = []
    for step in given:
        extended.append(step | {"keys": [*step["keys"], *fields]} if step["type"] == "Collect" else step)
        if step["type"] == "LoadPartialAnnotations" and knobs.prior == "file":
            extended.append({"type": "LoadMasksOfFile", **source, "poly2mask": step["poly2mask"]})
        elif step["type"] == "LoadPartialAnnotations":
            extended.append({"type": "LoadPointsOfFile" if "file" in source else "DrawPoints", **source})
        elif step["type"] == "FormatPartialBundle":
            extended.append({"type": "FormatPriors"})
    return extended


def path_of(name):
    """The file of a value of the knob `prior_file`. Raises ExperimentError if it is none in priors/."""
    path = (paths.priors() / name).resolve()
    if not path.is_relative_to(paths.priors().resolve()) or not path.is_file():
        there = sorted(found.name for found in paths.priors().glob("*.json"))
        raise ExperimentError(
            f"knob prior_file is {name!r}; valid: the name of a file in {paths.priors()}, which holds "
            f"{', '.join(there) or 'none yet'}"
        )
    return path


def _digest(name):
    path = path_of(name)
    status = path.stat()
    return _digest_of(path, status.st_mtime_ns, status.st_size)


@functools.cache
def _digest_of(path, time, size):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
