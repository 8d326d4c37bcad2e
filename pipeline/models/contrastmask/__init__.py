"""ContrastMask (CVPR 2022) as MMDetection modules, one file per part of the paper.

cam, edges, partition, sampling, losses: functions on tensors. attention, cl_head, box_head, mask_head, roi_head: the
network. hooks: what the training loop tells it.
"""

from .box_head import CAMBoxHead
from .cl_head import ContrastiveHead
from .hooks import TrainingProgressHook
from .mask_head import ContrastMaskHead
from .roi_head import ContrastMaskRoIHead

__all__ = ["CAMBoxHead", "ContrastMaskHead", "ContrastMaskRoIHead", "ContrastiveHead", "TrainingProgressHook"]
