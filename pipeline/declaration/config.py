"""From a declared run to everything its training needs.

`resolve` is pure reading: it checks every name and value and returns plain dictionaries in MMDetection's vocabulary.
Nothing that changes numbers is decided elsewhere.
"""

import json
from dataclasses import asdict, dataclass

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.declaration.knobs import Knobs
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import oracle
from pipeline.methods.contrastmask.model import model_config
from pipeline.methods.shared.architecture import Architecture
from pipeline.tasks.instances import steps


@dataclass(frozen=True)
class Training:
    """One training: a run (or the pre-training of a backbone) on a dataset with one seed.

    Attributes:
        name: run name, or `init_<backbone>` for a pre-training.
        dataset: name of the dataset; `split` is the direction whose annotations are read.
        seed: of initialisation, sampling and augmentation.
        knobs: resolved knob values. method: row of `methods:` without its label.
        model: MMDetection model configuration.
        data: `train` and `test` pipelines, `batch_size` (images per optimiser step), `images_per_gpu` (in
            one iteration, at most).
        schedule: {epochs | iterations, milestones} in optimiser steps' unit.
        optimisation: optimiser, learning-rate policy, warm-up, log and checkpoint intervals (in optimiser steps),
            precision.
        initial_weights: whether training starts from runs/<dataset>/init/<backbone>.pth.
    """

    name: str
    dataset: str
    split: str
    backbone: str
    seed: int
    method: dict
    knobs: Knobs
    model: dict
    data: dict
    schedule: dict
    optimisation: dict
    initial_weights: bool

    def to_json(self):
        """The training as text; plain data, so that reading it can run nothing."""
        return json.dumps(tagged(asdict(self)), indent=1)

    @classmethod
    def from_json(cls, text):
        """The training that `to_json` wrote. Raises ExperimentError for anything else."""
        try:
            content = untagged(json.loads(text))
            return cls(**content | {"knobs": Knobs(**content["knobs"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ExperimentError(f"not a training that this version wrote: {error}; launch it again") from None

    def numbers(self):
        """What determines the result but code, data and initial weights, as plain data.

        Names are left out, so equal runs share one training; so are the knobs, which act through the model and the
        data steps, and what only an evaluation reads.
        """
        left_out = ("name", "dataset", "backbone", "method", "knobs")
        content = {key: value for key, value in asdict(self).items() if key not in left_out}
        content["data"] = {k: v for k, v in content["data"].items() if k != "test"}
        content["optimisation"] = {k: v for k, v in content["optimisation"].items() if k != "checkpoint_interval"}
        return content


def tagged(value):
    """Plain data for JSON, which knows no tuples, and mmdet tells them from lists."""
    if isinstance(value, dict):
        return {key: tagged(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return {"tuple": [tagged(item) for item in value]}
    return [tagged(item) for item in value] if isinstance(value, list) else value


def untagged(value):
    if isinstance(value, dict):
        if value.keys() == {"tuple"}:
            return tuple(untagged(item) for item in value["tuple"])
        return {key: untagged(item) for key, item in value.items()}
    return [untagged(item) for item in value] if isinstance(value, list) else value


def load_knobs(run):
    """Resolved knobs of a run: its knob file, the overrides of its row, and the recipe's values for its schedule."""
    return _knobs(run.knobs, run.overrides or {}, f"experiments.yaml: runs.{run.name}.overrides", run.schedule)


def _knobs(file, overrides, where, schedule="1x"):
    values = dict(experiments.read_yaml(paths.ROOT / file))
    values.pop("dataset", None)
    if unknown := set(overrides) - set(values):
        raise ExperimentError(f"{where}: unknown knob {sorted(unknown)[0]!r}")
    return Knobs.load(values | overrides, file, schedule)


def resolve(run_name, dataset, seed, declared=None):
    """Resolve a declared run on a dataset. Raises ExperimentError for any unknown name or bad value."""
    declared = declared or experiments.load()
    run = declared.run(run_name)
    profile = declared.profile(dataset)
    experiments.lookup(
        profile["backbones"], run.backbone, f"backbone of profile {declared.datasets[dataset]['profile']!r}:"
    )
    knobs = load_knobs(run)
    method = {key: value for key, value in declared.methods[run.method].items() if key != "label"}
    architecture = Architecture.from_mapping(profile["architecture"])
    return Training(
        name=run.name,
        dataset=dataset,
        split=run.direction,
        backbone=run.backbone,
        seed=seed,
        method=method,
        knobs=knobs,
        model=model_config(knobs, method, architecture, profile["backbones"][run.backbone]),
        data=_with_oracle(_data(profile, knobs), dataset) if uses_oracle(knobs, method) else _data(profile, knobs),
        schedule=dict(profile["schedules"][run.schedule]),
        optimisation=_optimisation(profile),
        initial_weights=profile["initial_weights"]["kind"] != "random",
    )


def resolve_pretraining(backbone, dataset, declared=None):
    """Resolve the box-only detector that the runs of a `pretrain` profile start from."""
    declared = declared or experiments.load()
    profile = declared.profile(dataset)
    experiments.lookup(profile["backbones"], backbone, "backbone")
    recipe = profile["initial_weights"]
    knobs = _knobs("pipeline/methods/contrastmask/knobs.yaml", {}, "")
    method = {"cam": False, "cl_head": False}
    optimisation = _optimisation(profile, recipe["lr"])
    return Training(
        name=f"init_{backbone}",
        dataset=dataset,
        split=recipe["direction"],
        backbone=backbone,
        seed=recipe["seed"],
        method=method,
        knobs=knobs,
        model=_without_masks(
            model_config(
                knobs,
                method,
                Architecture.from_mapping(profile["architecture"]),
                profile["backbones"][backbone],
            )
        ),
        data=_data(profile, knobs),
        schedule={"iterations": recipe["iterations"], "milestones": []},
        optimisation=optimisation,
        initial_weights=False,
    )


def _without_masks(model):
    """The same detector with the box branch only."""
    branch = {key: model["roi_head"][key] for key in ("bbox_roi_extractor", "bbox_head")}
    return model | {"type": "FasterRCNN", "roi_head": {"type": "StandardRoIHead", **branch}}


def _data(profile, knobs):
    images, training = profile["images"], profile["training"]
    return {
        "train": steps.train_pipeline(
            images["train_scales"], size_divisor=images["size_divisor"], poly2mask=knobs.mask_format == "bitmap"
        ),
        "test": steps.test_pipeline(images["test_scale"], size_divisor=images["size_divisor"]),
        "batch_size": training["batch_size"],
        "images_per_gpu": training["images_per_gpu"],
    }


def uses_oracle(knobs, method):
    """Whether the contrastive loss sees ground-truth masks of novel objects; nothing else ever does."""
    return method["cl_head"] and knobs.supervision == "oracle"


def _with_oracle(data, dataset):
    return data | {"train": oracle.with_prior_masks(data["train"], dataset)}


def _optimisation(profile, lr=None):
    """Optimiser and learning-rate policy, scaled to the batch by the linear rule: k times the images in a step, k times
    the learning rate and a k-th of the warm-up steps (Goyal et al., arXiv 1706.02677).

    Args:
        lr: instead of the profile's.
    """
    training = profile["training"]
    keys = ("optimizer", "lr_policy", "warmup_iterations", "log_interval", "checkpoint_interval", "precision")
    optimisation = json.loads(json.dumps({key: training[key] for key in keys}))
    if lr is not None:
        optimisation["optimizer"]["lr"] = lr
    if training["lr_batch_size"] is not None:
        factor = training["batch_size"] / training["lr_batch_size"]
        optimisation["optimizer"]["lr"] *= factor
        optimisation["warmup_iterations"] = round(optimisation["warmup_iterations"] / factor)
    return optimisation
