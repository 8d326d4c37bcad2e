"""The main number of a task against one knob: measured points from the runs of a table, published ones beside them.

The value of a knob is what a run resolves it to, never what a label says.
"""

import math
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from pipeline.declaration import config
from pipeline.errors import ExperimentError, NothingToShow
from pipeline.reporting import published, style
from pipeline.reporting.style import plt
from pipeline.reporting.tables import initial

STUDY_COLOUR = "#555555"
MARGIN = 0.15  # of the span of the values, above and below


@dataclass(frozen=True)
class Point:
    """A knob value with the main number of the task.

    Attributes:
        score: in the unit of its metric.
        deviation: length of the error bar to either side, in points; NaN for none.
        printed: whether the paper lists this value.
    """

    value: float
    score: float
    deviation: float = math.nan
    printed: bool = True


def knob_value(run, knob, profile=None):
    """What a declared run resolves a knob to: its knob file, then its overrides, the word `recipe` by the recipe.

    Args:
        profile: that of the dataset, on which the recipe's value may depend.

    Raises:
        ExperimentError: the knob is unknown or no number, or a value is bad.
    """
    value = getattr(config.load_knobs(run, profile), knob, None)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ExperimentError(f"knob {knob!r} cannot be drawn on an axis: run {run.name} has {value!r}")
    return value


def measured_points(knob, results, table, profile=None, group=None):
    """The measured curve of a group of categories, of the task's main one by default.

    Args:
        knob: name of the knob.
        results: [(run, measured.Result), ...].
        table: the table whose rows name the runs.
        profile: as in `knob_value`.
        group: name of the group.

    Returns:
        Points in the order of their values; the deviation is the standard deviation over seeds, NaN for one seed. A run
        whose row has no published twin is not `printed`, one whose score is undefined is left out.
    """
    printed = {run for row in table["rows"] if "published" in row for run in row.get("runs", [])}
    points = [
        Point(knob_value(run, knob, profile), *result.value(group=group), run.name in printed)
        for run, result in results
    ]
    return sorted((point for point in points if not math.isnan(point.score)), key=lambda point: point.value)


def study_points(knob, runs, table, seeds, column, profile=None):
    """The curve of the seed study: its reference row at the mean of its trainings, the others as far off as in pairs.

    Args:
        runs: of the figure.
        table: the table whose rows name the runs; one is the reference.
        seeds: `study.Study` of the dataset.
        column: of the study.
        profile: as in `knob_value`.

    Returns:
        Points in the order of their values; the deviation is half of the 95 % interval of the difference from the
        reference, 0 for the reference. Empty where the study lacks the reference, or an interval for one of the others.
    """
    names = next((row["runs"] for row in table["rows"] if row.get("reference")), [])
    reference = next((run.name for run in runs if run.name in names), None)
    centre, points = seeds.values(reference, column).mean(), []
    for run in runs:
        comparison = seeds.compare(run.name, reference, column)
        if comparison is None or comparison.interval is None:
            return []
        half = 0.0 if run.name == reference else comparison.interval[1] - comparison.mean
        points.append(Point(knob_value(run, knob, profile), centre + comparison.mean, half))
    return sorted(points, key=lambda point: point.value)


def published_points(knob, table, direction, metric):
    """The published curve of a direction: knob values from `factors` of the published rows beside those of the table.

    `metric` is the key of the main metric of the task.

    The deviation is by how much the authors say that a repetition may differ.
    """
    points = []
    for row in table["rows"]:
        if "published" not in row:
            continue
        printed = published.row(table["published"], row["published"])
        score = printed["results"].get(direction, {}).get(metric)
        if score is not None:
            tolerance = published.tolerance(metric, table["published"])
            points.append(Point(printed["factors"][knob], score, math.nan if tolerance is None else tolerance))
    return sorted(points, key=lambda point: point.value)


