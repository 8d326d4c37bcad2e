"""A toy task: a label for every pixel, scored by mIoU; objects of novel categories have no labels to train with."""

from pipeline.tasks import WHOLE, Metric, Task, lazily

MODULE = f"{__name__}.maps"

TASK = Task(
    name="label_maps",
    metrics=(Metric("mIoU", "mIoU", "mIoU"), Metric("accuracy", "accuracy", r"acc.\ ")),
    category_metrics=(Metric("IoU", "IoU", "IoU"),),
    kinds={"map": ""},
    groups=("novel", "base", WHOLE),
    main=("novel", "map", "mIoU"),
    headline=(("novel", "map", "mIoU", "novel_mIoU"),),
    supervision={"base": "label maps", "novel": "image labels"},
    counted="validation images",
    training_modules=(MODULE,),
    prediction_modules=(MODULE,),
    scoring_modules=(MODULE,),
    hide=lazily(MODULE, "hide"),
    training_set=lazily(MODULE, "training_set"),
    validation_set=lazily(MODULE, "validation_set"),
    steps=lambda images: {"train": [], "test": []},
    predict=lazily(MODULE, "predict"),
    score=lazily(MODULE, "score"),
    counts=lazily(MODULE, "counts"),
)
