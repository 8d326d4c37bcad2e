"""Weak-shot semantic segmentation: novel classes are trained with image-level labels alone, IoU scores label maps."""

from pipeline.tasks import WHOLE, Metric, Task, lazily

ROOM = __name__

TASK = Task(
    name="semantic",
    metrics=(Metric("mIoU", "mIoU", "mIoU"),),
    category_metrics=(Metric("IoU", "IoU", "IoU"), Metric("accuracy", "accuracy", "acc.")),
    kinds={"map": ""},
    groups=("novel", "base", WHOLE),
    main=("novel", "map", "mIoU"),
    headline=(
        ("novel", "map", "mIoU", "novel_mIoU"),
        ("base", "map", "mIoU", "base_mIoU"),
        (WHOLE, "map", "mIoU", "mIoU"),
    ),
    supervision={"base": "masks", "novel": "image-level labels"},
    counted="validation images that show it",
    training_modules=(f"{ROOM}.data",),
    prediction_modules=(f"{ROOM}.prediction",),
    scoring_modules=(f"{ROOM}.scoring",),
    hide=lazily(f"{ROOM}.hiding", "hide"),
    training_set=lazily(f"{ROOM}.pseudo", "training_set"),
    validation_set=lazily(f"{ROOM}.data", "validation_set"),
    steps=lazily(f"{ROOM}.steps", "steps"),
    predict=lazily(f"{ROOM}.prediction", "predict"),
    score=lazily(f"{ROOM}.scoring", "score"),
    counts=lazily(f"{ROOM}.scoring", "counts"),
    label=lazily(f"{ROOM}.labelling", "label"),
    reads="maps",
)
