"""Figures from the files of train, evaluate and priors: losses, AP, predicted masks, partitions and keys, sensitivity.

A figure is an entry under `figures:` with a `kind` and a list of runs, each with its label. Runs without data on the
chosen dataset are left out and named in the caption; a figure of which no run has data says so in its picture.
"""

import logging
import math
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from PIL import Image

from pipeline.artifacts import paths
from pipeline.datasets.images import BROKEN
from pipeline.declaration import experiments
from pipeline.declaration.categories import base_and_novel
from pipeline.declaration.experiments import Run, lookup
from pipeline.errors import ExperimentError
from pipeline.reporting import examples, measured, panels, published, qualitative, roi_cells, sensitivity, style
from pipeline.reporting.files import replacing
from pipeline.reporting.panels import shortened
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
TICK_STEPS = [1, 2, 2.5, 5, 10]
LABEL_WIDTH, LONGEST_LABEL = 28, 84  # letters in a line and in all, of a label beside an axis
PICTURE_DPI = 220  # of figures with images
LARGEST_PNG, COARSER_DPI = 1_500_000, (180, 150)  # bytes, and what a PNG of more is drawn at
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

    @property
    def drawn(self):
        """Whether the images are drawn by `pipeline.datasets.generated`."""
        return self.declared.dataset(self.dataset)["kind"] == "generated"

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
        return dict(zip(("base", "novel"), base_and_novel(self.declared.directions[directions.pop()]), strict=True))


def build_figure(name):
    """Write `reports/<dataset>/figures/<name>.{png,pdf,svg}` for the chosen dataset.

    Raises:
        ExperimentError: unknown figure or kind, or a file that cannot be right.
    """
    declared, dataset = experiments.load(), experiments.chosen_dataset()
    entry = lookup(declared.figures, name, "figure")
    kind = lookup(KINDS, entry.get("kind"), f"kind of figure {name}:")
    kind.check(name, entry)
    request = Request(name, entry, dataset, declared, series_of(entry, declared))
    with style.paper_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box; SVG and caption hold the text
        try:
            figure, caption = kind.draw(request)
        except examples.NothingToShow as error:  # no reason to be without the rest of the report
            logger.warning("figure %s: nothing to draw: %s", name, error)
            figure, caption = _empty(f"Nothing to draw: {error}."), f"Nothing to draw: {error}."
        origin = data_label(declared, dataset)
        if origin:
            _write_above(figure, f"Data: {origin}")
        caption = " ".join(
            [
                f"{entry['title']} on {dataset}{f' ({origin})' if origin else ''}.",
                caption,
                *entry.get("note", "").splitlines(),
            ]
        )
        for extension in style.EXTENSIONS:
            metadata = style.metadata(extension, entry["title"], caption, dataset)
            with replacing(paths.figure(dataset, name, extension)) as path:
                for dpi in (kind.dpi, *(dpi for dpi in COARSER_DPI if dpi < kind.dpi)):
                    figure.savefig(path, dpi=dpi, metadata=metadata)
                    if extension != "png" or path.stat().st_size <= LARGEST_PNG:
                        break
        plt.close(figure)


def data_label(declared, dataset):
    """What keeps a picture of another dataset from being taken for one of COCO; empty for the dataset of the paper."""
    if published.comparable(dataset, declared):
        return ""
    if declared.dataset(dataset)["kind"] == "generated":
        return "generated images, drawn by a program, not COCO"
    return "not the COCO 2017 of the paper"


