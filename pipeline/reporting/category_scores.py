"""A bar for every category and run."""

import numpy as np
import pandas as pd

from pipeline.errors import NothingToShow
from pipeline.reporting import measured, panels, style
from pipeline.reporting.panels import shortened
from pipeline.reporting.style import plt
from pipeline.reporting.tables import initial

CATEGORIES_A_ROW = 20
SIDE_BY_SIDE = 2  # numbers above as many bars of a category fit beside each other


def draw(request):
    """Bars of the first category metric for every category of the validation set, groups apart, one bar a run."""
    results, note = request.available(measured.result)
    task = request.task
    metric, called = task.category_metrics[0], dict(zip(("base", "novel"), task.supervision, strict=False))
    groups, counts = request.groups(), task.counts(request.dataset)
    by_run = pd.DataFrame({series.run.name: result.category_values() for series, result in results})
    # What is not in the validation set has no score and is no category to show.
    in_set = [name for name in by_run.index if name in counts]
    by_run = by_run.loc[in_set].sort_index()
    order = by_run.sort_values(by_run.columns[-1], ascending=False, kind="stable", na_position="last").index
    groups = {group: [name for name in order if name in names] for group, names in groups.items()}
    chunks = [
        (group, names[i : i + CATEGORIES_A_ROW])
        for group, names in groups.items()
        for i in range(0, len(names), CATEGORIES_A_ROW)
    ]
    if not chunks:
        raise NothingToShow(f"{request.dataset} has no validation object of a base or novel category")
    one_row = sum(len(names) for _, names in chunks) <= CATEGORIES_A_ROW
    rows, widths = (1, [max(2, len(names)) for _, names in chunks]) if one_row else (len(chunks), [1])
    figure, axes = plt.subplots(
        rows,
        len(widths),
        figsize=(style.PAGE_WIDTH, 0.35 + 2.0 * rows),
        squeeze=False,
        sharey=True,
        width_ratios=widths,
        layout="constrained",
    )
    for axis, (group, names) in zip(axes.flat, chunks, strict=True):
        _bars(axis, group, called.get(group, group), by_run.loc[names], [series for series, _ in results], counts)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"{task.words(name=metric.name)} ({metric.unit})")
    axes[0, 0].set_ylim(0, None if np.nanmax([0, *by_run.to_numpy().flat]) > 0 else 1)
    handles = [plt.Rectangle((0, 0), 1, 1, label=series.label, **_look(series)) for series, _ in results]
    style.legend(figure, handles, style.PAGE_WIDTH, handlelength=1, handleheight=0.8)
    apart = ""
    if len(task.supervision) == 2:
        (base, full), (novel, weak) = task.supervision.items()
        apart = f", {base} categories (trained with {full}) and {novel} ones ({weak} only) apart"
    return figure, (
        f"{initial(task.words(name=metric.name))} of every category of the validation set{apart}, ordered by the last "
        f"method; n: {task.counted}." + undefined_sentence(results) + note
    )


def _look(series, edge=None):
    """A bar of a run: the colour of its method, lighter and hatched where another run of the figure has the same."""
    hatch = style.SAME_METHOD_HATCHES[series.line]
    colour = style.tint(series.colour, style.SAME_METHOD_LINES.index(series.line))
    return {"facecolor": colour, "edgecolor": "white" if hatch else edge or series.colour, "hatch": hatch}


def undefined_sentence(results):
    """For a caption: ` Undefined: reason (categories); ....`, or nothing."""
    by_reason = {}
    for _, result in results:
        for name, reason in result.reasons().items():
            by_reason.setdefault(reason, {})[name] = None
    reasons = [f"{reason} ({', '.join(names)})" for reason, names in by_reason.items()]
    return f" Undefined: {'; '.join(reasons)}." if reasons else ""


def _bars(axis, group, called, values, series, counts):
    width = 0.8 / len(series)
    top = np.nanmax([1, *values.to_numpy().flat])
    for k, one in enumerate(series):
        at = np.arange(len(values)) + (k - (len(series) - 1) / 2) * width
        heights = values[one.run.name].to_numpy(dtype=float)
        axis.bar(at, np.nan_to_num(heights), width, linewidth=0.3, **_look(one, "white"))
        for x, height in zip(at, heights, strict=True):
            if height < 0.01 * top:  # else it would look like no bar
                axis.annotate(
                    f"{height:.1f}",
                    (x, height),
                    (0, 1),
                    textcoords="offset points",
                    ha="center",
                    fontsize=5,
                    color=one.colour,
                    rotation=90 if len(series) > SIDE_BY_SIDE else 0,
                )
    nowhere = values.isna().all(axis=1).to_numpy()
    gaps = [
        x + (k - (len(series) - 1) / 2) * width
        for k, one in enumerate(series)
        for x in np.flatnonzero(values[one.run.name].isna().to_numpy() & ~nowhere)
    ]
    for x in (*np.flatnonzero(nowhere), *gaps):
        axis.annotate(
            "undefined",
            (x, 0),
            (0, 3),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=5.5,
            style="italic",
            color="#555555",
        )
    axis.set_title(f"{called} categories", color=style.GROUP_COLOURS[group], fontweight="bold")
    # Short rows of a tall stack keep the bar width of the full ones, and one category is no broad bar.
    in_row = axis.get_subplotspec().get_gridspec().ncols > 1
    axis.set_xlim(-0.6, max(2, len(values) if in_row else CATEGORIES_A_ROW) - 0.4)
    labels = [f"{shortened(name, panels.LONGEST_TEXT)}\n{counts[name]}" for name in values.index]
    axis.set_xticks(
        range(len(values)), labels, rotation=35, ha="right", rotation_mode="anchor", fontsize=6, linespacing=0.95
    )
    axis.tick_params(axis="x", length=0)
    axis.spines["bottom"].set(color=style.GROUP_COLOURS[group], linewidth=1.2)
    axis.grid(axis="y")
