"""From a declared run to everything its training needs.

`resolve` is pure reading: it checks every name and value and returns plain dictionaries in MMDetection's vocabulary.
Nothing that changes numbers is decided elsewhere.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from pipeline import methods, tasks
from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.declaration.knobs import KnobSet
from pipeline.errors import ExperimentError

ALL_TRAINED = {"frozen_stages": -1, "norm_eval": False}  # of a backbone


@dataclass(frozen=True)
class Training:
    """One training: a run (or the pre-training of a backbone) on a dataset with one seed.

    Attributes:
        name: run name, or `init_<key of the weights>` for a pre-training.
        dataset: name of the dataset; `split` names the training annotations, `tasks.split_of`.
        seed: of initialisation, sampling and augmentation.
        method: name of its folder in pipeline/methods.
        knobs: of the method, resolved.
        model: MMDetection model configuration.
        data: `train` and `test` pipelines, `label`, those of the views by which training images are labelled, unless
            they are predicted like others, `batch_size` (images per optimiser step), `images_per_gpu` (in
            one iteration, at most).
        schedule: {epochs | iterations, milestones} in optimiser steps' unit, and `stands_for` of a scale-down.
        optimisation: optimiser, learning-rate policy, warm-up, log and checkpoint intervals (in optimiser steps),
            precision.
        initial_weights: key of the weights it starts from, runs/<dataset>/init/<key>.pth; None starts afresh.
        fitted: whether those are of a trained detector, of which it takes what fits.
        priors: key of what its method learnt beforehand from the base masks of its split, `methods.priors_key`; None of
            a method that learns nothing so.
        labels: name of the run whose labels of the training images it trains on, those of its own seed; None of one
            that trains on what its split holds.
        all_masks: whether it trains on the complete annotations, whatever its split hides (`methods.Method.all_masks`).
    """

    name: str
    dataset: str
    split: str
    backbone: str
    seed: int
    method: str
    knobs: KnobSet
    model: dict
    data: dict
    schedule: dict
    optimisation: dict
    initial_weights: str | None
    fitted: bool = False
    priors: str | None = None
    labels: str | None = None
    all_masks: bool = False

    @property
    def direction(self):
        return self.split.partition(".")[0]

    def to_json(self):
        """The training as text; plain data, so that reading it can run nothing."""
        return json.dumps(tagged(self._plain()), indent=1)

    @classmethod
    def from_json(cls, text):
        """The training that `to_json` wrote. Raises ExperimentError for anything else."""
        try:
            content = untagged(json.loads(text))
            return cls(**content | {"knobs": methods.method(content["method"]).knobs(**content["knobs"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ExperimentError(f"not a training that this version wrote: {error}; launch it again") from None

    def numbers(self):
        """What determines the result but code, data and initial weights, as plain data.

        Names are left out, so equal runs share one training; so are the knobs, which act through the model and the
        data steps, and what only an evaluation or a labelling reads.
        """
        left_out = ["name", "dataset", "backbone", "method", "knobs", "initial_weights"]
        if not self.fitted:  # runs have the identity that they had before there was such a thing
            left_out.append("fitted")
        left_out += [key for key in ("priors", "labels") if getattr(self, key) is None]
        left_out.append("split" if self.all_masks else "all_masks")
        content = {key: value for key, value in self._plain().items() if key not in left_out}
        content["initial_weights"] = self.initial_weights is not None
        content["data"] = {k: v for k, v in content["data"].items() if k not in ("test", "label")}
        content["optimisation"] = {k: v for k, v in content["optimisation"].items() if k != "checkpoint_interval"}
        return content

    def _plain(self):
        return asdict(replace(self, knobs=None)) | {"knobs": self.knobs.model_dump()}


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


def load_knobs(run, profile=None):
    """Resolved knobs of a run: its knob file, the seeds that were asked for, the overrides of its row, and the recipe's
    values for its schedule.

    Args:
        profile: that of the dataset, on which a knob of value `recipe` may depend; not needed for others, as the seeds.

    Raises ExperimentError for a value that is bad, or an override that the run's method does not read.
    """
    chosen = methods.method(run.method)
    values = dict(experiments.read_yaml(paths.ROOT / run.knobs))
    values.pop("dataset", None)
    if run.pinned and (seeds := experiments.asked_seeds()):
        values["seeds"] = list(seeds)
    chosen.require_own(run.overrides or {}, f"runs.{run.name}.overrides: method {run.method}")
    values |= overrides(run, profile)
    return chosen.load_knobs(values, run.knobs, run.schedule, profile and profile.get("knobs"))


def overrides(run, profile=None):
    """{knob: value} that a row overrides, each by what stands for it at the scale of a profile."""
    instead = (profile or {}).get("instead", {})
    return {
        knob: instead[knob].get(value, value) if knob in instead else value
        for knob, value in (run.overrides or {}).items()
    }


def resolve(run_name, dataset, seed, declared=None):
    """Resolve a declared run on a dataset. Raises ExperimentError for any unknown name or bad value."""
    declared = declared or experiments.load()
    run = declared.run(run_name)
    profile = declared.profile(dataset)
    for part in ("backbone", "schedule"):
        named = f"{part} of profile {declared.datasets[dataset]['profile']!r}:"
        experiments.lookup(profile[f"{part}s"], getattr(run, part), named)
    knobs, chosen = load_knobs(run, profile), methods.method(run.method)
    data = _data(profile, methods.task_of(run.method), chosen.item_images(knobs))
    afresh = profile["initial_weights"]["kind"] == "random"
    model = _model(chosen, knobs, profile, run.backbone, len(declared.label_set(dataset)), afresh)
    return Training(
        name=run.name,
        dataset=dataset,
        split=run.split,
        backbone=run.backbone,
        seed=seed,
        method=run.method,
        knobs=knobs,
        model=chosen.with_priors(model, dataset, run.priors) if run.priors else model,
        data=data | {"train": chosen.steps(data["train"], knobs, dataset)},
        schedule=dict(profile["schedules"][run.schedule]),
        optimisation=chosen.optimisation(_optimisation(profile), knobs),
        initial_weights=None if afresh else methods.weights_key(chosen.detector, run.backbone),
        fitted=profile["initial_weights"]["kind"] == "checkpoint",
        priors=run.priors,
        labels=run.labels,
        all_masks=chosen.all_masks(knobs),
    )


def resolve_pretraining(key, dataset, declared=None):
    """Resolve the training of initial weights that the runs of a `pretrain` profile start from.

    Args:
        key: of the weights, see `methods.weights_key`: the detector that it names is the method that is trained.
    """
    declared = declared or experiments.load()
    profile = declared.profile(dataset)
    detector, knobs, model = resolve_detector(key, dataset, declared, afresh=True)
    _, backbone = methods.of_weights(key, profile["backbones"])
    recipe = profile["initial_weights"]
    chosen = methods.method(detector)
    data = _data(profile, methods.task_of(detector))
    return Training(
        name=f"init_{key}",
        dataset=dataset,
        split=tasks.split_of(methods.task_of(detector).name, recipe["direction"]),
        backbone=backbone,
        seed=recipe["seed"],
        method=detector,
        knobs=knobs,
        model=model,
        data=data | {"train": chosen.steps(data["train"], knobs, dataset)},
        schedule={"iterations": recipe["iterations"], "milestones": recipe.get("milestones", [])},
        optimisation=_optimisation(profile, recipe["lr"]),
        initial_weights=f"classifier_{key}" if recipe.get("classifier") else None,
    )


class Detector(NamedTuple):
    """The detector that initial weights are of; columns as of `Training`."""

    method: str
    knobs: KnobSet
    model: dict


def resolve_detector(key, dataset, declared=None, afresh=False):
    """The `Detector` of a key of initial weights (`methods.weights_key`) on a dataset.

    Args:
        afresh: it is trained from nothing.
    """
    declared = declared or experiments.load()
    profile = declared.profile(dataset)
    detector, backbone = methods.of_weights(key, profile["backbones"])
    chosen = methods.method(detector)
    knobs = chosen.load_knobs(chosen.pinned(), f"pipeline/methods/{detector}", scale=profile.get("knobs"))
    model = _model(chosen, knobs, profile, backbone, len(declared.label_set(dataset)), afresh)
    return Detector(detector, knobs, model)


def _model(method, knobs, profile, backbone, num_classes, afresh=False):
    """A model configuration; of a training that starts from nothing, nothing that the profile freezes is frozen."""
    sizes = method.sizes(**profile["architecture"].get(method.detector, {}))
    layers = profile["backbones"][backbone]
    if afresh:
        layers = layers | {key: value for key, value in ALL_TRAINED.items() if key in layers}
    return method.model(knobs, sizes, layers, num_classes)


def _data(profile, task, item_images=1):
    """Steps, and the sizes of batches: in items, where a method makes an item of several images."""
    training = profile["training"]
    return {
        **task.steps(profile["images"]),
        "batch_size": max(1, training["batch_size"] // item_images),
        "images_per_gpu": max(1, training["images_per_gpu"] // item_images),
    }


def _optimisation(profile, lr=None):
    """Optimiser and learning-rate policy, scaled to the batch by the linear rule: k times the images in a step, k times
    the learning rate and a k-th of the warm-up steps (Goyal et al., arXiv 1706.02677).

    Args:
        lr: instead of the profile's.
    """
    training = profile["training"]
    keys = ("optimizer", "lr_policy", "warmup_iterations", "log_interval", "checkpoint_interval", "precision")
    optimisation = json.loads(json.dumps({key: training[key] for key in keys}))
    optimisation["grad_clip"] = training.get("grad_clip")
    if lr is not None:
        optimisation["optimizer"]["lr"] = lr
    if training["lr_batch_size"] is not None:
        factor = training["batch_size"] / training["lr_batch_size"]
        optimisation["optimizer"]["lr"] *= factor
        optimisation["warmup_iterations"] = round(optimisation["warmup_iterations"] / factor)
    return optimisation
