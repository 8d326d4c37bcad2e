"""The knobs of ContrastMask; differences between text and code are numbered as in `recipes.yaml`."""

from typing import Literal

from pydantic import Field

from pipeline.methods.shared.knobs import CAMKnobs


class Knobs(CAMKnobs):
    """What of the CL head, its loss and its gradients an experiment can turn.

    Attributes:
        sigma: fraction of each key set that is sampled.
        delta: CAM threshold of RoIs without a mask: foreground above 1 - delta, background below delta.
        tau_easy: temperature of easy keys (D5).
        tau_hard: temperature of hard keys (D5).
        cl_loss_weight: weight of the contrastive loss; 0 keeps the CL head and its features but not its loss.
        encoder_convs: 3x3 convolutions of the CL encoder.
        projector_layers: layers of the projector, the last one linear.
        supervision: RoIs in the contrastive loss: base, novel, all, or oracle (all, with masks for novel ones).
        prior: what parts the cells of novel RoIs: cam, oracle (true masks; the same as supervision oracle), file (masks
            of `prior_file`), points or scribbles (of `prior_file`, without one drawn from the true masks).
        prior_file: name of a file in priors/, or none.
        prior_radius: reach of a point or a scribble, as a share of the RoI's side.
        prior_rest: cells out of their reach: none (in no set), or cam.
        query_sharing: one query pair for all RoIs, or one per RoI.
        cl_join: joining the contrastive feature with the mask-head input (D1).
        cl_features: contrastive feature with self-attention (enhanced) or the encoding itself (direct) (D2).
        cl_fusion: 1x1 convolution before the join, conv or none (D2b).
        roi_features: RoI features of CL head and mask head, separate or shared (D3).
        detach_cl_features: stop the contrastive branch's gradient at its RoI feature (D4).
        detach_cl_cam: stop the contrastive loss at the CAM (D4b).
        detach_queries: stop the contrastive loss at the queries (D4e).
        loss_denominator: positive's own term with the temperature, or plain (D6).
        loss_similarity: cosine cos(q, k), or centred cos(q, k - q) (D7).
        loss_scale: factor on the contrastive loss (D8).
        lambda_warmup: linear or in steps of an epoch (D9).
        lambda_warmup_epochs: epochs until lambda is 1; 0 starts at 1 (D9b).
        lambda_epoch_passes: passes over the training set that this warm-up counts as an epoch (D9c).
        key_pooling: keys contrasted within a RoI, or over the batch (D10).
        query_rois: RoIs in the shared queries: all, or the kept ones (D11).
        exchange_queries: shared queries average over the images of all GPUs, or of each (D12).
        cam_threshold: inclusive or strict comparison with delta (D13).
        tiny_mask_fallback: masks with fewer than 2 cells on a side take that side from the CAM (D14).
        min_keys: smallest key set for a RoI to take part (D16).
        sample_rounding: exact ceiling, or the ceiling of the float32 product (D17).
        hard_easy_rule: which cells are hard (D18).
        sampling_order: sample_first or split_first (D18b).
        projector_norm: batch, sync (batch over all GPUs) or none (D19).
        cl_key_scale: factor on delta for keys (D27).
    """

    sigma: float = Field(gt=0, le=1)
    delta: float = Field(gt=0, lt=0.5)
    tau_easy: float = Field(gt=0, le=100)
    tau_hard: float = Field(gt=0, le=100)
    cl_loss_weight: float = Field(ge=0)
    encoder_convs: int = Field(ge=1)
    projector_layers: int = Field(ge=1)
    supervision: Literal["base", "novel", "all", "oracle"]
    prior: Literal["cam", "oracle", "file", "points", "scribbles"]
    prior_file: str = Field(min_length=1, description="none, or the name of a file in priors/")
    prior_radius: float = Field(gt=0, le=0.5)
    prior_rest: Literal["none", "cam"]
    query_sharing: bool
    cl_join: Literal["sum", "concat"]
    cl_features: Literal["enhanced", "direct"]
    cl_fusion: Literal["conv", "none"]
    roi_features: Literal["separate", "shared"]
    detach_cl_features: bool
    detach_cl_cam: bool
    detach_queries: bool
    loss_denominator: Literal["temperature", "plain"]
    loss_similarity: Literal["cosine", "centred"]
    loss_scale: float = Field(ge=0)
    lambda_warmup: Literal["linear", "steps"]
    lambda_warmup_epochs: float = Field(ge=0)
    lambda_epoch_passes: int = Field(ge=1)
    key_pooling: Literal["roi", "batch"]
    query_rois: Literal["all", "kept"]
    exchange_queries: bool
    cam_threshold: Literal["inclusive", "strict"]
    tiny_mask_fallback: bool
    min_keys: int = Field(ge=1)
    sample_rounding: Literal["ceil", "ceil_float32"]
    hard_easy_rule: Literal["paper", "band"]
    sampling_order: Literal["sample_first", "split_first"]
    projector_norm: Literal["batch", "sync", "none"]
    cl_key_scale: float = Field(gt=0, le=2)
