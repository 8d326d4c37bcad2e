"""Read what train and evaluate left of a run: its scores, loss curves and predictions.

`dataset` is the chosen one everywhere; a run with a dataset of its own is read from there.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import mean, stdev

import pandas as pd

from pipeline.artifacts import attempts, paths, results
from pipeline.declaration import config, experiments, recipe
from pipeline.errors import ExperimentError
from pipeline.tasks import Task
from pipeline.tasks.semantic import stored


@dataclass(frozen=True)
class Result:
    """The evaluation of one run on one dataset: `pipeline.artifacts.results.Scores`, one for each seed.

    `recipe` is that of its training, None in results of before there were any.
    """

    run: str
    dataset: str
    direction: str
    task: Task
    seeds: tuple
    per_seed: tuple
    recipe: str | None = None

    def value(self, metric=None, kind=None, group=None):
        """Return (mean, sample standard deviation) over the seeds, at full precision; of the main number by default.

        Both are NaN where the metric is undefined (no such ground truth); a deviation needs two seeds.
        """
        main_group, main_kind, main_metric = self.task.main
        key = (group or main_group, kind or main_kind, metric or main_metric)
        return _mean_and_deviation([scores.value(*key) for scores in self.per_seed])

    def undefined(self, kind=None):
        """Return {reason: category names} of the categories that the evaluation could not score in some seed."""
        reasons = {}
        for scores in self.per_seed:
            for name, reason in scores.undefined.get(kind or self.task.main_kind, {}).items():
                reasons.setdefault(str(reason), {})[name] = None
        return {reason: list(names) for reason, names in reasons.items()}

    def reasons(self, kind=None):
        """Return {category: why it could not be scored} as the evaluation states it."""
        return {name: reason for reason, names in self.undefined(kind).items() for name in names}

    def category_values(self):
        """Return {category name: mean over the seeds of its first metric, NaN where undefined in one}."""
        kind, metric = self.task.main_kind, self.task.category_metrics[0].key
        return {
            name: _mean_and_deviation([scores.category(kind, name, metric) for scores in self.per_seed])[0]
            for name in self.per_seed[0].categories(kind)
        }


def _mean_and_deviation(values):
    if any(value is None for value in values):
        return math.nan, math.nan
    return mean(values), stdev(values) if len(values) > 1 else math.nan


def evaluate_command(*runs):
    """The command that makes the results of runs, whatever of their inputs is missing."""
    return experiments.repro("evaluate", *runs)


def state(dataset, run):
    """Why a run has no result: "not run", or what became of the latest attempt, as `status.Status.describe` says it."""
    known = attempts.read(run.on(dataset), run.name)
    return "not run" if known is None or known.state in ("trained", "evaluated") else known.describe()


def superseded(dataset, run):
    """Whether a result is of an earlier training: a later one began (DVC removed its checkpoint) and did not end."""
    trained = any(paths.run(run.on(dataset), run.name).glob("seed*/checkpoint.pth"))
    return not trained and state(dataset, run) != "not run"


def result(dataset, run):
    """Read the result of a declared run; None where it has not been evaluated or is superseded.

    Args:
        dataset: the chosen one.
        run: `pipeline.declaration.experiments.Run`.

    Raises:
        ExperimentError: the file is not JSON, lacks a field, holds a value that its metric cannot have, or belongs to
            another run, dataset or direction.
    """
    dataset = run.on(dataset)
    path = paths.results(dataset, run.name)
    if not path.exists() or superseded(dataset, run):
        return None
    content = results.read(dataset, run.name)
    try:
        for key, expected in (("run", run.name), ("dataset", dataset), ("direction", run.direction)):
            if content[key] != expected:
                raise _malformed(path, run, f"field {key}: {content[key]!r}, expected {expected!r}")
        per_seed = results.scores(dataset, run.name, content)
        if content["seeds"] != [scores.entry["seed"] for scores in per_seed]:
            raise _malformed(path, run, f"field seeds: {content['seeds']!r} are not those of per_seed")
    except KeyError as error:
        raise _malformed(path, run, f"field {error.args[0]!r} is missing") from None
    seeds = tuple(content["seeds"])
    return Result(run.name, dataset, run.direction, per_seed[0].task, seeds, tuple(per_seed), content.get("recipe"))


def outdated(result):
    """Whether a result is of other code or settings than a training of its run would have today, as far as known."""
    try:
        training = config.resolve(result.run, result.dataset, result.seeds[0])
        return result.recipe is not None and result.recipe != recipe.identity(recipe.of_training(training))
    except ExperimentError:  # said by whatever trains it
        return False


def _malformed(path, run, what):
    return results.malformed(path, run.name, what)


def losses(dataset, run):
    """Read the loss curves of every seed of a run that has a log.

    Returns:
        {seed: data frame indexed by iteration, a column for each logged loss term}; None if there is no log.

    Raises:
        ExperimentError: a line of a log is not a JSON object with `iter`.
    """
    curves = {}
    logs = paths.logs(run.on(dataset), run.name).glob("seed*.jsonl")
    for path in sorted(logs, key=lambda path: int(path.stem.removeprefix("seed"))):
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            frame = pd.DataFrame(lines).set_index("iter").sort_index()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _malformed(path, run, "a line is not a JSON object with `iter`") from None
        curves[int(path.stem.removeprefix("seed"))] = frame[[c for c in frame if c.startswith("loss")]].dropna(
            how="all"
        )
    return curves or None


def predictions(dataset, run):
    """Read the predictions of a run's first seed: {image id: COCO result records}; None if there are none."""
    result_of_run = result(dataset, run)
    if result_of_run is None:
        return None
    records = results.read_predictions(run.on(dataset), run.name, result_of_run.seeds[0])
    if records is None:
        return None
    by_image = defaultdict(list)
    for record in records:
        by_image[record["image_id"]].append(record)
    return by_image


def label_maps(dataset, run, images):
    """Read what a run's first seed predicts for some images: {file name: uint8 [H, W]}; None if there is nothing.

    Raises:
        ExperimentError: they are not those whose scores the results hold, or one of the images is not among them.
    """
    result_of_run = result(dataset, run)
    if result_of_run is None:
        return None
    place, seed = run.on(dataset), result_of_run.seeds[0]
    digest = results.predictions_digest(place, run.name, seed)
    if digest is None:
        return None
    path = paths.predictions(place, run.name, seed)
    scored = result_of_run.per_seed[0].entry.get("predictions")
    if scored and scored != digest:
        raise _malformed(path, run, "its content is not what was scored")
    found, wanted = {}, set(images)
    for name, label_map in stored.read(path):
        if name in wanted:
            found[name] = label_map
        if len(found) == len(wanted):
            break
    if missing := [name for name in images if name not in found]:
        raise _malformed(path, run, f"no prediction of {missing[0]}")
    return found
