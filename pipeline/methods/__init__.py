"""The methods, a folder each: what a run's column `method` names.

A folder that exports `METHOD` is a method; `shared` holds what several are made of. Nothing here imports torch: a
method names the modules that do, and `register` imports them where a model is built.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from pipeline import tasks
from pipeline.declaration import knobs as knob_sets
from pipeline.declaration.strict import Strict, options
from pipeline.errors import ExperimentError

TWO_STAGE = "two_stage"  # the detector of the methods of the paper


def _same(steps, knobs, dataset):
    return steps


def _unchanged(settings, knobs):
    return settings


def _none(knobs):
    return ()


def _one(knobs):
    return 1


def _nothing(knobs):
    return ""


def _nobody(knobs):
    return None


def _never(knobs):
    return False


@dataclass(frozen=True)
class Method:
    """What the pipeline asks of a method.

    Attributes:
        task: name of the task whose data it reads and whose scores it is given.
        label: how tables and pages call it.
        colour: how figures draw it, `#rrggbb`.
        about: what it is, in words; part of the description of every tracked run.
        knobs: its `KnobSet`.
        knob_file: their pinned values, None where the class's defaults are those.
        recipes: presets behind the word `recipe`, None without any.
        sizes: a `Strict` model: what a profile's `architecture.<detector>` may set; the defaults are full size.
        detector: name of the method, often another one, whose model initial weights are trained with. Methods that name
            the same one start from the same weights.
        model: (knobs, sizes, backbone, num_classes) -> MMDetection model configuration, plain containers only.
        modules: what to import so that MMDetection's registries know the types that the model names.
        more_modules: knobs -> further modules, for types that some values of the knobs alone bring.
        steps: (training steps, knobs, dataset) -> training steps: what the method adds to or leaves out of the data.
        item_images: knobs -> images of an item of the training set, by which a step has fewer items than images.
        optimisation: (settings, knobs) -> settings of the optimisation, as of `config.Training`, for switches to what a
            method's authors trained with; a profile's are the frame in which rows are compared.
        differs: knobs -> what a published row of the method was trained with that a run with these knobs is not, in
            words, which tables show below.
        unread: knobs -> names of those that then change nothing, which such differences leave out.
        cost: of a training step, in those of its detector with a mask head; trainings that take longest start first.
        autocast: (dotted part of the model, name of its method) that a lower precision is used for.
        priors: module whose `make(dataset, direction, out_dir)` learns from the base masks of a split what its
            trainings begin with; stage `priors` runs it. None without any.
        with_priors: (model configuration, dataset, key of the split's priors) -> that of a training that begins so.
        labelled_by: knobs -> name of the run whose labels of the training images it trains on, None of one that trains
            on what its split holds. Stage `label` makes them, with the seeds of both.
        all_masks: knobs -> whether it trains with the masks of all classes and nothing else of its split: runs that
            differ in their direction alone then share a training.
        look_inside: module whose `write(training, base, novel)` stores what figures show of a trained model's inside.
        inside_figures: kinds of figures that show it.
        inside_maps: of the arrays that it stores, the maps of objects that a figure of kind `maps` shows: (name of the
            array, title, what it is in words). Values are in [0, 1]; an array `frames` says where in shares of the
            object's box, by default the box itself.
        golden: module whose `verify(folder)` compares it with numbers of other code.
        checkpoint_map: module that knows checkpoints of its authors' code: `convert(file, out, reverse)` (returns the
            backbone), `renamed(state)` (None if it is not of that code), `classes()`, `configuration(state, path)` (the
            model's, in MMDetection's words) and, of detectors, `configuration_of(backbone)`. One whose checkpoints are
            of several label sets has `classes_of(state)` and `label_set_of(state)`, and `UNREAD`, a pattern of names
            that they may lack.
    """

    task: str
    label: str
    colour: str
    about: str
    knobs: type
    detector: str
    model: Callable
    modules: tuple[str, ...]
    sizes: type = Strict
    knob_file: Path | None = None
    recipes: Path | None = None
    more_modules: Callable = _none
    steps: Callable = _same
    item_images: Callable = _one
    optimisation: Callable = _unchanged
    differs: Callable = _nothing
    unread: Callable = _none
    cost: float = 1.0
    autocast: tuple[tuple[str, str], ...] = ()
    priors: str | None = None
    with_priors: Callable | None = None
    labelled_by: Callable = _nobody
    all_masks: Callable = _never
    look_inside: str | None = None
    inside_figures: tuple[str, ...] = ()
    inside_maps: tuple[tuple[str, str, str], ...] = ()
    golden: str | None = None
    checkpoint_map: str | None = None

    def pinned(self) -> dict:
        """The values of its knob file; empty without one."""
        return YAML(typ="safe", pure=True).load(self.knob_file) if self.knob_file else {}

    def load_knobs(self, mapping: dict, source: str, schedule: str = "1x", scale: dict | None = None):
        """Its knobs from a knob file's values, which may be of several methods; arguments as of `knobs.load`.

        Raises:
            ExperimentError: a knob is unknown to every method, or one of its own is missing or has a bad value.
        """
        others = [name for name in mapping if name not in self.knobs.model_fields]
        known = all_knobs() if others else ()
        for name in others:
            if name not in known:
                raise ExperimentError(f"{source}: unknown knob {name!r}{knob_sets.nearest(name, [*known, 'dataset'])}")
        return knob_sets.load(self.knobs, mapping, source, schedule, self.recipes, scale)

    def require_own(self, names, source: str):
        """Refuse knobs that it does not have (ExperimentError), whichever other method has them."""
        for name in names:
            if name not in self.knobs.model_fields:
                nearest = knob_sets.nearest(name, self.knobs.model_fields)
                raise ExperimentError(f"{source}: unknown knob {name!r}{nearest}")

    def preset(self, recipe: str, schedule: str = "1x", **overrides):
        """A preset as a whole, for what must not follow anybody's choice of knobs.

        Args:
            recipe: name of a column of its recipes file.
            schedule: as in `knobs.load`.
            overrides: knobs that are to differ. Those that no preset decides are as in the pinned knob file.
        """
        decided = dict.fromkeys(knob_sets.preset_values(self.recipes, recipe), knob_sets.RECIPE)
        return self.load_knobs(
            {**self.pinned(), **decided, "recipe": recipe, **overrides}, self.knob_file.name, schedule
        )


def names() -> tuple[str, ...]:
    """Names of all methods in alphabetical order."""
    return _rooms(tuple(__path__))


@functools.cache  # a check of the declaration asks thousands of times
def _rooms(folders):
    found = sorted(room.name for room in pkgutil.iter_modules(folders) if room.ispkg)
    return tuple(name for name in found if hasattr(importlib.import_module(f"{__name__}.{name}"), "METHOD"))


def method(name: str) -> Method:
    """The method of a name. Raises ExperimentError for an unknown one."""
    known = names()
    if name not in known:
        raise ExperimentError(f"unknown method {name!r}{options(name, known)} (folders of pipeline/methods)")
    return importlib.import_module(f"{__name__}.{name}").METHOD


def task_of(name: str) -> tasks.Task:
    """The task of a method. Raises ExperimentError for an unknown one."""
    return tasks.task(method(name).task)


def having(part: str) -> list[str]:
    """Names of the methods that have a module which a method may have: `golden`, `checkpoint_map`, `look_inside`."""
    return [name for name in names() if getattr(method(name), part) is not None]


def required(name: str, part: str):
    """A module that a method may have: imported. Raises ExperimentError, with those that have one, if it has none."""
    if (module := getattr(method(name), part)) is None:
        raise ExperimentError(f"method {name} has no {part}; valid: {', '.join(having(part)) or 'none'}")
    return importlib.import_module(module)


def weights_key(detector: str, backbone: str) -> str:
    """How initial weights of a detector and a backbone are called."""
    return backbone if detector == TWO_STAGE else f"{detector}_{backbone}"


def of_weights(key: str, backbones) -> tuple[str, str]:
    """Detector and backbone of a key of initial weights. Raises ExperimentError for an unknown one."""
    known = {weights_key(detector, backbone): (detector, backbone) for detector in sizes() for backbone in backbones}
    if key not in known:
        raise ExperimentError(f"unknown initial weights {key!r}{options(key, known)}")
    return known[key]


def priors_key(name: str, direction: str) -> str | None:
    """How what a method learns from the base masks of a direction is called; None if it learns nothing beforehand."""
    owner = _owner(method(name).priors)
    return f"{direction}_{owner}" if owner else None


def _owner(module):
    """The room that a module lies in, which is one of several that begin with what it learns; None without a module."""
    return module and module.rpartition(".")[0].rpartition(".")[2]


def priors_method(name: str) -> str | None:
    """The method that stage `priors` is asked to learn from base masks by, for another that begins with the same."""
    return _owner(method(name).priors)


def all_knobs() -> list[str]:
    """Names of the knobs of all methods, each once."""
    return list(dict.fromkeys(knob for name in names() for knob in method(name).knobs.model_fields))


def knob_files() -> list[str]:
    """The files that the knobs of a run can be read from, below the root: the pinned ones of methods, params.yaml."""
    root = Path(__file__).resolve().parents[2]
    pinned = [file for name in names() if (file := method(name).knob_file) and file.is_relative_to(root)]
    return [*dict.fromkeys(str(file.relative_to(root)) for file in pinned), "params.yaml"]


def sizes() -> dict[str, type]:
    """What a profile may set of each detector."""
    return {method(name).detector: method(method(name).detector).sizes for name in names()}


def modules_of(name: str, knobs) -> tuple[str, ...]:
    """The modules that make the types of a method's model and data steps known."""
    chosen = method(name)
    return chosen.modules + chosen.more_modules(knobs)


def register(name: str, knobs):
    """Import what makes the types of a method's model and data steps known to MMDetection's registries."""
    importlib.import_module("pipeline.compat")  # before anything that imports mmcv
    for module in modules_of(name, knobs):
        importlib.import_module(module)
