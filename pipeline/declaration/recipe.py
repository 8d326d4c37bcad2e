"""The identity of a training: its recipe, which is its resolved configuration and the code that it imports.

A recipe is made in no time and depends on no data. `train` depends on the file that stage `recipes` writes of it, so
that only what can change a number trains again. The versions of torch, mmcv and mmdet are no part of it: another
version rounds otherwise, which is not worth weeks of GPUs. They are kept with the weights, and belong to the identity
of saved predictions.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from importlib import metadata

from pipeline import artifacts, methods, tasks
from pipeline.artifacts import files, paths
from pipeline.declaration import closure, config, experiments, subsets
from pipeline.errors import ExperimentError

TRAINING = "pipeline.training.computation"
WEIGHTS = "pipeline.training.initial_weights"
STARTING = ("pipeline.trained.starting",)  # of runs that start from a trained detector
# Of the backbone, where a profile has one.
CLASSIFIER, CROPS = "pipeline.training.object_classifier", "pipeline.tasks.instances.object_crops"
RESULTS = ("pipeline.artifacts.detections", "pipeline.artifacts.results")  # that no prediction, but an evaluation needs
RELEASED = "contrastmask"  # whose checkpoints are declared without `names`, and those that nobody's map is needed for
LIBRARIES = ("torch", "mmcv-full", "mmdet")


def of_training(training):
    """All that a training's numbers depend on, seeds and data apart, as plain data: {configuration, code}."""
    numbers = config.tagged(training.numbers())
    numbers.pop("seed")
    if training.optimisation["precision"] != "fp32":  # the room of the method says what is cast
        numbers["autocast"] = config.tagged(methods.method(training.method).autocast)
    return {"configuration": numbers, "code": code_of(_roots(training))}


def of_prediction(training):
    """All that the detections of a trained run depend on, weights and data apart: {configuration, code}."""
    tested = {"model": training.model, "test": training.data["test"]}
    prediction = methods.task_of(training.method).prediction_modules
    code = code_of((*_method(training), *prediction), _scoring(training))
    return {"configuration": config.tagged(tested), "code": code}


def of_evaluation(training):
    """All that the predictions and scores of a trained run depend on, weights and data apart: {configuration, code}."""
    predicted = of_prediction(training)
    return predicted | {"code": predicted["code"] | code_of(_scoring(training))}


def of_labelling(training):
    """All that labels of the training images depend on, weights and data apart: {configuration, code}."""
    views = training.data.get("label", [training.data["test"]])
    task = methods.task_of(training.method)
    code = code_of((*_method(training), *task.prediction_modules, task.label.module), _scoring(training))
    return {"configuration": config.tagged({"model": training.model, "views": views}), "code": code}


def of_initial_weights(key, dataset, declared):
    """All that initial weights depend on, seed and data apart: {configuration, code}."""
    profile = declared.profile(dataset)
    source = profile["initial_weights"]
    code = {WEIGHTS: closure.closure([WEIGHTS])[WEIGHTS]}
    if source["kind"] == "pretrain":
        recipe = of_training(config.resolve_pretraining(key, dataset, declared))
        if source.get("classifier"):
            recipe["configuration"]["classifier"] = config.tagged(dict(source["classifier"]))
            code |= code_of((CLASSIFIER, CROPS))
        return {"configuration": recipe["configuration"], "code": recipe["code"] | code}
    if source["kind"] == "checkpoint":
        maps = (methods.method(map_of(source)).checkpoint_map,)
        named = {"kind": source["kind"], "sha256": source["sha256"].lower()}
        return {"configuration": named, "code": code_of((*STARTING, *maps))}
    _, backbone = methods.of_weights(key, profile["backbones"])
    named = {"kind": source["kind"], "url": source.get(backbone), "backbone": profile["backbones"][backbone]}
    return {"configuration": config.tagged(named), "code": code}


def map_of(source):
    """The method whose map of names a declared checkpoint is read with: that of the authors whose code wrote it."""
    return source.get("names") or RELEASED


def _roots(training):
    fitting = STARTING if training.fitted else ()
    return (TRAINING, *fitting, *methods.task_of(training.method).training_modules, *_method(training))


def _scoring(training):
    return (*methods.task_of(training.method).scoring_modules, *RESULTS)


def _method(training):
    return methods.modules_of(training.method, training.knobs)


@functools.cache
def code_of(roots, without=()):
    """{module: digest} of the code below some modules as it was when this process first asked.

    A training asks when it begins: what is edited later is not what it runs.
    """
    return closure.closure(roots, without)


def require_unchanged(training):
    """Refuse the end of a training whose code was edited while it ran.

    Raises:
        ExperimentError: names the modules. The weights stay in scratch/, for the code of when it began.
    """
    began, now = code_of(_roots(training)), closure.closure(_roots(training))
    if edited := [module for module in {**began, **now} if began.get(module) != now.get(module)]:
        make = experiments.repro("train", training.name)
        raise ExperimentError(
            f"run {training.name}: {', '.join(edited)} was edited while it trained, so its weights are of the code "
            f"before; they are kept: undo the edit, or run `{make}` to train with it"
        )


def versions():
    """Versions of the libraries that compute a training or a prediction."""
    return {name: metadata.version(name) for name in LIBRARIES}