def draw(dataset, measured, printed, entry, task, colour, tolerance=None, studied=()):
    """Draw both: in one panel on the dataset of the paper, else in a panel each with a scale of its own.

    Further groups of categories have a panel each. Measured points of one seed are not joined: without a known spread,
    ups and downs between them are no curve.

    Args:
        dataset: name of the dataset of the measured points.
        measured: {group of categories: list of `Point`}, the first one is that of `printed` and `studied`.
        printed: list of `Point`; may be empty.
        entry: the figure's `axis` (label of the knob).
        task: `pipeline.tasks.Task` of the points.
        colour: of the measured ones.
        tolerance: how far the authors say that a repetition may differ, None if they do not.
        studied: the points of the seed study, if there are.

    Returns:
        (matplotlib Figure, caption).

    Raises:
        NothingToShow: the score of every run is undefined.
    """
    groups = list(measured)
    if not measured[groups[0]]:
        raise NothingToShow(f"{task.words()} on {groups[0]} categories is undefined on {dataset}")
    comparable = published.comparable(dataset) or not printed  # nothing printed: no second panel to keep apart
    panels = [(group, points) for group, points in measured.items() if points]
    count = len(panels) + (not comparable)
    here = [point for points in measured.values() for point in points]
    values, theirs = ({point.value for point in points} for points in (here, printed))
    apart = not comparable and not values & theirs  # as where a scaled-down profile has other values stand for them
    figure, axes = plt.subplots(
        1,
        count,
        figsize=(style.COLUMN_WIDTH if count < 3 else style.PAGE_WIDTH, 1.95),
        squeeze=False,
        sharex=not apart,
        layout="constrained",
    )
    left, right = axes[0, 0], axes[0, 0] if comparable else axes[0, -1]
    several = not any(math.isnan(point.deviation) for point in here)
    joined = several and not studied  # else the study has the curve
    for axis, (_, points) in zip(axes.flat, panels, strict=False):
        _curve(axis, points, colour, "o", "-" if joined else "none", "measured", band=joined)
    if studied:
        _curve(left, studied, STUDY_COLOUR, "", "-", "seed study", band=True)
    if printed:
        _curve(right, printed, "black", "s", "--", "published")
    shown = [points for _, points in panels]
    shown[0] = [*shown[0], *studied, *(printed if comparable else ())]
    shown += [] if comparable else [printed]
    span = max(_span(points) for points in shown)
    for axis, points in zip(axes.flat, shown, strict=True):
        low, high = _bounds(points)
        axis.set_ylim((low + high - span) / 2 - MARGIN * span, (low + high + span) / 2 + MARGIN * span)
        ticks = sorted((theirs if axis is right else values) if apart else values | theirs)
        axis.set_xticks(ticks, [f"{value:g}" for value in ticks])
        axis.margins(x=0.08)
        axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.grid(axis="y")
    metric = task.main_metric
    number = task.words(name=metric.label)
    left.set_ylabel(f"{number}, {groups[0]} ({metric.unit})" if len(panels) == 1 else f"{number} ({metric.unit})")
    figure.supxlabel(entry["axis"], fontsize=plt.rcParams["axes.labelsize"])
    paper = published.PAPERS[task.reads][1]
    if count > 1:
        for axis, (group, _) in zip(axes.flat, panels, strict=False):
            axis.set_title(f"measured{f', {group}' if len(panels) > 1 else ''}\n{dataset}")
    if not comparable:
        right.set_title(f"published{f', {groups[0]}' if len(panels) > 1 else ''}\n{paper}")
    if comparable or studied or not all(point.printed for point in here):
        handles = left.get_legend_handles_labels()[0]
        if not comparable:
            handles += right.get_legend_handles_labels()[0]
        style.legend(figure, handles, style.COLUMN_WIDTH, handlelength=1.8)
    where = (
        ""
        if comparable
        else (
            " Each panel has a scale of its own, of the same number of points: heights are not comparable between "
            f"{dataset} and {paper.split()[0]}, at most the order of the values is."
        )
    )
    known = any(not math.isnan(point.deviation) for point in here)
    bars = "one standard deviation over the seeds" if known else "none, one seed each"
    if studied:
        bars += (
            "; curve and band: mean of the seed study, with the 95 % interval of its difference from the reference row"
        )
    elif not several:
        bars += " (how far another seed would move a point is not known, so none are joined)"
    stated = f"; published: the ±{tolerance} that the authors state" if printed and tolerance is not None else ""
    return figure, (
        f"{initial(number)} on {' and on '.join(groups)} categories against {entry['axis']}. Error bars, measured: "
        f"{bars}{stated}.{where}"
    )


def _curve(axis, points, colour, marker, line, label, band=False):
    values, scores = [point.value for point in points], [point.score for point in points]
    axis.plot(values, scores, linestyle=line, color=colour, linewidth=1, label="_", zorder=1)
    if band:
        low, high = ([point.score + side * point.deviation for point in points] for side in (-1, 1))
        axis.fill_between(values, low, high, color=colour, alpha=0.15, linewidth=0, zorder=0)
    for point in points if marker else ():
        face = colour if point.printed else "white"
        bar = None if math.isnan(point.deviation) else point.deviation
        axis.errorbar(
            point.value,
            point.score,
            yerr=bar,
            fmt=marker,
            color=colour,
            markerfacecolor=face,
            markersize=4,
            elinewidth=0.9,
            capsize=2,
            zorder=2,
        )
    axis.plot([], [], linestyle=line, marker=marker, color=colour, linewidth=1, markersize=4, label=label)
    if marker and not all(point.printed for point in points):
        axis.plot([], [], marker, color=colour, markerfacecolor="white", markersize=4, label="not in the paper")


def _bounds(points):
    deviations = [0 if math.isnan(point.deviation) else point.deviation for point in points]
    return (
        min(point.score - d for point, d in zip(points, deviations, strict=True)),
        max(point.score + d for point, d in zip(points, deviations, strict=True)),
    )


def _span(points):
    low, high = _bounds(points)
    return max(high - low, 0.5)  # half a point, or a single value would stand on an axis of no height