def _write_above(figure, text):
    """Write a line above a figure, for `savefig.bbox: tight` to take in; what was laid out before stays in place."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for legend in figure.legends:  # else it would move with the edge of what is saved
        legend.set_bbox_to_anchor((0, 0, 1, 1), transform=figure.transFigure)
    figure.text(
        0, 1 + 0.03 / figure.get_figheight(), text, ha="left", va="bottom", fontsize=6, style="italic", color="#555555"
    )


def saved_caption(name, dataset):
    """The caption stored in the PNG of a figure; None if it has not been drawn for this dataset, or is damaged."""
    path = paths.figure(dataset, name, "png")
    if not path.exists():
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            return image.text.get("Description") if image.text.get("Source") == dataset else None
    except BROKEN:
        return None


def _empty(text):
    """A picture of a sentence."""
    lines = textwrap.wrap(text, 60)
    figure = plt.figure(figsize=(style.COLUMN_WIDTH, max(0.8, 0.2 + 0.13 * len(lines))))
    figure.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", color="#555555")
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
        label = shortened(str(row.get("label", run.name)), LONGEST_LABEL)
        series.append(Series(run, label, style.method_colour(run.method), line))
        seen.append(run.method)
    return tuple(series)


def loss_curves(request):
    """One panel for each loss term; a curve for each run, the mean over its seeds."""
    curves, note = request.available(measured.losses)
    curves = [(series, {seed: _finite(frame) for seed, frame in seeds.items()}) for series, seeds in curves]
    logged = {term for _, seeds in curves for frame in seeds.values() for term in frame if frame[term].notna().any()}
    if not logged:
        raise examples.NothingToShow("no log holds a finite loss")
    terms = [term for term in LOSS_TERMS if term in logged] + sorted(logged - set(LOSS_TERMS))
    last = max(frame.index.max() for _, seeds in curves for frame in seeds.values())
    columns = min(PANELS_A_ROW, len(terms))
    rows = -(-len(terms) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(style.PAGE_WIDTH, 0.35 + 1.35 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(terms) :]:
        axis.remove()
    for axis, term in zip(axes.flat, terms, strict=False):
        for series, seeds in curves:
            frames = [frame[term].dropna() for frame in seeds.values() if term in frame and frame[term].notna().any()]
            if not frames:
                continue
            mean = pd.concat(frames, axis=1).mean(axis=1)
            window = max(1, round(SMOOTHED_SHARE * len(mean)))
            if window > 1:
                axis.plot(mean.index, mean, color=series.colour, alpha=0.25, linewidth=0.6)
            axis.plot(
                mean.index,
                mean.rolling(window, center=True, min_periods=1).mean(),
                series.line,
                color=series.colour,
                marker="" if len(mean) > 1 else "o",
                markersize=3,
            )
        title, unit = LOSS_TERMS.get(term, (term, ""))
        axis.set(title=title, ylabel=unit, xlim=(0, _rounded_up(last)), ylim=(min(0, axis.get_ylim()[0]), None))
        axis.grid(axis="y")
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=TICK_STEPS))
        axis.yaxis.set_major_locator(MaxNLocator(4, steps=TICK_STEPS))
    figure.supxlabel("iteration", fontsize=7)
    _legend(figure, [series for series, _ in curves])
    return figure, (
        "Each panel is one term of the loss, already weighted, against the iteration; lines are means "
        f"over the seeds, smoothed by a running mean over {SMOOTHED_SHARE:.0%} of the logged points." + note
    )


def _finite(frame):
    return frame.replace([math.inf, -math.inf], math.nan)


def _rounded_up(last):
    """The end of an axis from 0 to `last`, so that it has a tick there."""
    return MaxNLocator(4, integer=True, steps=TICK_STEPS).tick_values(0, max(last, 1))[-1]


def _legend(figure, series):
    handles = [plt.Line2D([], [], color=s.colour, linestyle=s.line, linewidth=1.6, label=s.label) for s in series]
    style.legend(figure, handles, style.PAGE_WIDTH, handlelength=1.8)


def category_ap(request):
    """Bars of mask AP for every category of the validation set, base and novel apart, one bar a run."""
    results, note = request.available(measured.result)
    groups, counts = request.groups(), examples.objects_with_mask(examples.load_ground_truth(request.dataset))
    by_run = pd.DataFrame({series.run.name: category_scores(result) for series, result in results})
    # What is not in the validation set has no AP and is no category to show.
    in_set = [name for name in by_run.index if counts.get(name, (0, 0))[0]]
    by_run = by_run.loc[in_set].sort_index()
    order = by_run.sort_values(by_run.columns[-1], ascending=False, kind="stable", na_position="last").index
    groups = {group: [name for name in order if name in names] for group, names in groups.items()}
    chunks = [
        (group, names[i : i + CATEGORIES_A_ROW])
        for group, names in groups.items()
        for i in range(0, len(names), CATEGORIES_A_ROW)
    ]
    if not chunks:
        raise examples.NothingToShow(f"{request.dataset} has no validation object of a base or novel category")
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
        _category_bars(axis, group, by_run.loc[names], [series for series, _ in results], counts)
    for axis in axes[:, 0]:
        axis.set_ylabel("mask AP (%)")
    axes[0, 0].set_ylim(0, None if np.nanmax([0, *by_run.to_numpy().flat]) > 0 else 1)
    handles = [plt.Rectangle((0, 0), 1, 1, color=series.colour, label=series.label) for series, _ in results]
    style.legend(figure, handles, style.PAGE_WIDTH, handlelength=1, handleheight=0.8)
    return figure, (
        "Mask AP of every category of the validation set, base categories (trained with masks) and novel ones (boxes "
        "only) apart, ordered by the last method; n: validation objects without crowds."
        + _undefined_sentence(results)
        + note
    )


def category_scores(result):
    """{category: mean mask AP over the seeds in percent; NaN where it is undefined}."""
    seeds = [seed["per_category"]["segm"] for seed in result.per_seed]
    values = {name: [seed.get(name, {}).get("AP") for seed in seeds] for name in seeds[0]}
    return {name: math.nan if None in aps else sum(aps) / len(aps) for name, aps in values.items()}


def _undefined_sentence(results):
    """For a caption: ` Undefined: reason (categories); ....`, or nothing."""
    by_reason = {}
    for _, result in results:
        for name, reason in undefined_categories(result).items():
            by_reason.setdefault(reason, {})[name] = None
    reasons = [f"{reason} ({', '.join(names)})" for reason, names in by_reason.items()]
    return f" Undefined: {'; '.join(reasons)}." if reasons else ""


def undefined_categories(result, kind="segm"):
    """{category: why its AP is undefined} as the evaluation states it."""
    return {name: reason for reason, names in result.undefined(kind).items() for name in names}


def _category_bars(axis, group, values, series, counts):
    width = 0.8 / len(series)
    top = np.nanmax([1, *values.to_numpy().flat])
    for k, one in enumerate(series):
        at = np.arange(len(values)) + (k - (len(series) - 1) / 2) * width
        heights = values[one.run.name].to_numpy(dtype=float)
        axis.bar(at, np.nan_to_num(heights), width, color=one.colour, edgecolor="white", linewidth=0.3)
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
    axis.set_title(f"{group} categories", color=style.GROUP_COLOURS[group], fontweight="bold")
    # Short rows of a tall stack keep the bar width of the full ones, and one category is no broad bar.
    in_row = axis.get_subplotspec().get_gridspec().ncols > 1
    axis.set_xlim(-0.6, max(2, len(values) if in_row else CATEGORIES_A_ROW) - 0.4)
    labels = [f"{shortened(name, panels.LONGEST_TEXT)}\n{_count_in_words(*counts[name])}" for name in values.index]
    axis.set_xticks(
        range(len(values)), labels, rotation=35, ha="right", rotation_mode="anchor", fontsize=6, linespacing=0.95
    )
    axis.tick_params(axis="x", length=0)
    axis.spines["bottom"].set(color=style.GROUP_COLOURS[group], linewidth=1.2)
    axis.grid(axis="y")


def _count_in_words(objects, masked):
    return f"n {objects}" if masked == objects else f"n {objects}, {masked} with mask"


def base_novel_gap(request):
    """One line a run from its mask AP on base to that on novel categories, with the gap in points."""
    results, note = request.available(measured.result)
    request.groups()
    labels = [textwrap.fill(series.label, LABEL_WIDTH) for series, _ in results]
    lines = sum(max(2, label.count("\n") + 1) for label in labels)
    figure, axis = plt.subplots(figsize=(style.COLUMN_WIDTH, 0.6 + 0.17 * lines), layout="constrained")
    right = 0
    for y, (_, result) in enumerate(results):
        ends = {group: result.ap(group=group) for group in ("base", "novel")}
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
                f"{group} undefined",
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
    axis.set(yticks=range(len(results)), yticklabels=labels, xlabel="mask AP (%)", ylim=(len(results) - 0.5, -0.6))
    right = right or 1
    axis.set_xlim(-0.04 * right, 1.04 * right)  # a point at 0 is drawn whole
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=TICK_STEPS))
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    handles = [
        plt.Line2D([], [], color=style.GROUP_COLOURS[group], marker=marker, linestyle="", markersize=5, label=group)
        for group, marker in (("novel", "D"), ("base", "o"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, handletextpad=0.2)
    several = any(len(result.seeds) > 1 for _, result in results)
    bars = "bars are one standard deviation over the seeds where there are several" if several else "of one seed each"
    return figure, (
        f"Mask AP on base and on novel categories; the number is the gap in points, {bars}."
        + _undefined_sentence(results)
        + note
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
        drawn=request.drawn,
    )
    return figure, text + note


def novel_results(request):
    """A grid of validation images with what one run predicts for novel categories."""
    groups = request.groups()
    series, records, note = _only(request, measured.predictions)
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
        drawn=request.drawn,
    )
    return figure, text + note


def _only(request, read, *command):
    """The one run of a figure that shows one: (series, data, note); see `Request.available`."""
    if len(request.series) != 1:
        raise ExperimentError(
            f"pipeline/experiments/contrastmask.yaml: figures.{request.name}: a figure of kind "
            f"{request.entry['kind']} shows one run, not {len(request.series)}; name one under `runs`"
        )
    [(series, data)], note = request.available(read, *command)
    return series, data, note


def partition(request):
    """CAM and partition of a few objects, base and novel."""
    _, arrays, note = _only(request, roi_cells.read, roi_cells.priors_command)
    figure, text = roi_cells.draw_partition(request.dataset, arrays, request.entry["objects"])
    return figure, text + note


def keys(request):
    """Where easy and hard keys fall on a few objects, base and novel."""
    _, arrays, note = _only(request, roi_cells.read, roi_cells.priors_command)
    figure, text = roi_cells.draw_keys(request.dataset, arrays, request.entry["objects"])
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


@dataclass(frozen=True)
class Kind:
    """A kind of figure: how it is drawn, which fields its entry must have, and its resolution in PNG.

    A field has the type int (a whole number from 1), float (from 0 to 1) or str.
    """

    draw: Callable
    needs: dict = field(default_factory=dict)
    dpi: int = 200

    def check(self, name, entry):
        """Refuse an entry that lacks a field or has a wrong value (ExperimentError)."""
        valid = {int: "a whole number from 1", float: "a number from 0 to 1", str: "a text"}
        for key, kind in {"title": str, **self.needs}.items():
            value = entry.get(key)
            good = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
            if not good or (kind is int and value < 1) or (kind is float and not 0 <= value <= 1):
                found = f"{value!r}" if key in entry else "missing"
                raise ExperimentError(
                    f"pipeline/experiments/contrastmask.yaml: figures.{name}.{key} is {found}; a figure of kind "
                    f"{entry['kind']} needs it: {valid[kind]}"
                )


KINDS = {
    "loss_curves": Kind(loss_curves),
    "category_ap": Kind(category_ap),
    "base_novel_gap": Kind(base_novel_gap),
    "qualitative": Kind(qualitative_strip, {"images": int, "min_score": float}, PICTURE_DPI),
    "novel_results": Kind(novel_results, {"images": int, "min_score": float, "across": int}, PICTURE_DPI),
    "partition": Kind(partition, {"objects": int}),
    "keys": Kind(keys, {"objects": int}),
    "sensitivity": Kind(knob_sensitivity, {"knob": str, "axis": str}),
}
