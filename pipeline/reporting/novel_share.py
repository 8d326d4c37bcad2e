"""The main number of a task against the share of classes that are novel: a line for each row of a table.

Every split has another base and another novel group, so the classes that are averaged change along the axis.
"""

import math
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from pipeline.declaration import experiments
from pipeline.declaration.label_sets import label_set
from pipeline.errors import NothingToShow
from pipeline.reporting import measured, published, style
from pipeline.reporting.style import plt
from pipeline.reporting.tables import initial

MARKERS = ("o", "s", "D", "^", "v", "P", "X")
MARGIN = 0.12  # of the span of the values, above and below
HEIGHT = 2.5  # inches


@dataclass(frozen=True)
class Point:
    """A split: how many of how many classes are novel, and the score with its deviation (NaN for none)."""

    novel: int
    classes: int
    score: float
    deviation: float = math.nan

    @property
    def share(self):
        return 100 * self.novel / self.classes


def draw(request):
    """Measured lines of the rows of a table and the published ones, a panel each unless the data are the paper's."""
    table, declared = request.declared.tables[request.entry["tables"][0]], request.declared
    task = request.task
    here, waiting = _measured(table, request)
    commands = f"`{measured.evaluate_command(*waiting)}`" if waiting else ""
    if not any(here.values()):
        told = f"; run `{measured.evaluate_command(*waiting)}`" if waiting else ""
        raise NothingToShow(f"none of the runs of {table['title']!r} has a score on {request.dataset}{told}")
    there = _published(table, declared, task)
    together = published.comparable(request.dataset, declared) or not any(there.values())
    paper = published.PAPERS[task.reads][1]
    figure, axes = plt.subplots(
        1,
        1 if together else 2,
        figsize=(style.COLUMN_WIDTH if together else style.PAGE_WIDTH, HEIGHT),
        squeeze=False,
        layout="constrained",
    )
    left, right = axes[0, 0], axes[0, -1]
    looks = {row["label"]: _look(k) for k, row in enumerate(table["rows"])}
    for label, look in looks.items():
        _line(left, here[label], look, "-", look["color"])
        _line(right, there[label], look, "--", "white")
    if together:
        _finish(left, [*here.values(), *there.values()])
    else:
        for axis, lines, title in ((left, here, f"measured\n{request.dataset}"), (right, there, f"published\n{paper}")):
            _finish(axis, lines.values())
            axis.set_title(title)
    metric = task.main_metric
    left.set_ylabel(f"{task.words(name=metric.label)}, {task.main_group} ({metric.unit})")
    figure.supxlabel("novel classes of all, in percent and in number", fontsize=plt.rcParams["axes.labelsize"])
    handles = [
        plt.Line2D([], [], **look, linewidth=1, markersize=4, label=label)
        for label, look in looks.items()
        if here[label] or there[label]
    ]
    if together and any(there.values()):
        handles.append(plt.Line2D([], [], color="#444444", linestyle="--", linewidth=1, label="published"))
    style.legend(figure, handles, figure.get_figwidth(), handlelength=2)
    several = any(not math.isnan(point.deviation) for points in here.values() for point in points)
    alone = [label for label, points in here.items() if not points and there[label]]
    sentences = [
        f"{initial(task.words(name=metric.label))} on {task.main_group} categories against how many of the classes are "
        f"{task.main_group}. Every split averages other classes, so a line need not fall. Error bars, measured: "
        f"{'one standard deviation over the seeds' if several else 'none, one seed each'}.",
        f"Published alone: {', '.join(alone)}." if alone else "",
        ""
        if together
        else f"The panels have scales of their own: numbers of {request.dataset} and {paper} are not comparable.",
        f"No result on {request.dataset}: {', '.join(waiting)} ({commands})." if waiting else "",
    ]
    return figure, " ".join(filter(None, sentences))


def _measured(table, request):
    """({label of a row: its measured points}, names of the runs without a result)."""
    found, waiting = {}, []
    for row in table["rows"]:
        found[row["label"]] = []
        for name in experiments.made(request.declared, row.get("runs", []), request.dataset):
            run = request.declared.runs[name]
            result = measured.result(request.dataset, run)
            if result is None:
                waiting.append(name)
            elif not math.isnan(result.value()[0]):
                sizes = _sizes(request.declared.label_set(run.on(request.dataset)), run.direction)
                found[row["label"]].append(Point(*sizes, *result.value()))
    return found, waiting


def _sizes(labels, direction):
    """How many classes are novel in a direction, and how many base or novel."""
    base, novel = labels.base_and_novel(direction)
    return len(novel), len(base) + len(novel)


def _published(table, declared, task):
    """{label of a row: its published points}; of the label set of the paper's data."""
    found = {}
    for row in table["rows"]:
        printed = published.row(table["published"], row["published"])["results"] if "published" in row else {}
        labels = _paper_labels(declared, task, printed)
        found[row["label"]] = [
            Point(*_sizes(labels, direction), numbers[task.main[2]])
            for direction, numbers in printed.items()
            if labels is not None and numbers.get(task.main[2]) is not None
        ]
    return found


def _paper_labels(declared, task, printed):
    """The label set of the data of the paper that has all directions of published results; None without one."""
    for entry in declared.datasets.values():
        labels = label_set(entry["label_set"])
        if entry.get("paper_data") and printed.keys() <= labels.directions.keys():
            return labels
    return None


def _look(k):
    return {"color": style.CYCLE[k % len(style.CYCLE)], "marker": MARKERS[k % len(MARKERS)]}


def _line(axis, points, look, line, face):
    points = sorted(points, key=lambda point: point.share)
    axis.plot(
        [point.share for point in points],
        [point.score for point in points],
        linestyle=line,
        linewidth=1,
        markersize=4,
        markerfacecolor=face,
        **look,
    )
    for point in points:
        if not math.isnan(point.deviation):
            axis.errorbar(
                point.share, point.score, yerr=point.deviation, color=look["color"], elinewidth=0.9, capsize=2
            )


def _finish(axis, lines):
    """Ticks at the splits, in percent and in number, and room above and below."""
    points = [point for line in lines for point in line]
    ticks = sorted({(point.share, point.novel) for point in points})
    axis.set_xticks([share for share, _ in ticks], [f"{share:.0f}\n{novel}" for share, novel in ticks])
    low = min(point.score - (0 if math.isnan(point.deviation) else point.deviation) for point in points)
    high = max(point.score + (0 if math.isnan(point.deviation) else point.deviation) for point in points)
    span = max(high - low, 0.5)
    axis.set_ylim(low - MARGIN * span, high + MARGIN * span)
    axis.yaxis.set_major_locator(MaxNLocator(6, steps=style.TICK_STEPS))
    axis.grid(axis="y")
