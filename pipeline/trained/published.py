"""The configuration that lies beside the weights of a run, as MMDetection's own tools read it.

`init_detector`, `tools/test.py`, `tools/misc/browse_dataset.py` and `tools/analysis_tools/get_flops.py` work with it
from the root of the working copy, where the paths in it lead to and `pipeline` can be imported. What this project
calls `seed`, `schedule` and `optimisation` stands beside MMDetection's own names.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv
from mmdet.datasets import DATASETS

from pipeline import methods, tasks
from pipeline.artifacts import files
from pipeline.declaration import experiments, label_sets, subsets
from pipeline.tasks.instances import TASK
from pipeline.tasks.instances.packed_coco import PartialCocoDataset

CONFIG = "config.py"
INSTANCES = "instances"
FULL_SIZE, COCO = "full", "coco"  # profile and label set of released checkpoints


@DATASETS.register_module()
class NamedPartialCocoDataset(PartialCocoDataset):
    """`PartialCocoDataset` whose label set is given by name, as a configuration has to.

    Args:
        label_set: a file of pipeline/declaration/label_sets.
    """

    def __init__(self, *args, label_set, **kwargs):
        super().__init__(*args, label_set=label_sets.label_set(label_set), **kwargs)


def configuration(training):
    """The text of a training's `config.py`.

    Args:
        training: pipeline.declaration.config.Training.
    """
    ours = {
        "model": training.model,
        "data": training.data,
        "seed": training.seed,
        "schedule": training.schedule,
        "optimisation": training.optimisation,
    }
    if methods.task_of(training.method).name == INSTANCES:
        sets = data(training)
        ours |= {"data": sets, "custom_imports": custom_imports(training), **TOOLS, "runner": runner(training)}
        ours |= {f"{part}_pipeline": sets[part]["pipeline"] for part in ("train", "test")}
    return mmcv.Config(ours).pretty_text + "\n"


def write_imported(method, backbone, checkpoint):
    """Write `config.py` beside a checkpoint that was converted from released code, and return its path.

    Args:
        method: whose module `checkpoint_map` did that.
        backbone: as the `convert` of that returned it.
        checkpoint: path of the converted file.
    """
    room = methods.required(method, "checkpoint_map")
    model = room.configuration_of(backbone)
    modules = (*methods.method(method).modules, *getattr(room, "MODULES", ()))
    images = experiments.load().profiles[FULL_SIZE]["images"]
    labels = label_sets.label_set(COCO)
    tested = coco_test(labels.names, tasks.task(INSTANCES).steps(images)["test"], "data/coco2017", "val2017")
    content = {
        "model": model,
        "data": {"samples_per_gpu": 1, "workers_per_gpu": 2, "val": tested, "test": tested},
        "custom_imports": {
            "imports": list(dict.fromkeys(["pipeline.compat", *modules, __name__])),
            "allow_failed_imports": False,
        },
        **TOOLS,
        "runner": {"type": "EpochBasedRunner", "max_epochs": 12},  # which tools insist on; nothing is trained with it
    }
    path = checkpoint.with_name(CONFIG)
    files.write_text(path, mmcv.Config(content).pretty_text + "\n")
    return path


# What MMDetection's tools look up and nothing here reads.
TOOLS = {
    "dist_params": {"backend": "nccl"},
    "log_level": "INFO",
    "load_from": None,
    "resume_from": None,
    "evaluation": {"metric": list(TASK.kinds)},
}


def custom_imports(training):
    """What registers the types of the configuration with MMDetection."""
    modules = ("pipeline.compat", *methods.modules_of(training.method, training.knobs), __name__)
    return {"imports": list(modules), "allow_failed_imports": False}


def runner(training):
    """The length of a training in the words of mmcv's runners, which MMDetection's tools insist on."""
    for unit, name, key in (
        ("epochs", "EpochBasedRunner", "max_epochs"),
        ("iterations", "IterBasedRunner", "max_iters"),
    ):
        if training.schedule.get(unit):
            return {"type": name, key: training.schedule[unit]}


def data(training):
    """The data sets of a training in MMDetection's words; paths are below the root of the working copy."""
    declared = experiments.load()
    labels = declared.label_set(training.dataset)
    train, validation = (declared.dataset(training.dataset)[part] for part in subsets.PARTS)
    folder = f"data/{training.dataset}"
    tested = coco_test(labels.names, training.data["test"], folder, validation)
    return {
        "samples_per_gpu": training.data["images_per_gpu"],
        "workers_per_gpu": 2,
        "train": {
            "type": NamedPartialCocoDataset.__name__,
            "label_set": labels.name,
            "ann_file": f"{folder}/splits/{training.split}/train.json",
            "img_prefix": f"{folder}/images/{train}/",
            "pipeline": stock_train(training.data["train"]),
        },
        "val": tested,
        "test": tested,
    }


def coco_test(classes, steps, folder, validation):
    """The validation images as MMDetection's own data set, which its tools evaluate."""
    return {
        "type": "CocoDataset",
        "classes": classes,
        "ann_file": f"{folder}/annotations/instances_{validation}.json",
        "img_prefix": f"{folder}/images/{validation}/",
        "pipeline": stock_test(steps),
    }


def stock_test(steps):
    """Steps of inference without ours that refuse images: MMDetection's own read any image, of any size."""
    return [{"type": "LoadImageFromFile", "color_type": "color_ignore_orientation"}, *steps[1:]]


def stock_train(steps):
    """Training steps with `FormatPartialBundle` in MMDetection's parts, which its tools know to leave out."""
    found = []
    for step in steps:
        if step["type"] != "FormatPartialBundle":
            found.append(step)
            continue
        found += [
            {"type": "DefaultFormatBundle"},
            {"type": "ToTensor", "keys": ["gt_is_novel"]},
            {"type": "ToDataContainer", "fields": [{"key": "gt_is_novel"}]},
        ]
    return found
