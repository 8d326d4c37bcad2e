"""Make mmcv-full 1.7 and mmdet 2.28 importable beside a current torch; import this before either of them.

torchvision is built for the CUDA flavour of torch. Beside a CPU build its C++ operators do not load, and its own
Python then fails at import because it registers shape rules for operators that were never declared. Declaring the two
schemas it asks for is enough: nothing here calls them, mmcv-full brings its own operators.
"""

import importlib.util
import warnings
from pathlib import Path

import torch


def declare_torchvision_ops():
    """Declare torchvision's NMS schemas if its compiled operators cannot load. Returns the library to keep alive."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or hasattr(torch.ops.torchvision, "nms"):
        return None
    for extension in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))
            return None
        except OSError:
            continue
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_TORCHVISION_OPS = declare_torchvision_ops()

# mmcv 1.x advertises mmcv 2.x on every import; the last 1.x line is what mmdet 2.x needs.
warnings.filterwarnings("ignore", message=r".*On January 1, 2023, MMCV will release v2\.0\.0.*")
