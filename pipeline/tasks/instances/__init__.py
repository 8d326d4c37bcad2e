"""Partially supervised instance segmentation: novel objects are trained with boxes alone, COCO's APs score them."""

from pipeline.tasks import WHOLE, Metric, Task, lazily

ROOM = __name__

TASK = Task(
    name="instances",
    metrics=(
        Metric("mAP", "mAP", "mAP", name="AP"),
        Metric("AP50", "AP50", "AP$_{50}$"),
        Metric("AP75", "AP75", "AP$_{75}$"),
        Metric("APs", "APs", "AP$_{S}$"),
        Metric("APm", "APm", "AP$_{M}$"),
        Metric("APl", "APl", "AP$_{L}$"),
    ),
    category_metrics=(Metric("AP", "AP", "AP"), Metric("AP50", "AP50", "AP$_{50}$")),
    kinds={"segm": "mask", "bbox": "box"},
    groups=("novel", "base", WHOLE),
    main=("novel", "segm", "mAP"),
    headline=(
        ("novel", "segm", "mAP", "novel_mask_mAP"),
        ("novel", "segm", "AP50", "novel_mask_AP50"),
        ("base", "segm", "mAP", "base_mask_mAP"),
        ("novel", "bbox", "mAP", "novel_box_mAP"),
    ),
    supervision={"base": "masks", "novel": "boxes"},
    counted="validation objects without crowds",
    training_modules=(f"{ROOM}.packed_coco",),
    prediction_modules=(f"{ROOM}.prediction",),
    scoring_modules=(f"{ROOM}.coco_engines", f"{ROOM}.scoring"),
    hide=lazily(f"{ROOM}.split", "split"),
    training_set=lazily(f"{ROOM}.packed_coco", "training_set"),
    validation_set=lazily(f"{ROOM}.packed_coco", "validation_set"),
    steps=lazily(f"{ROOM}.steps", "steps"),
    predict=lazily(f"{ROOM}.prediction", "predict"),
    score=lazily(f"{ROOM}.scoring", "score_predictions"),
    counts=lazily(f"{ROOM}.examples", "counts"),
)
