"""Figures from the files of train, evaluate, look_inside: losses, scores, predictions, partition, keys, sensitivity.

A figure is an entry under `figures:` with a `kind` and a list of runs, each with its label. Runs without data on the
chosen dataset are left out and named in the caption; a figure of which no run has data says so in its picture.
"""

import logging
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from pipeline import methods, tasks
from pipeline.artifacts import files, paths
from pipeline.datasets.images import BROKEN
from pipeline.declaration import experiments, schema
from pipeline.declaration.experiments import Run, lookup
from pipeline.errors import ExperimentError, NothingToShow
from pipeline.reporting import (
    category_scores,
    gap,
    loss_curves,
    measured,
    novel_share,
    order,
    published,
    qualitative,
    roi_cells,
    same_objects,
    sensitivity,
    shapes,
    split_maps,
    study,
    style,
    transfer,
)
from pipeline.reporting.panels import shortened
from pipeline.reporting.style import plt
from pipeline.tasks.instances import examples

logger = logging.getLogger("pipeline.figures")

LONGEST_LABEL = 84  # letters of a label
PICTURE_DPI, CLOSE_UP_DPI = 220, 300  # of figures with images as wide as a page, and as a column
LARGEST_PNG, COARSER_DPI = 1_500_000, (180, 150)  # bytes, and what a PNG of more is drawn at


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
        """{class name: what it looks like} if the images are drawn by `pipeline.datasets.generated`, else empty."""
        return shapes.portraits(self.declared.dataset(self.dataset), self.declared.label_set(self.dataset))

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
            raise NothingToShow(f"none of its runs has data on {self.dataset}; run `{command(*missing)}`")
        return present, "".join(
            f" No result on {self.dataset}, {state}: {run} (`{command(run)}`)." for run, state in missing.items()
        )

    @property
    def task(self):
        """The task of all its runs; raises ExperimentError if they have several."""
        found = {methods.task_of(series.run.method).name for series in self.series}
        if len(found) > 1:
            raise ExperimentError(
                f"figures.{self.name}: its runs are of the tasks {', '.join(sorted(found))}; draw one figure for each"
            )
        return tasks.task(found.pop())

    def groups(self):
        """{"base": category names, "novel": category names} of the direction that all runs share."""
        (direction,) = {series.run.direction for series in self.series}
        labels = self.declared.label_set(self.dataset)
        return dict(zip(("base", "novel"), labels.base_and_novel(direction), strict=True))


def build_figure(name):
    """Write `reports/<dataset>/figures/<name>.{png,pdf,svg}` for the chosen dataset.

    Raises:
        ExperimentError: unknown figure, or a file that cannot be right.
    """
    declared, dataset = experiments.load(), experiments.chosen_dataset()
    entry = lookup(declared.figures, name, "figure")
    kind = KINDS[entry["kind"]]
    series = series_of(entry, declared)
    place = next((each.run.on(dataset) for each in series), dataset)  # `references` wants that of all
    request = Request(name, entry, place, declared, series)
    with style.paper_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box; SVG and caption hold the text
        try:
            figure, caption = kind.draw(request)
        except NothingToShow as error:  # no reason to be without the rest of the report
            logger.warning("figure %s: nothing to draw: %s", name, error)
            figure, caption = _empty(f"Nothing to draw: {error}."), f"Nothing to draw: {error}."
        origin = data_label(declared, place)
        if origin:
            _write_above(figure, f"Data: {origin}")
        caption = " ".join(
            [
                f"{entry['title']} on {place}{f' ({origin})' if origin else ''}.",
                caption,
                *entry.get("note", "").splitlines(),
            ]
        )
        for extension in style.EXTENSIONS:
            metadata = style.metadata(extension, entry["title"], caption, dataset)
            with files.replacing(paths.figure(dataset, name, extension)) as path:
                for dpi in (kind.dpi, *(dpi for dpi in COARSER_DPI if dpi < kind.dpi)):
                    figure.savefig(path, format=extension, dpi=dpi, metadata=metadata)
                    if extension != "png" or path.stat().st_size <= LARGEST_PNG:
                        break
        plt.close(figure)