def identity(content):
    """Hex digest of a recipe, that of an older one if `commands.accept` found both to train the same.

    Args:
        content: as `of_training` and its like return it.
    """
    accepted = read_accepted()
    code = follow(accepted["code"], _digest(content["code"]))
    return follow(accepted["recipes"], _digest({"configuration": content["configuration"], "code": code}))


def code_identity(content):
    """Hex digest of a recipe's code, as pipeline/accepted.yaml names it."""
    return _digest(content["code"])


def read_accepted():
    """{code, recipes}: what pipeline/accepted.yaml maps to older digests.

    Raises ExperimentError for another content.
    """
    path = paths.accepted()
    content = experiments.read_yaml(path) if path.exists() else {}
    sections = {name: content.get(name) or {} for name in ("code", "recipes")}
    if set(content) - set(sections) or not all(_is_mapping(section) for section in sections.values()):
        raise ExperimentError(f"{path}: expected `code` and `recipes`, digests of digests; restore it from git")
    return sections


def _is_mapping(section):
    return isinstance(section, dict) and all(isinstance(item, str) for pair in section.items() for item in pair)


def follow(mapping, name):
    """Where a mapping leads to in the end. Raises ExperimentError if it leads back."""
    seen = [name]
    while name in mapping:
        name = mapping[name]
        if name in seen:
            raise ExperimentError(f"pipeline/accepted.yaml: {name} leads back to itself; remove one of its entries")
        seen.append(name)
    return name


def fingerprint(training):
    """Hex digest of what determines a training's result: recipe, seed, annotations, images, initial weights, and what
    its method learnt from the split beforehand or another run says of the images.

    Raises ExperimentError if the split, the initial weights, the priors or the labels do not exist yet.
    """
    digest = hashlib.sha256(f"{identity(of_training(training))} {training.seed}".encode())
    annotations = (
        subsets.train(training.dataset).annotations
        if training.all_masks
        else paths.split_train(training.dataset, training.split)
    )
    inputs = [annotations, paths.manifest(training.dataset)]
    if training.initial_weights:
        inputs.append(paths.initial_weights(training.dataset, training.initial_weights))
    if training.priors:
        folder = paths.learnt_priors(training.dataset, training.priors)
        inputs += sorted(folder.iterdir()) if folder.is_dir() else [folder]
    if training.labels:  # the index has the digest of the labels
        inputs.append(paths.label_index(training.dataset, training.labels, training.seed))
    for path in inputs:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except FileNotFoundError:
            missing = path.relative_to(paths.ROOT)
            make = experiments.repro("train", training.name)
            raise ExperimentError(f"{missing}: no such file; run `{make}`") from None
    return digest.hexdigest()[:20]


def write(dataset):
    """Write the recipes of all chosen runs and initial weights on a dataset, and remove those of others.

    recipes/<dataset>/ holds what stages depend on: <run>.json, evaluation/<run>.json, labelling/<run>.json of runs that
    others train on the labels of, and init/<weights>.json, each
    {"recipe": digest, "format": of what the stage writes} and, of runs, the seeds. content/ holds what was digested,
    in words, which no stage depends on; looks.json, what only reports depend on: labels, colours, metrics.
    """
    declared = experiments.load()
    selection = experiments.selected(declared)
    runs, weights = experiments.made_on(selection, dataset)
    labelling = experiments.runs_labelling(selection)
    written = {paths.looks(dataset): _looks(declared)}
    for name in runs:
        seeds = config.load_knobs(declared.run(name)).seeds
        training = config.resolve(name, dataset, seeds[0], declared)
        made = {"training": of_training(training), "evaluation": of_evaluation(training)}
        if name in labelling:
            made["labelling"] = of_labelling(training)
        for kind, content in made.items():
            target = paths.recipe(dataset, name, kind)
            written[target] = _depended(content, kind) | {"seeds": list(seeds)}
            written[paths.recipe_content(dataset, name, kind)] = content
    for name in weights:
        content = of_initial_weights(name, dataset, declared)
        seed = declared.profile(dataset)["initial_weights"].get("seed")
        written[paths.recipe(dataset, name, "init")] = _depended(content, "training") | {"seed": seed}
        written[paths.recipe_content(dataset, name, "init")] = content
    paths.recipes(dataset).mkdir(parents=True, exist_ok=True)  # DVC wants it without a run, too
    for path, content in written.items():
        files.write_json(path, content)
    for path in paths.recipes(dataset).rglob("*.json"):
        if path not in written:
            path.unlink()


def _looks(declared):
    """Labels, colours and words of the methods of declared runs, and how their tasks show numbers, as plain data."""
    used = {name: methods.method(name) for name in sorted({run.method for run in declared.runs.values()})}
    shown = [field.name for field in dataclasses.fields(tasks.Task) if field.type is not Callable]
    rooms = {name: methods.task_of(name) for name in used}
    return {
        "methods": {name: {"label": one.label, "colour": one.colour, "about": one.about} for name, one in used.items()},
        "tasks": {
            task.name: {name: _plain(getattr(task, name)) for name in shown}
            for task in sorted(rooms.values(), key=lambda task: task.name)
        },
    }


def _plain(value):
    """Metrics are data classes, and one may reach to infinity, which JSON has no number for."""
    return json.loads(json.dumps(value, default=lambda metric: {k: str(v) for k, v in vars(metric).items()}))


def _depended(content, kind):
    return {"recipe": identity(content), "format": artifacts.FORMATS[kind]}


def _digest(content):
    return closure.digest(json.dumps(content, sort_keys=True))
