"""Tasks as rooms: what is predicted, how supervision is hidden from a training, and how a prediction is scored.

A folder here that exports `TASK` is a task. Importing one costs nothing: what it does is imported when it is called.
Tables, figures, MLflow and headline numbers iterate over its kinds, groups and metrics, and know none by name.
"""

import difflib
import importlib
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import ExperimentError

FIRST = "instances"  # the task of the paper, where none is named
UNITS = {"%": "percent"}  # in words
WHOLE = "all"  # the group of all categories; the others are those of a direction


@dataclass(frozen=True)
class Metric:
    """One number of a group of categories, and a column of tables.

    Attributes:
        key: in results and in CSV.
        label, latex: head of the column, as plain text and in LaTeX.
        name: in sentences and MLflow, such as `AP` for the mean `mAP`; the label if left out.
        unit: as axes and captions show it.
        lowest, highest: the range of its values.
        lower_is_better: as of a distance or an error.
    """

    key: str
    label: str
    latex: str
    name: str = ""
    unit: str = "%"
    lowest: float = 0
    highest: float = 100
    lower_is_better: bool = False

    def __post_init__(self):
        object.__setattr__(self, "name", self.name or self.label)

    @property
    def in_unit(self):
        """Such as `AP in percent`."""
        return f"{self.name} in {UNITS.get(self.unit, self.unit)}"

    def valid(self, value):
        """Whether a value can be right: a number of the range, or None for undefined."""
        if value is None:
            return True
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value) and self.lowest <= value <= self.highest


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: of its folder.
        metrics: of a group of categories, in the order of columns.
        category_metrics: of one category, the first is the one that figures show.
        kinds: {what is compared with the ground truth: how sentences call it}; the first is that of tables.
        groups: groups of categories that are scored; `WHOLE` is every category.
        main: (group, kind, metric key), the number that tables and figures compare runs by.
        headline: (group, kind, metric key, name) of the numbers that `dvc metrics show` prints.
        supervision: {group: what its objects are trained with} of the two groups of a direction, as the task calls
            them: first base, then novel. Empty for a task that tells none apart.
        counted: what `counts` counts, in words.
        training_modules: dotted names of what a training imports of it, so that MMDetection's registries know its data
            set and the types of its steps: roots of the import closure that identifies a training.
        prediction_modules, scoring_modules: the same of a prediction, and of its scores.
        hide: (annotations, label set, direction, folder, statistics, caption): write the training annotations of a
            direction, `train.json` among them; `training.split` names them. `statistics` is None but for `FIRST`.
        training_set: (training) -> the training set, as MMDetection's trainer takes it.
        validation_set: (dataset, steps) -> the validation set.
        steps: (images of a profile) -> {"train": steps, "test": steps}.
        predict: (training, path): write the predictions of a trained run.
        score: (dataset, path of predictions, {group: category names}) -> {"scores", "per_category", "undefined"}, see
            `pipeline.artifacts.results.Scores`.
        counts: (dataset) -> {category: its number of validation objects, in words}; those without any are left out.
        label: (training, path): write what a trained run says of its training images, for others to train on. None of a
            task that has no such thing; where there is, its module and those of a prediction identify what is written.
        reads: what its data sets hold: `objects` with boxes and masks, or `maps`, a class for every pixel.
    """

    name: str
    metrics: tuple[Metric, ...]
    category_metrics: tuple[Metric, ...]
    kinds: dict[str, str]
    groups: tuple[str, ...]
    main: tuple[str, str, str]
    headline: tuple[tuple[str, str, str, str], ...]
    supervision: dict[str, str]
    counted: str
    training_modules: tuple[str, ...]
    prediction_modules: tuple[str, ...]
    scoring_modules: tuple[str, ...]
    hide: Callable
    training_set: Callable
    validation_set: Callable
    steps: Callable
    predict: Callable
    score: Callable
    counts: Callable
    label: Callable = None
    reads: str = "objects"

    @property
    def main_group(self):
        return self.main[0]

    @property
    def main_kind(self):
        return self.main[1]

    @property
    def main_metric(self):
        """The `Metric` of the main number."""
        return self.metric(self.main[2])

    @property
    def parts(self):
        """The groups that a direction tells apart."""
        return tuple(group for group in self.groups if group != WHOLE)

    def named(self, base, novel):
        """{group, as the task calls it: its categories} of the base and the novel categories of a direction."""
        return dict(zip(self.supervision, (base, novel), strict=False))

    @property
    def trained_with(self):
        """A sentence on what groups are trained with; empty for a task that tells none apart."""
        if not self.supervision:
            return ""
        (base, full), (novel, weak) = self.supervision.items()
        return f"{base.capitalize()} categories are trained with {full}, {novel} ones with {weak} alone."

    @property
    def keys(self):
        """Keys of the metrics, in the order of columns."""
        return tuple(metric.key for metric in self.metrics)

    def metric(self, key):
        """The `Metric` of groups of a key; raises KeyError for an unknown one."""
        return {metric.key: metric for metric in self.metrics}[key]

    def category_metric(self, key):
        """The `Metric` of one category of a key; raises KeyError for an unknown one."""
        return {metric.key: metric for metric in self.category_metrics}[key]

    def words(self, kind=None, name=None):
        """How sentences call a number, such as `mask AP`: that of the main kind and metric unless another is named."""
        return f"{self.kinds[kind or self.main_kind]} {name or self.main_metric.name}".strip()

    def tracked(self, group, kind, key):
        """The name of a number in MLflow, such as `novel/mask/AP`."""
        return "/".join(filter(None, (group, self.kinds[kind], self.metric(key).name)))


def split_of(name, direction):
    """How the training annotations of a task and a direction are called; tasks share none."""
    return direction if name == FIRST else f"{direction}.{name}"


def lazily(module, function):
    """A function that imports its module when it is called."""

    def call(*args, **kwargs):
        return getattr(importlib.import_module(module), function)(*args, **kwargs)

    call.__name__ = call.__qualname__ = function
    call.module = module
    return call


def names():
    """Names of all tasks, `FIRST` first: of the folders here."""
    rooms = (found.name for found in pkgutil.iter_modules(__path__) if found.ispkg)
    return tuple(sorted(rooms, key=lambda name: (name != FIRST, name)))


def task(name):
    """The task of a name. Raises ExperimentError for an unknown one."""
    if name not in names():
        near = difflib.get_close_matches(str(name), names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ExperimentError(f"unknown task {name!r}; valid: {', '.join(names())} (folders of pipeline/tasks){hint}")
    return importlib.import_module(f"{__name__}.{name}").TASK
