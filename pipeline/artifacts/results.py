"""Results of a run on disk: its scores, a digest of them, and the digest of the predictions that were scored.

Both are looked at whenever they are read: a changed byte never becomes another number. Files without a digest, as
other tools write them, are read as they are.
"""

import hashlib
import json

from pipeline import tasks
from pipeline.artifacts import files, paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError

DIGEST = "digest"


class Scores:
    """The numbers of one seed: long tables of values, in the units of their metrics, None where undefined.

    Attributes:
        task: `pipeline.tasks.Task` that they are of.
        entry: of `per_seed` in a result, JSON: `scores`, rows of {group, kind, metric, value}; `per_category`, rows of
            {category, kind, metric, value}; `undefined`, {kind: {category: reason}}, if there are reasons; also `seed`
            and, as far as known, `fingerprint` of the training and digest of the `predictions`.
    """

    def __init__(self, task, entry):
        """Raises KeyError for a missing field, ValueError for a value that cannot be right, TypeError otherwise."""
        self.task, self.entry = task, entry
        self.undefined = entry.get("undefined", {})
        self._values = {(row["group"], row["kind"], row["metric"]): row["value"] for row in entry["scores"]}
        self._categories = {
            (row["kind"], row["category"], row["metric"]): row["value"] for row in entry["per_category"]
        }
        self._check()

    def _check(self):
        for group in self.task.groups:
            for kind in self.task.kinds:
                for metric in self.task.metrics:
                    self._require(metric, self.value(group, kind, metric.key), kind, group)
        for (kind, category, key), value in self._categories.items():
            self._require(self.task.category_metric(key), value, "per_category", kind, category)
        for reasons in self.undefined.values():
            reasons.items()

    @staticmethod
    def _require(metric, value, *where):
        if not metric.valid(value):
            field = ".".join((*where, metric.key))
            raise ValueError(
                f"field {field}: {value!r}; valid: null or a number in [{metric.lowest:g}, {metric.highest:g}]"
            )

    @property
    def main(self):
        """The number that runs are compared by."""
        return self.value(*self.task.main)

    def value(self, group, kind, metric):
        """A number of a group of categories. Raises KeyError if there is no such row."""
        try:
            return self._values[group, kind, metric]
        except KeyError:
            raise KeyError(f"{kind}.{group}.{metric}") from None

    def category(self, kind, category, metric):
        """A number of one category; None if it has none."""
        return self._categories.get((kind, category, metric))

    def categories(self, kind):
        """Names of the categories that were scored, in the order of the rows."""
        return list(dict.fromkeys(category for known, category, _ in self._categories if known == kind))

    def tracked(self):
        """{name in MLflow, such as `novel/mask/AP`: value} of the defined numbers."""
        return {self.task.tracked(*key): value for key, value in self._values.items() if value is not None}

    def per_category(self):
        """{kind: {category: {metric: value}}}."""
        nested = {}
        for (kind, category, metric), value in self._categories.items():
            nested.setdefault(kind, {}).setdefault(category, {})[metric] = value
        return nested


def write(dataset, run_name, content):
    """Write results/<dataset>/<run>.json.

    Args:
        content: JSON object with `run`, `dataset`, `task` and `per_seed`, entries of `Scores`.
    """
    files.write_json(paths.results(dataset, run_name), content | {DIGEST: _digest(content)})


def read(dataset, run_name):
    """The results of a run, or None if there are none.

    Raises:
        ExperimentError: the file is not what was written, or of another run.
    """
    path = paths.results(dataset, run_name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise malformed(path, run_name, f"not JSON ({error})") from None
    if not isinstance(content, dict):
        raise malformed(path, run_name, "it has not the structure of a result")
    written = content.pop(DIGEST, None)
    if written is not None:
        if _digest(content) != written:
            raise malformed(path, run_name, "its content is not what was written")
        for key, expected in (("run", run_name), ("dataset", dataset)):
            if content.get(key) != expected:
                raise malformed(path, run_name, f"field {key}: {content.get(key)!r}, expected {expected!r}")
    return content


def scores(dataset, run_name, content):
    """The `Scores` of every seed of a result that `read` gave.

    Raises:
        ExperimentError: it lacks a field, as files of earlier versions do, or holds a value that cannot be right.
    """
    path = paths.results(dataset, run_name)
    try:
        if (name := content["task"]) not in tasks.names():
            raise malformed(path, run_name, f"field task: {name!r}, valid: {', '.join(tasks.names())}")
        task = tasks.task(name)
        if not content["per_seed"]:
            raise malformed(path, run_name, "field per_seed is empty")
        found = []
        for entry in content["per_seed"]:
            try:
                found.append(Scores(task, entry))
            except ValueError as error:
                field, _, rest = str(error).partition(":")
                raise malformed(path, run_name, f"{field} of seed {entry['seed']}:{rest}") from None
        return found
    except KeyError as error:
        raise malformed(path, run_name, f"field {error.args[0]!r} is missing") from None
    except (TypeError, AttributeError):
        raise malformed(path, run_name, "it has not the structure of a result") from None


def read_predictions(dataset, run_name, seed):
    """The predictions of a seed, JSON, as they were scored; None if there are none.

    Raises:
        ExperimentError: they are not those whose scores the results hold.
    """
    path = paths.predictions(dataset, run_name, seed)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    scored = [
        entry.get("predictions")
        for entry in (read(dataset, run_name) or {}).get("per_seed", ())
        if entry.get("seed") == seed
    ]
    if scored and scored[0] and hashlib.sha256(content).hexdigest() != scored[0]:
        raise malformed(path, run_name, "its content is not what was scored")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise malformed(path, run_name, f"not JSON ({error})") from None


def predictions_digest(dataset, run_name, seed):
    """Hex digest of the predictions of a seed, to be kept with their scores; None if there are none."""
    path = paths.predictions(dataset, run_name, seed)
    if not path.exists():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def malformed(path, run_name, what):
    """The error for a file of an evaluation; DVC makes it anew once it is gone."""
    make = experiments.repro("evaluate", run_name)
    return ExperimentError(f"{path.relative_to(paths.ROOT)}: {what}; remove the file and run `{make}`")


def _digest(content):
    plain = json.loads(json.dumps(content))  # keys and sequences as they will be read
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
