"""What the classes that lost their masks let expect of classes that never had any: numbers, table, figure.

Classes that lost their masks and the classes that have none are taken for draws of the same kind. Then the mean AP of n
of the latter differs from the mean of k of the former as the means of two samples of a normal distribution do, which
gives Student's prediction interval for a mean: mean ± t(k - 1) s sqrt(1/k + 1/n) (Hahn and Meeker, Statistical
Intervals, 1991, section 4.7). It is wider than the confidence interval ± t(k - 1) s / sqrt(k), which is for the mean of
all classes that there could be, and which the mean of a few leaves more often than one time in twenty.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from pipeline import methods
from pipeline.artifacts import files
from pipeline.reporting import style
from pipeline.reporting.panels import shortened
from pipeline.reporting.style import plt
from pipeline.reporting.tables import number

LEVEL = 0.95
FEW = 0.25  # share of objects: of trainings that find fewer, nothing can be concluded
MOST = 20  # classes of a side that a figure or a sentence names
HEADS = {
    "class": "Class",
    "group": "Group",
    "objects": "Validation objects",
    "mask": "Mask AP",
    "with_masks": "with masks",
    "expected": "expected",
    "box": "Box AP",
    "found": "Found",
    "extent": "Extent IoU",
    "projection": "Rows and columns touched",
}


class Interval(NamedTuple):
    """A number in percent with its interval of `LEVEL`; nan bounds where there is no interval."""

    mean: float
    low: float
    high: float

    def __contains__(self, value):
        return self.low <= value <= self.high

    def __str__(self):
        return f"{self.mean:.1f} ({self.low:.1f} to {self.high:.1f})"


def of_mean(values):
    """The confidence interval of the mean of all classes that there could be.

    Args:
        values: AP of each class, percent.
    """
    return _interval(np.mean(values), _factor(values) * _deviation(values) / math.sqrt(len(values)))


def predicted(values, count):
    """The prediction interval of the mean of `count` further classes, see above.

    Args:
        values: AP of each class that lost its masks, percent.
        count: 1 or more.
    """
    return _interval(np.mean(values), _factor(values) * _deviation(values) * math.sqrt(1 / len(values) + 1 / count))


def predicted_from_boxes(masks, boxes, others):
    """The prediction interval of the mean mask AP of classes whose box AP is known.

    The part of its box AP that a class reaches with its masks is taken for a draw; a mean of other classes weighs
    theirs by box AP.

    Args:
        masks, boxes: mask AP and box AP of each class that lost its masks, percent.
        others: box AP of the classes without masks, percent.

    Returns:
        Interval; None where a box AP is 0, of which there is no part.
    """
    if not all(boxes) or not len(others):
        return None
    parts, others = np.divide(masks, boxes), np.asarray(others, dtype=float)
    weights = others / len(others)
    spread = math.sqrt(weights.sum() ** 2 / len(parts) + (weights**2).sum())
    return _interval(parts.mean() * weights.sum(), _factor(parts) * _deviation(parts) * spread)


def _deviation(values):
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _factor(values):
    return stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) if len(values) > 1 else math.nan


def _interval(mean, half):
    """An AP is neither below 0 nor above 100, whatever a normal distribution says."""
    return Interval(float(mean), *(float(np.clip(end, 0, 100)) for end in (mean - half, mean + half)))


class Expectation:
    """What was measured of a plan, and what follows.

    Args:
        plan: pipeline.estimate.Plan.
        measured: as `pipeline.estimate.measure` returns it.

    Attributes:
        rows: a DataFrame with the columns `HEADS` (`expected`: Interval or None), a row for each class that lost its
            masks, then for each novel class.
        novel: Interval of the mean mask AP of the novel classes.
        from_boxes: the same from their box AP, or None.
        truth: mean mask AP of the novel classes, where validation has masks for all of them, else None.
    """

    def __init__(self, plan, measured):
        self.plan = plan
        complete = measured[()]
        held = {name: measured[group][name] for group in plan.groups for name in group}
        self.masks = [each["mask"] for each in held.values()]
        boxes = [each["box"] for each in held.values()]
        of_novel = {name: complete[name] for name in plan.measured}
        self.novel = predicted(self.masks, len(of_novel))
        self.from_boxes = predicted_from_boxes(self.masks, boxes, [each["box"] for each in of_novel.values()])
        truth = [each["mask"] for each in of_novel.values()]
        self.truth = None if None in truth else float(np.mean(truth))
        rows = [
            {"class": name, "group": "base", **each, "with_masks": complete[name]["mask"], "expected": None}
            for name, each in held.items()
        ]
        rows += [
            {
                "class": name,
                "group": "novel",
                **each,
                "with_masks": None,
                "expected": predicted_from_boxes(self.masks, boxes, [each["box"]]) or predicted(self.masks, 1),
            }
            for name, each in of_novel.items()
        ]
        self.rows = pd.DataFrame(rows, columns=list(HEADS))

    def told(self, length):
        """Table and sentences, as Markdown.

        Args:
            length: of a training, in words.
        """
        plan, held = self.plan, self.rows[self.rows["group"] == "base"]
        count = len(plan.measured)
        parted = "each alone" if len(plan.groups) == len(held) else f"in {len(plan.groups)} groups"
        caption = (
            f"{methods.method(plan.run.method).label} on the validation images of {plan.dataset}, percent. "
            f"Trainings of {length}; seed {plan.seed}. {len(held)} base classes lost their masks, {parted}."
        )
        table = self.rows.assign(
            **{name: self.rows[name].map(number) for name in ("mask", "with_masks", "box", "extent", "projection")},
            expected=[
                f"{each.low:.1f} to {each.high:.1f}" if isinstance(each, Interval) else "–"
                for each in self.rows["expected"]
            ],
            group=self.rows["group"].map({"base": "lost its masks", "novel": "novel"}),
        ).rename(columns=HEADS)
        worth, interval = held["with_masks"].astype(float).mean(), of_mean(self.masks)
        lines = [
            f"Mask AP of the {len(held)} classes that lost their masks: mean {interval.mean:.1f}, standard deviation "
            f"{_deviation(self.masks):.1f}, from {min(self.masks):.1f} to {max(self.masks):.1f}; with their masks "
            f"{worth:.1f}. 95 % confidence interval of the mean of such classes: {interval.low:.1f} to "
            f"{interval.high:.1f}.",
            f"**Expected mean mask AP of the novel classes ({count}): {self.novel}**, a 95 % prediction interval.",
        ]
        found, objects = int(held["found"].sum()), int(held["objects"].sum())
        if found < FEW * objects or not any(self.masks):
            lines.append(
                f"**The trainings are too short to tell anything**: they find {found} of {objects} objects, and what "
                "is not found has no mask to judge. Train longer (`--iterations`), or with more images."
            )
        if self.from_boxes:
            lines.append(f"The same from their box AP, of which a mask AP is a part: {self.from_boxes}.")
        if self.truth is not None:
            inside = "inside" if self.truth in self.novel else "outside"
            lines.append(f"Measured, as validation has masks for them: {self.truth:.1f}, {inside} the interval.")
        if plan.kept:
            kept = [f"{name} ({reason})" for name, reason in plan.kept.items()]
            more = f" and {len(kept) - MOST} more" if len(kept) > MOST else ""
            lines.append(f"Kept their masks: {', '.join(kept[:MOST])}{more}.")
        return "\n\n".join([caption, table.to_markdown(index=False, disable_numparse=True), *lines]) + "\n"

    def table(self):
        """The numbers as a DataFrame of plain columns, rows of classes and then of means."""
        bounds = [each if isinstance(each, Interval) else (math.nan,) * 3 for each in self.rows["expected"]]
        classes = self.rows.drop(columns="expected").assign(
            **{name: [each[k] for each in bounds] for k, name in enumerate(("expected", "low", "high"))}
        )
        means = [("mean of classes that lost their masks", of_mean(self.masks)), ("mean of novel classes", self.novel)]
        if self.from_boxes:
            means.append(("mean of novel classes, from box AP", self.from_boxes))
        rows = [{"class": name, "group": "mean", "expected": i.mean, "low": i.low, "high": i.high} for name, i in means]
        if self.truth is not None:
            rows[1]["mask"] = self.truth
        return pd.DataFrame([*classes.to_dict("records"), *rows]).reindex(columns=[*classes.columns])


def draw(expectation):
    """A figure: bars of the classes that lost their masks, points with intervals of the novel ones and their mean.

    Of more than `MOST` classes of a side it shows those with the most validation objects.
    """
    rows = expectation.rows
    base, novel = (rows[rows["group"] == group].nlargest(MOST, "objects").sort_index() for group in ("base", "novel"))
    names = [*base["class"], *novel["class"], "mean of novel"]
    figure, axis = plt.subplots(figsize=(max(style.COLUMN_WIDTH, 1 + 0.32 * len(names)), 2.6), layout="constrained")
    blue, red = style.GROUP_COLOURS["base"], style.GROUP_COLOURS["novel"]
    at = np.arange(len(base))
    axis.bar(at, base["mask"].astype(float), 0.7, color=blue, label="lost its masks")
    axis.scatter(
        at, base["with_masks"].astype(float), marker="_", s=60, color="black", label="with its masks", zorder=3
    )
    points = [*novel["expected"], expectation.novel]
    x = np.arange(len(base), len(names))
    means = np.array([each.mean for each in points])
    ends = np.abs(np.array([(each.low, each.high) for each in points]).T - means)
    axis.errorbar(x, means, ends, fmt="o", color=red, capsize=3, markersize=3, label="expected, 95 %")
    measured = [*novel["mask"], expectation.truth]
    if shown := [(k, value) for k, value in zip(x, measured, strict=True) if pd.notna(value)]:
        axis.scatter(*zip(*shown, strict=True), marker="x", s=14, color="black", label="measured", zorder=3)
    axis.axvline(len(names) - 1.5, color="#999999", linewidth=0.6, linestyle=":")
    axis.set_xticks(range(len(names)), [shortened(name, 18) for name in names], rotation=35, ha="right", fontsize=6)
    axis.set_ylabel("mask AP (%)")
    axis.set_ylim(bottom=0)
    style.legend(figure, axis.get_legend_handles_labels()[0], figure.get_figwidth(), handlelength=1)
    return figure


def write(expectation, length, folder):
    """Write estimate.md, estimate.csv and estimate.png.

    Args:
        length: of a training, in words.
        folder: created if missing.

    Returns:
        The text of the first.
    """
    text = expectation.told(length)
    files.write_text(folder / "estimate.md", text)
    files.write_text(folder / "estimate.csv", expectation.table().to_csv(index=False, float_format="%.3f"))
    with style.paper_style(), files.replacing(folder / "estimate.png") as temporary:
        figure = draw(expectation)
        figure.savefig(temporary, format="png", dpi=220)
        plt.close(figure)
    return text
