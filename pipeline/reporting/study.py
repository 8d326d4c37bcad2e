"""The seed study of drawn data: how far trainings wander, and what that leaves of a difference between two runs.

`reports/seed_study/runs.csv` has a line for each training: `phase`, `run`, `label`, `dataset`, `seed`, `commit` and
numbers in percent. Two runs are compared in pairs of trainings on the same data with the same seed, so that what both
share drops out. Trainings of the phase `explore` were looked at while something was chosen: no number here is of them.
"""

import math
import re
from dataclasses import dataclass, field
from statistics import mean

import pandas as pd
from scipy import stats

from pipeline.artifacts import paths
from pipeline.errors import ExperimentError

COLUMNS = ("phase", "run", "label", "dataset", "seed", "commit")
PHASES = ("held_out", "ablation")
DRAWN = ("generated", "drawn_maps")  # kinds of the data sets that a study is of
FEWEST = 3  # pairs, or data sets: of fewer, no interval is stated
CONFIDENCE = 0.95
BETTER, WORSE, UNKNOWN = "better", "worse", "cannot be told"


@dataclass(frozen=True)
class Study:
    """The trainings of the study that say something of one data set.

    Attributes:
        rows: data frame as in runs.csv, without the phase `explore`, a training once.
        reason: why there are none, as the end of a sentence; empty if there are.
    """

    rows: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    reason: str = ""

    def __bool__(self):
        return not self.rows.empty

    def values(self, run, column):
        """The numbers of a run, indexed by (dataset, seed); undefined ones left out, empty for an unknown column."""
        if column not in self.rows:
            return pd.Series(dtype=float)
        rows = self.rows[self.rows["run"] == run]
        return rows.set_index(["dataset", "seed"])[column].astype(float).dropna()

    def differences(self, run, reference, column):
        """A run less a reference in every pair of trainings, indexed by (dataset, seed)."""
        return (self.values(run, column) - self.values(reference, column)).dropna()

    def compare(self, run, reference, column):
        """The `Comparison` of two runs; None without a pair."""
        found = self.differences(run, reference, column)
        return None if found.empty else Comparison.of(found)

    def noise(self, runs, reference, column):
        """How far a pair of trainings differs from the mean of its two runs: the `Noise`, pooled over some runs.

        None where no run has `FEWEST` pairs, or all pairs of a run are the same (as where everything is 0).
        """
        groups = [self.differences(run, reference, column) for run in dict.fromkeys(runs) if run != reference]
        groups = [group for group in groups if len(group) >= FEWEST]
        freedom = sum(len(group) - 1 for group in groups)
        squares = sum(((group - group.mean()) ** 2).sum() for group in groups)
        if not freedom or math.isclose(squares, 0, abs_tol=1e-12):
            return None
        return Noise(math.sqrt(squares / freedom), freedom, sum(map(len, groups)))

    @property
    def described(self):
        """What it is of: `3 data sets, seeds 0, 1, 2, code at 0123456789ab`."""
        datasets, seeds = self.rows["dataset"].nunique(), sorted(self.rows["seed"].unique())
        commits = sorted({str(commit)[:12] for commit in self.rows["commit"]})
        return (
            f"{datasets} data set{'s' * (datasets != 1)}, seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}, "
            f"code at {', '.join(commits)}"
        )


@dataclass(frozen=True)
class Noise:
    """The spread of the difference between two trainings on the same data with the same seed.

    Attributes:
        deviation: its standard deviation, in the unit of the number.
        freedom: degrees of freedom behind it.
        pairs: of trainings behind it.
    """

    deviation: float
    freedom: int
    pairs: int

    def threshold(self, pairs=1):
        """How far the mean of a few more pairs lies from 0 at most if the runs do not differ: the half width of the
        95 % prediction interval. Pairs with one reference in common are taken for independent.
        """
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom)
        return quantile * self.deviation * math.sqrt(1 / pairs + 1 / self.pairs)


