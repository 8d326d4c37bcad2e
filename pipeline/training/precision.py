"""Lower precision where it pays: convolutions and linear layers; everything between them stays in float32.

RoIAlign, NMS, box decoding, targets and all losses see float32: mmcv's operators have no bfloat16, and sums over
thousands of cells need the digits.
"""

import functools

import torch

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def use_autocast(model, parts, device, precision):
    """Run parts of a model in a precision; what they return is float32 again.

    Args:
        model: of any architecture.
        parts: (dotted name of the part, its method) each, as the run's method names them; those that the model does not
            have are skipped.
        device: 'cuda' or 'cpu'.
        precision: key of DTYPES; 'fp32' changes nothing.
    """
    dtype = DTYPES[precision]
    if dtype is None:
        return
    for path, method in parts:
        part = functools.reduce(lambda module, name: getattr(module, name, None), path.split("."), model)
        if hasattr(part, method):
            setattr(part, method, _cast(getattr(part, method), device, dtype))


def _cast(method, device, dtype):
    @functools.wraps(method)
    def cast(*args, **kwargs):
        with torch.autocast(device, dtype):
            return _to_float32(method(*args, **kwargs))

    return cast


def _to_float32(value):
    if torch.is_tensor(value):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(_to_float32(item) for item in value)
    return value