DRAWN = {"generated": "COCO", "drawn_maps": "COCO-Stuff"}  # kind of data set -> what it stands for


def data_label(declared, dataset):
    """What keeps a picture of another dataset from being taken for one of COCO; empty for the dataset of the paper."""
    if published.comparable(dataset, declared):
        return ""
    kind = declared.dataset(dataset)["kind"]
    if kind in DRAWN:
        return f"generated images, drawn by a program, not {DRAWN[kind]}"
    return "not the data of the paper" if schema.holds(kind) == "maps" else "not the COCO 2017 of the paper"


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
    [(series, data)], note = request.available(read, *command)
    return series, data, note


def partition(request):
    """CAM and partition of a few objects, base and novel."""
    _, arrays, note = _only(request, roi_cells.read, roi_cells.look_inside_command)
    figure, text = roi_cells.draw_partition(request.dataset, arrays, request.entry["objects"])
    return figure, text + note


def keys(request):
    """Where easy and hard keys fall on a few objects, base and novel."""
    _, arrays, note = _only(request, roi_cells.read, roi_cells.look_inside_command)
    figure, text = roi_cells.draw_keys(request.dataset, arrays, request.entry["objects"])
    return figure, text + note


def propagated_shapes(request):
    """Class activation and shape of a few objects, base and novel."""
    _, arrays, note = _only(request, roi_cells.read_shapes, roi_cells.look_inside_command)
    figure, text = roi_cells.draw_shapes(request.dataset, arrays, request.entry["objects"])
    return figure, text + note


def inside_maps(request):
    """What a method makes of a few objects on the way to their masks, base and novel."""
    series, arrays, note = _only(request, roi_cells.read_maps, roi_cells.look_inside_command)
    shown = methods.method(series.run.method).inside_maps
    figure, text = roi_cells.draw_maps(request.dataset, arrays, request.entry["objects"], shown)
    return figure, text + note


def transferred_weights(request):
    """How alike the mask weights are that categories get from the box head."""
    _, arrays, note = _only(request, transfer.read, roi_cells.look_inside_command)
    figure, text = transfer.draw(request.dataset, arrays)
    return figure, text + note


def knob_sensitivity(request):
    """The main number against a knob, measured and published."""
    request.groups()
    task = request.task
    results, note = request.available(measured.result)
    table, knob = request.declared.tables[request.entry["tables"][0]], request.entry["knob"]
    profile, runs = request.declared.profile(request.dataset), [series.run for series in request.series]
    seeds = study.of(request.dataset, request.declared)
    results = [(series.run, result) for series, result in results]
    figure, text = sensitivity.draw(
        request.dataset,
        {
            group: sensitivity.measured_points(knob, results, table, profile, group)
            for group in request.entry.get("groups", [task.main_group])
        },
        sensitivity.published_points(knob, table, request.series[0].run.direction, task.main[2]),
        request.entry,
        task,
        request.series[0].colour,
        published.tolerance(task.main[2], table.get("published")),
        sensitivity.study_points(knob, runs, table, seeds, study.column(task), profile),
    )
    return figure, text + note


@dataclass(frozen=True)
class Kind:
    """A kind of figure: how it is drawn, and its resolution in PNG. Which keys it has is in `declaration/schema.py`."""

    draw: Callable
    dpi: int = 200


KINDS = {
    "loss_curves": Kind(loss_curves.draw),
    "category_ap": Kind(category_scores.draw),
    "base_novel_gap": Kind(gap.draw),
    "qualitative": Kind(qualitative_strip, PICTURE_DPI),
    "same_objects": Kind(same_objects.draw, CLOSE_UP_DPI),
    "novel_results": Kind(novel_results, PICTURE_DPI),
    "partition": Kind(partition),
    "keys": Kind(keys),
    "shapes": Kind(propagated_shapes),
    "maps": Kind(inside_maps),
    "transfer": Kind(transferred_weights),
    "sensitivity": Kind(knob_sensitivity),
    "order": Kind(order.draw, PICTURE_DPI),
    "split_maps": Kind(split_maps.draw, PICTURE_DPI),
    "novel_share": Kind(novel_share.draw),
}
