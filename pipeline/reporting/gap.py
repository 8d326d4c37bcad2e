"""From base to novel categories: how much a run loses where it was trained with less."""

import math
import textwrap

import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.errors import NothingToShow
from pipeline.reporting import measured, style
from pipeline.reporting.category_scores import undefined_sentence
from pipeline.reporting.style import plt
from pipeline.reporting.tables import initial

LABEL_WIDTH = 28  # letters in a line of a label beside the axis


def _unit(metric):
    return "points" if metric.unit == "%" else metric.unit


def draw(request):
    """One line a run from its main metric on base to that on novel categories, with the gap in points."""
    results, note = request.available(measured.result)
    request.groups()
    words, metric = request.task.words(), request.task.main_metric
    if len(request.task.supervision) < 2:
        raise NothingToShow(f"the task {request.task.name} tells no base and novel categories apart")
    called = dict(zip(("base", "novel"), request.task.supervision, strict=True))
    labels = [textwrap.fill(series.label, LABEL_WIDTH) for series, _ in results]
    lines = sum(max(2, label.count("\n") + 1) for label in labels)
    figure, axis = plt.subplots(figsize=(style.COLUMN_WIDTH, 0.6 + 0.17 * lines), layout="constrained")
    right = 0
    for y, (_, result) in enumerate(results):
        ends = {group: result.value(group=called[group]) for group in ("base", "novel")}
        known = {group: end for group, end in ends.items() if not math.isnan(end[0])}
        right = max([right, *(value + np.nan_to_num(deviation) for value, deviation in known.values())])
        if len(known) == 2:
            (base, _), (novel, _) = ends.values()
            axis.plot([novel, base], [y, y], color="#bbbbbb", linewidth=2, zorder=1)
            axis.annotate(
                f"{base - novel:.1f}",
                ((base + novel) / 2, y),
                (0, 2.5),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=6.5,
            )
        for group in [group for group in ends if group not in known]:
            axis.annotate(
                f"{called[group]} undefined",
                (1, y),
                (-2, 2.5),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize=6,
                style="italic",
                color=style.GROUP_COLOURS[group],
            )
        for group, marker in (("base", "o"), ("novel", "D")):
            if group in known:
                value, deviation = known[group]
                axis.errorbar(
                    value,
                    y,
                    xerr=None if math.isnan(deviation) else deviation,
                    fmt=marker,
                    color=style.GROUP_COLOURS[group],
                    markersize=5,
                    elinewidth=1,
                    capsize=2,
                    zorder=2,
                )
    axis.set(
        yticks=range(len(results)),
        yticklabels=labels,
        xlabel=f"{words} ({metric.unit})",
        ylim=(len(results) - 0.5, -0.6),
    )
    right = right or 1
    axis.set_xlim(-0.04 * right, 1.04 * right)  # a point at 0 is drawn whole
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=style.TICK_STEPS))
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    handles = [
        plt.Line2D(
            [], [], color=style.GROUP_COLOURS[group], marker=marker, linestyle="", markersize=5, label=called[group]
        )
        for group, marker in (("novel", "D"), ("base", "o"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, handletextpad=0.2)
    several = any(len(result.seeds) > 1 for _, result in results)
    bars = "bars are one standard deviation over the seeds where there are several" if several else "of one seed each"
    return figure, (
        f"{initial(words)} on {called['base']} and on {called['novel']} categories; the number is the gap in "
        f"{_unit(metric)}, {bars}." + undefined_sentence(results) + note
    )
