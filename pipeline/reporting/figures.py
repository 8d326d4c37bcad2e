"""Figures from the files of train, evaluate and priors: losses, AP, predicted masks, partitions and keys, sensitivity.

A figure is an entry under `figures:` with a `kind` and a list of runs, each with its label. Runs without data on the
chosen dataset are left out and named in the caption; a figure of which no run has data says so in its picture.
"""

import logging
import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from PIL import Image

from pipeline import experiments, paths
from pipeline.datasets.categories import base_and_novel
from pipeline.errors import ExperimentError
from pipeline.experiments import Run, lookup
from pipeline.reporting import cells, examples, measured, qualitative, sensitivity, style
from pipeline.reporting.files import replacing
from pipeline.reporting.style import plt

logger = logging.getLogger("pipeline.figures")

LOSS_TERMS = {  # key in the log: (title, unit)
    "loss": ("Total", ""),
    "loss_rpn_cls": ("RPN objectness", "nats"),
    "loss_rpn_bbox": ("RPN box", "normalised offset"),
    "loss_cls": ("Classification", "nats"),
    "loss_bbox": ("Box", "normalised offset"),
    "loss_mask": ("Mask", "nats per pixel"),
    "loss_contrastive": ("Pixel contrast", "nats"),
}
PANELS_A_ROW = 4
SMOOTHED_SHARE = 0.05  # of the logged points, in the running mean of a loss curve
CATEGORIES_A_ROW = 20


@dataclass(frozen=True)
class Series:
    """A run as a figure shows it."""

    run: Run
    label: str
    colour: str
    line: str


@dataclass(frozen=True)
class Request:
    """One entry of `figures:` on one dataset."""

    name: str
    entry: dict
    dataset: str
    declared: experiments.Experiments
    series: tuple

    def available(self, read, command=measured.evaluate_command):
        """Split the runs by whether `read(dataset, run)` finds data, which `command(run)` makes.

        Returns:
            ([(series, data), ...], sentences naming the runs left out, or "").

        Raises:
            NothingToShow: no run has data.
        """
        found = [(series, read(self.dataset, series.run)) for series in self.series]
        present = [(series, data) for series, data in found if data is not None]
        missing = {series.run.name: measured.state(self.dataset, series.run) for series, data in found if data is None}
        if not present:
            raise examples.NothingToShow(f"none of its runs has data on {self.dataset}; run `{command(*missing)}`")
        return present, "".join(
            f" No result on {self.dataset}, {state}: {run} (`{command(run)}`)." for run, state in missing.items()
        )

    def groups(self):
        """{"base": category names, "novel": category names} of the direction that all runs share."""
        directions = {series.run.direction for series in self.series}
        if len(directions) > 1:
            raise ExperimentError(
                f"figures.{self.name}: its runs have the directions {', '.join(sorted(directions))}; "
                "base and novel mean one thing only within one direction"
            )
        return dict(
            zip(("base", "novel"), base_and_novel(self.declared.directions[directions.pop()]), strict=True)
        )


def build_figure(name):
    """Write `reports/<dataset>/figures/<name>.{png,pdf,svg}` for the chosen dataset.

    Raises:
        ExperimentError: unknown figure or kind, or a file that cannot be right.
    """
    declared, dataset = experiments.load(), experiments.chosen_dataset()
    entry = lookup(declared.figures, name, "figure")
    draw = lookup(KINDS, entry.get("kind"), f"kind of figure {name}:")
    request = Request(name, entry, dataset, declared, series_of(entry, declared))
    with style.paper_style():
        try:
            figure, caption = draw(request)
        except examples.NothingToShow as error:  # no reason to be without the rest of the report
            logger.warning("figure %s: nothing to draw: %s", name, error)
            figure, caption = _empty(f"Nothing to draw: {error}."), f"Nothing to draw: {error}."
        caption = " ".join([f"{entry['title']} on {dataset}.", caption, *entry.get("note", "").splitlines()])
        for extension in style.EXTENSIONS:
            with replacing(paths.figure(dataset, name, extension)) as path:
                figure.savefig(path, metadata=style.metadata(extension, entry["title"], caption, dataset))
        plt.close(figure)


def saved_caption(name, dataset):
    """The caption stored in the PNG of a figure; None if it has not been drawn for this dataset."""
    path = paths.figure(dataset, name, "png")
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.text["Description"] if image.text.get("Source") == dataset else None


def _empty(text):
    """A picture of a sentence."""
    figure = plt.figure(figsize=(style.COLUMN_WIDTH, 0.8))
    figure.text(0.5, 0.5, textwrap.fill(text, 60), ha="center", va="center", color="#555555")
    return figure