@dataclass(frozen=True)
class Comparison:
    """The mean of paired differences with what is known of it, in the unit of the number.

    The interval over the pairs decides, as reports/seed_study/protocol.yaml says. Pairs on one data set can agree more
    with each other than with those on another; then that over the means of the data sets is the safer one.

    Attributes:
        mean, deviation: of the pairs; the deviation of one pair is NaN.
        pairs, sets: how many pairs, on how many data sets.
        over_pairs, over_sets: 95 % intervals by Student's t, (low, high); None of fewer than `FEWEST`.
        clustered: whether the pairs differ more between data sets than within (mean squares of the analysis of
            variance).
        positive: how many pairs are above 0.
    """

    mean: float
    deviation: float
    pairs: int
    sets: int
    over_pairs: tuple | None
    over_sets: tuple | None
    clustered: bool
    positive: int

    @classmethod
    def of(cls, differences):
        """The comparison of differences indexed by (dataset, seed)."""
        by_set = differences.groupby(level=0)
        means, count = by_set.mean(), len(differences)
        return cls(
            mean=float(differences.mean()),
            deviation=float(differences.std()),
            pairs=count,
            sets=len(means),
            over_pairs=interval(differences),
            over_sets=interval(means),
            clustered=_clustered(by_set, differences.mean(), count),
            positive=int((differences > 0).sum()),
        )

    @property
    def interval(self):
        """The one that a verdict follows."""
        return self.over_pairs

    def verdict(self, lower_is_better=False):
        """`BETTER` or `WORSE` where the interval is clear of 0, else `UNKNOWN`."""
        return verdict(self.interval, lower_is_better)


def verdict(bounds, lower_is_better=False):
    """What an interval (low, high) of a difference says; None says nothing."""
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return UNKNOWN
    return BETTER if (bounds[0] > 0) != lower_is_better else WORSE


def interval(values):
    """The 95 % interval of the mean of independent values by Student's t; None of fewer than `FEWEST`."""
    values = list(values)
    if len(values) < FEWEST:
        return None
    centre, error = mean(values), stats.sem(values)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * error)
    return centre - half, centre + half


def _clustered(by_set, overall, count):
    """Whether values of a group agree more with each other than with those of other groups."""
    groups = [values for _, values in by_set]
    if len(groups) < 2 or count == len(groups):
        return False
    between = sum(len(values) * (values.mean() - overall) ** 2 for values in groups) / (len(groups) - 1)
    within = sum(((values - values.mean()) ** 2).sum() for values in groups) / (count - len(groups))
    return bool(between > within)


def column(task, group=None, kind=None, metric=None):
    """How runs.csv calls a number of a task, such as `novel_mask_mAP`; the main one by default."""
    main_group, main_kind, main_metric = task.main
    return "_".join(filter(None, (group or main_group, task.kinds[kind or main_kind], metric or main_metric)))


def numbers(rows):
    """The columns of runs.csv that are scores."""
    return [name for name in rows if re.match(r"(novel|base|all)_", name)]


def read():
    """All lines of runs.csv, a data frame; None without the file.

    Raises:
        ExperimentError: it is no table, or a number of it is none.
    """
    path = paths.study()
    try:
        rows = pd.read_csv(path)
        return rows.astype(dict.fromkeys(numbers(rows), float))
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError) as error:  # also of pandas' parser
        reason = " ".join(str(error).split())
        raise ExperimentError(f"{path.relative_to(paths.ROOT)}: not a table of trainings ({reason})") from None


def of(dataset, declared):
    """The `Study` of a data set: trainings on data that are drawn in the same way with other seeds, at the same scale.

    Args:
        declared: `pipeline.declaration.experiments.Experiments`, where the data sets of the study stand too.
    """
    entry = declared.dataset(dataset)
    if entry["kind"] not in DRAWN:
        return Study(reason=f"{dataset} is not drawn")
    rows, name = read(), paths.study().relative_to(paths.ROOT)
    if rows is None:
        return Study(reason=f"there is no {name}")
    if missing := [known for known in COLUMNS if known not in rows]:
        return Study(reason=f"{name} has no column {missing[0]!r}")
    alike = {other for other, row in declared.datasets.items() if _but_seed(row) == _but_seed(entry)}
    rows = rows[rows["phase"].isin(PHASES) & rows["dataset"].isin(alike)]
    if rows.empty:
        return Study(reason=f"{name} has none on data that are drawn and trained on as {dataset} is")
    return Study(rows.drop_duplicates(["run", "dataset", "seed"]).dropna(axis="columns", how="all"))


def _but_seed(entry):
    return {key: value for key, value in entry.items() if key != "seed"}
