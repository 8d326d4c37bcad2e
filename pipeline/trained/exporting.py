"""Say whether a detector can be exported to TorchScript, and which of its operators keeps it from that.

A trace records operators that torch knows. Those of mmcv-full 1.x are functions in Python around a C++ extension. What
becomes of them is tried with a small input: a recording has to save, and to answer another input as the operator does.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import io
import warnings

import torch
from mmcv.ops import RoIAlign, nms

from pipeline.errors import ExperimentError, first_line


def obstacles(model):
    """The operators of a detector that TorchScript cannot record: {operator: what it is for, and why not}."""
    found = {}
    pooled = [(name, module) for name, module in model.named_modules() if isinstance(module, RoIAlign)]
    if pooled:
        boxes = torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]])
        if why := _unrecordable(pooled[0][1], [(torch.rand(1, 2, 16, 16), boxes) for _ in range(2)]):
            where = sorted({name.partition(".roi_layers")[0] for name, _ in pooled})
            found["mmcv.ops.roi_align"] = f"pools the features of {', '.join(where)}: {why}"
    if "nms" in str(model.test_cfg):
        scores = [torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.7, 0.9, 0.8])]
        boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 7.0, 8.0], [20.0, 20.0, 30.0, 30.0]])
        if why := _unrecordable(lambda boxes, scores: nms(boxes, scores, 0.5)[0], [(boxes, each) for each in scores]):
            found["mmcv.ops.nms"] = f"chooses proposals and detections: {why}"
    return found


def _unrecordable(function, inputs):
    """Why a function cannot be recorded with the first of two inputs for the second; None if it can."""
    first, second = inputs
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a tracer's; the numbers tell
            traced = torch.jit.trace(function, first, check_trace=False)
            torch.jit.save(traced, io.BytesIO())
            same = torch.equal(traced(*second), function(*second))
    except Exception as error:  # a tracer may fail in any way
        return first_line(str(error)).rstrip(".:") or type(error).__name__
    return None if same else "the recording answers another input with the numbers of the first"


def refuse(model, out):
    """Refuse an export, with the operators that stand in the way.

    Args:
        model: a detector in eval mode.
        out: path that nothing is written to.

    Raises:
        ExperimentError: always.
    """
    told = "; ".join(f"{operator} ({why})" for operator, why in obstacles(model).items())
    raise ExperimentError(
        f"{out}: not written: TorchScript cannot record {told or 'the choice of detections'}, and without it a file "
        "would not detect what the model does; use the checkpoint with MMDetection's init_detector and the config.py "
        "beside it"
    )