def series_of(entry, declared):
    """The runs of a figure with their look: colour by method, line style by order within a method.

    An entry without `runs` shows those of its table.
    """
    seen, series = [], []
    rows = entry.get("runs") or [
        {"label": row["label"], "run": run}
        for row in declared.tables[entry["tables"][0]]["rows"]
        for run in row.get("runs", [])
    ]
    for row in rows:
        run = declared.run(row["run"])
        line = style.SAME_METHOD_LINES[seen.count(run.method) % len(style.SAME_METHOD_LINES)]
        series.append(Series(run, row["label"], style.METHOD_COLOURS[run.method], line))
        seen.append(run.method)
    return tuple(series)


def loss_curves(request):
    """One panel for each loss term; a curve for each run, the mean over its seeds."""
    curves, note = request.available(measured.losses)
    logged = {term for _, seeds in curves for frame in seeds.values() for term in frame}
    terms = [term for term in LOSS_TERMS if term in logged] + sorted(logged - set(LOSS_TERMS))
    columns = min(PANELS_A_ROW, len(terms))
    rows = -(-len(terms) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(style.PAGE_WIDTH, 0.35 + 1.35 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(terms) :]:
        axis.remove()
    for axis, term in zip(axes.flat, terms, strict=False):
        for series, seeds in curves:
            frames = [frame[term].dropna() for frame in seeds.values() if term in frame]
            if not frames:
                continue
            mean = pd.concat(frames, axis=1).mean(axis=1)
            window = max(1, round(SMOOTHED_SHARE * len(mean)))
            axis.plot(mean.index, mean, color=series.colour, alpha=0.25 if window > 1 else 0, linewidth=0.6)
            axis.plot(
                mean.index,
                mean.rolling(window, center=True, min_periods=1).mean(),
                series.line,
                color=series.colour,
            )
        title, unit = LOSS_TERMS.get(term, (term, ""))
        axis.set(title=title, ylabel=unit, ylim=(min(0, axis.get_ylim()[0]), None))
        axis.grid(axis="y")
        axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(4))
    figure.supxlabel("iteration", fontsize=7)
    _legend(figure, [series for series, _ in curves])
    return figure, (
        "Each panel is one term of the loss, already weighted, against the iteration; lines are means "
        f"over the seeds, smoothed by a running mean over {SMOOTHED_SHARE:.0%} of the logged points." + note
    )


def _legend(figure, series):
    handles = [
        plt.Line2D([], [], color=s.colour, linestyle=s.line, linewidth=1.6, label=s.label) for s in series
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=1.8)


def category_ap(request):
    """Bars of mask AP for every category with ground truth, base and novel apart, one bar a run."""
    results, note = request.available(measured.result)
    by_run = pd.DataFrame({series.run.name: result.category_ap() for series, result in results})
    order = by_run.sort_index().sort_values(by_run.columns[-1], ascending=False, kind="stable").index
    groups = {group: [name for name in order if name in names] for group, names in request.groups().items()}
    chunks = [
        (group, names[i : i + CATEGORIES_A_ROW])
        for group, names in groups.items()
        for i in range(0, len(names), CATEGORIES_A_ROW)
    ]
    one_row = sum(len(names) for _, names in chunks) <= CATEGORIES_A_ROW
    rows, widths = (1, [len(names) for _, names in chunks]) if one_row else (len(chunks), [1])
    figure, axes = plt.subplots(
        rows,
        len(widths),
        figsize=(style.PAGE_WIDTH, 0.35 + 1.75 * rows),
        squeeze=False,
        sharey=True,
        width_ratios=widths,
        layout="constrained",
    )
    for axis, (group, names) in zip(axes.flat, chunks, strict=True):
        _category_bars(axis, group, by_run.loc[names], [series for series, _ in results])
    for axis in axes[:, 0]:
        axis.set_ylabel("mask AP (%)")
    handles = [plt.Rectangle((0, 0), 1, 1, color=series.colour, label=series.label) for series, _ in results]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), handlelength=1, handleheight=0.8
    )
    return figure, (
        "Mask AP of every category with ground truth in the validation set, base categories (trained with "
        "masks) and novel ones (boxes only) apart, ordered by the last method." + note
    )


