"""ContrastMask (CVPR 2022) as MMDetection modules, one file per part of the paper.

cam, edges, partition, sampling, losses: functions on tensors. attention, cl_head, box_head, mask_head, roi_head: the
network. hooks: what the training loop tells it.
"""

from pipeline.methods.contrastmask.cl_head import ContrastiveHead
from pipeline.methods.contrastmask.roi_head import ContrastMaskRoIHead
from pipeline.methods.shared.cam_box_head import CAMBoxHead
from pipeline.methods.shared.class_agnostic_mask_head import ContrastMaskHead
from pipeline.training.progress import TrainingProgressHook

__all__ = ["CAMBoxHead", "ContrastMaskHead", "ContrastMaskRoIHead", "ContrastiveHead", "TrainingProgressHook"]
