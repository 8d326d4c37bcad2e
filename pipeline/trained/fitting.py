"""What a model takes of a trained detector's weights: whole layers of the same names and shapes.

A layer is what has parameters together, such as weight and bias of a convolution. It is taken as a whole or not at all.
A layer that is made for certain classes is not taken for others, even where their number is the same.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

from collections import Counter
from dataclasses import dataclass

import mmcv
import torch
from mmdet.models import build_detector
from tabulate import tabulate

COUNTER = ".num_batches_tracked"  # files of older versions of torch lack them; nothing reads them
NOT_THERE, OTHER_SHAPE, OTHER_CLASSES, INCOMPLETE = (
    "not in the file",
    "other shape",
    "other classes",
    "incomplete layer",
)
NO_PLACE = "no place in the model"


@dataclass(frozen=True)
class Fit:
    """What becomes of each tensor.

    Attributes:
        taken: {name: tensor} that the model starts from.
        fresh: {name: reason}: tensors of the model that keep its own initialisation.
        ignored: {name: reason}: tensors of the file that nothing takes.
    """

    taken: dict
    fresh: dict
    ignored: dict

    def table(self):
        """How many tensors of each part of the model were taken, re-initialised and ignored, as text."""
        names = {"taken": self.taken, "re-initialised": self.fresh, "ignored": self.ignored}
        counts = {column: Counter(map(_component, tensors)) for column, tensors in names.items()}
        components = sorted({component for column in counts.values() for component in column}, key=_order)
        rows = []
        for component in components:
            reasons = Counter(
                reason
                for tensors in (self.fresh, self.ignored)
                for name, reason in tensors.items()
                if _component(name) == component
            )
            why = ", ".join(f"{reason} ({number})" for reason, number in reasons.most_common())
            rows.append([component, *(counts[column][component] for column in names), why])
        rows.append(["all", *(len(tensors) for tensors in names.values()), ""])
        return tabulate(rows, headers=["part", *names, "why"], tablefmt="github")


def fit(state, expected, of_classes=frozenset(), same_classes=True):
    """Choose what a model takes of a file.

    Args:
        state: {name: tensor} of the file.
        expected: {name: shape} of the model.
        of_classes: names of the model's tensors that are made for its classes.
        same_classes: whether the file's classes are the model's.

    Returns:
        `Fit`.
    """
    reasons, layers = {}, {}
    for name, shape in expected.items():
        layers.setdefault(_layer(name), []).append(name)
        if name not in state:
            if not name.endswith(COUNTER):
                reasons[name] = NOT_THERE
        elif name in of_classes and not same_classes:
            reasons[name] = OTHER_CLASSES
        elif tuple(state[name].shape) != tuple(shape):
            reasons[name] = OTHER_CLASSES if name in of_classes else OTHER_SHAPE
    for names in layers.values():
        if any(name in reasons for name in names):
            for name in names:
                reasons.setdefault(name, INCOMPLETE if name in state else NOT_THERE)
    taken = {name: state[name] for name in expected if name in state and name not in reasons}
    ignored = {name: NO_PLACE if name not in expected else reasons[name] for name in state if name not in taken}
    return Fit(taken, {name: reasons.get(name, NOT_THERE) for name in expected if name not in taken}, ignored)


def shapes(model):
    """{name: shape} of a configured model, and the names of what is made for its classes.

    Args:
        model: MMDetection model configuration; what registers its types is imported.
    """
    found = _shapes(model)
    more = _shapes(_with_another_class(model))
    return found, frozenset(name for name, shape in found.items() if more.get(name) != shape)


def _shapes(model):
    with torch.device("meta"):
        built = build_detector(mmcv.ConfigDict(model))
    return {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}


def _with_another_class(value):
    if isinstance(value, dict):
        return {
            key: item + 1 if key == "num_classes" and isinstance(item, int) else _with_another_class(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(map(_with_another_class, value))
    return value


def _layer(name):
    return name.rpartition(".")[0]


def _component(name):
    """The part of a detector that a tensor is of: `backbone`, `roi_head.mask_head` and the like."""
    parts = name.split(".")
    return ".".join(parts[:2] if parts[0] == "roi_head" else parts[:1])


def _order(component):
    usual = ("backbone", "neck", "rpn_head", "roi_head.bbox_head", "roi_head.mask_head")
    return (usual.index(component) if component in usual else len(usual), component)