def _category_bars(axis, group, values, series):
    width = 0.8 / len(series)
    for k, one in enumerate(series):
        axis.bar(
            np.arange(len(values)) + (k - (len(series) - 1) / 2) * width,
            values[one.run.name],
            width,
            color=one.colour,
            edgecolor="white",
            linewidth=0.3,
        )
    axis.set_title(f"{group} categories", color=style.GROUP_COLOURS[group], fontweight="bold")
    # Short rows of a tall stack keep the bar width of the full ones.
    axis.set_xlim(
        -0.6, (len(values) if axis.get_subplotspec().get_gridspec().ncols > 1 else CATEGORIES_A_ROW) - 0.4
    )
    axis.set_xticks(range(len(values)), values.index, rotation=35, ha="right", rotation_mode="anchor")
    axis.tick_params(axis="x", length=0)
    axis.spines["bottom"].set(color=style.GROUP_COLOURS[group], linewidth=1.2)
    axis.grid(axis="y")


def base_novel_gap(request):
    """One line a run from its mask AP on base to that on novel categories, with the gap in points."""
    results, note = request.available(measured.result)
    request.groups()
    figure, axis = plt.subplots(
        figsize=(style.COLUMN_WIDTH, 0.55 + 0.32 * len(results)), layout="constrained"
    )
    for y, (_, result) in enumerate(results):
        ends = {group: result.ap(group=group) for group in ("base", "novel")}
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
        for group, marker in (("base", "o"), ("novel", "D")):
            value, deviation = ends[group]
            axis.errorbar(
                value,
                y,
                xerr=deviation,
                fmt=marker,
                color=style.GROUP_COLOURS[group],
                markersize=5,
                elinewidth=1,
                capsize=2,
                zorder=2,
            )
    axis.set(
        yticks=range(len(results)),
        yticklabels=[series.label for series, _ in results],
        xlabel="mask AP (%)",
        ylim=(len(results) - 0.5, -0.6),
    )
    axis.set_xlim(left=0)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    handles = [
        plt.Line2D(
            [], [], color=style.GROUP_COLOURS[group], marker=marker, linestyle="", markersize=5, label=group
        )
        for group, marker in (("novel", "D"), ("base", "o"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, handletextpad=0.2)
    return figure, (
        "Mask AP on base and on novel categories; the number is the gap in points, bars are one standard "
        "deviation over the seeds where there are several." + note
    )


def qualitative_strip(request):
    """Validation images with their ground truth and the masks each run predicts."""
    groups = request.groups()
    predictions, note = request.available(measured.predictions)
    entry = request.entry
    figure, text = qualitative.draw_strip(
        request.dataset,
        groups,
        [(series.label, records) for series, records in predictions],
        count=entry["images"],
        min_score=entry["min_score"],
        shows=tuple(entry.get("shows", examples.GROUPS)),
        skip=entry.get("skip", 0),
        across=entry.get("across", 1),
    )
    return figure, text + note


def novel_results(request):
    """A grid of validation images with what one run predicts for novel categories."""
    groups = request.groups()
    [(series, records)], note = request.available(measured.predictions)
    entry = request.entry
    figure, text = qualitative.draw_novel_results(
        request.dataset,
        groups,
        series.label,
        records,
        count=entry["images"],
        min_score=entry["min_score"],
        across=entry["across"],
        skip=entry.get("skip", 0),
    )
    return figure, text + note


def partition(request):
    """CAM and partition of a few objects, base and novel."""
    [(_, arrays)], note = request.available(cells.read, cells.priors_command)
    figure, text = cells.draw_partition(request.dataset, arrays, request.entry["objects"])
    return figure, text + note


def keys(request):
    """Where easy and hard keys fall on a few objects, base and novel."""
    [(_, arrays)], note = request.available(cells.read, cells.priors_command)
    figure, text = cells.draw_keys(request.dataset, arrays, request.entry["objects"])
    return figure, text + note


def knob_sensitivity(request):
    """Mask AP on novel categories against a knob, measured and published."""
    request.groups()
    results, note = request.available(measured.result)
    table = request.declared.tables[request.entry["tables"][0]]
    figure, text = sensitivity.draw(
        request.dataset,
        sensitivity.measured_points(request.entry["knob"], [(s.run, result) for s, result in results], table),
        sensitivity.published_points(request.entry["knob"], table, request.series[0].run.direction),
        request.entry,
    )
    return figure, text + note


KINDS = {
    "loss_curves": loss_curves,
    "category_ap": category_ap,
    "base_novel_gap": base_novel_gap,
    "qualitative": qualitative_strip,
    "novel_results": novel_results,
    "partition": partition,
    "keys": keys,
    "sensitivity": knob_sensitivity,
}
