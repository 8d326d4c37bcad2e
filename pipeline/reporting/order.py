"""Which differences between the rows of published tables are found again, each beside its interval here.

A row is compared with the reference row of its table. On drawn data the seed study tells how far trainings wander,
elsewhere the seeds that runs were trained with.
"""

from dataclasses import dataclass

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pipeline import methods
from pipeline.errors import NothingToShow
from pipeline.reporting import measured, published, study, style, tables
from pipeline.reporting.style import plt

SURVIVES, CONTRADICTED, UNTOLD, TIE = "as published", "the opposite", "cannot be told", "no difference in the paper"
# colour, marker and face: told apart in grey too
LOOKS = {
    SURVIVES: ("#0072B2", "o", "#0072B2"),
    CONTRADICTED: ("#D55E00", "X", "#D55E00"),
    UNTOLD: ("#808080", "o", "white"),
    TIE: ("#808080", "D", "white"),
}
WIDTH, LINE = 4.4, 0.165  # inches of the figure and of a row
NUMBER = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 6, "color": "#444444"}


@dataclass(frozen=True)
class Difference:
    """A row of a table against the reference row, in the unit of the main metric.

    Attributes:
        table, row, reference: how pages call them.
        printed: the published difference.
        tolerance: how far the authors say that a number wanders; None if they do not.
        found: `study.Comparison` of the runs here, None without a pair of trainings.
    """

    table: str
    row: str
    reference: str
    printed: float
    tolerance: float | None
    found: study.Comparison | None

    def outcome(self, lower_is_better=False):
        """One of `LOOKS`: the published order is found, contradicted, cannot be told, or the paper tells none."""
        if abs(self.printed) <= (self.tolerance or 0):
            return TIE
        verdict = study.UNKNOWN if self.found is None else self.found.verdict(lower_is_better)
        if verdict == study.UNKNOWN:
            return UNTOLD
        there = study.verdict((self.printed, self.printed), lower_is_better)
        return SURVIVES if verdict == there else CONTRADICTED


def differences(names, declared, dataset):
    """The `Difference` of every published row of some tables, in their order, and what told how far trainings wander.

    Args:
        names: of tables; those without a reference row, or of which it is not published, have nothing to compare.
        dataset: the chosen one.

    Returns:
        ([Difference], the `study.Study` of the data set).
    """
    found, seeds = [], study.of(dataset, declared)
    for name in names:
        table = declared.tables[name]
        reference = next((row for row in table["rows"] if row.get("reference")), None)
        if reference is None or "published" not in reference:
            continue
        for row in table["rows"]:
            if row is reference or "published" not in row:
                continue
            for run in (declared.runs[each] for each in row.get("runs", [])):
                others = [declared.runs[other] for other in reference["runs"]]
                other = next((other for other in others if other.direction == run.direction), None)
                metric = methods.task_of(run.method).main[2]
                printed = published_difference(table["published"], row, reference, run.direction, metric)
                if other is not None and printed is not None:
                    found.append(
                        Difference(
                            tables.label_of(name),
                            row["label"],
                            reference["label"],
                            printed,
                            published.tolerance(metric, table["published"]),
                            compare(run, other, dataset, seeds),
                        )
                    )
    return found, seeds


def published_difference(table, row, reference, direction, metric):
    """A published row less another one of its table in a metric; None where one is not printed."""
    numbers = [
        published.row(table, each["published"])["results"].get(direction, {}).get(metric) for each in (row, reference)
    ]
    return None if None in numbers else round(numbers[0] - numbers[1], 10)


def compare(run, reference, dataset, seeds):
    """The `study.Comparison` of two runs in their main number: by the study, else by the seeds that they share.

    Args:
        run, reference: `pipeline.declaration.experiments.Run`.
        dataset: the chosen one.
        seeds: `study.Study` of the data set.
    """
    by_study = seeds.compare(run.name, reference.name, study.column(methods.task_of(run.method)))
    if by_study is not None:
        return by_study
    results = [measured.result(dataset, each) for each in (run, reference)]
    if None in results:
        return None
    ours, theirs = (
        pd.Series({(result.dataset, scores.entry["seed"]): scores.main for scores in result.per_seed}, dtype=float)
        for result in results
    )
    pairs = (ours - theirs).dropna()
    return None if pairs.empty else study.Comparison.of(pairs)


def summary(found, lower_is_better=False):
    """How many published differences are found again, which are, and which are not, in two or three sentences."""
    by = {outcome: [] for outcome in LOOKS}
    for each in found:
        by[each.outcome(lower_is_better)].append(f"{each.table}, {each.row}")
    told = len(found) - len(by[TIE])
    texts = [f"Found again of the differences that the paper tells apart: {len(by[SURVIVES])} of {told}"]
    texts[0] += f" ({'; '.join(by[SURVIVES])})." if by[SURVIVES] else "."
    if by[CONTRADICTED]:
        texts.append(f"Found the other way round: {'; '.join(by[CONTRADICTED])}.")
    if by[UNTOLD]:
        texts.append(f"Not to be told here: {'; '.join(by[UNTOLD])}.")
    return " ".join(texts)


def draw(request):
    """The published differences in one panel, those here with their 95 % intervals in another, a line for each."""
    found, seeds = differences(request.entry["tables"], request.declared, request.dataset)
    if not found:
        raise NothingToShow("no row of its tables is published beside a reference row")
    if all(each.found is None for each in found):
        raise NothingToShow(
            f"how far trainings on {request.dataset} wander is not known: {seeds.reason or 'the study has no pairs'}, "
            "and no row has a seed in common with the reference row of its table"
        )
    metric = request.task.main_metric
    lower = metric.lower_is_better
    lines = len(found) + len({each.table for each in found})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, LINE * lines + 0.95), sharey=True, layout="constrained", width_ratios=(2, 3)
    )
    labels, headings = [], []
    for each in found:
        if not headings or headings[-1][1] != each.table:
            headings.append((len(labels), each.table))
            labels.append(f"{each.table}: less {each.reference}")
        at, colour_of = len(labels), LOOKS[each.outcome(lower)]
        labels.append(each.row)
        left.plot(each.printed, at, "s", color="black", markersize=3.5)
        number = tables.difference(each.printed)
        left.annotate(number, (1, at), (-1, 0), **NUMBER, xycoords=("axes fraction", "data"))
        if each.found is not None:
            colour, marker, face = colour_of
            if (bounds := each.found.interval) is not None:
                right.plot(bounds, (at, at), "-", color=colour, linewidth=1.3, zorder=1, solid_capstyle="butt")
            right.plot(each.found.mean, at, marker, color=colour, markerfacecolor=face, markersize=4.5, zorder=2)
            number = tables.difference(each.found.mean)
            right.annotate(number, (1, at), (-1, 0), **NUMBER, xycoords=("axes fraction", "data"))
    left.set_yticks(range(len(labels)), labels)
    left.set_ylim(len(labels) - 0.4, -0.6)
    for at, _ in headings:
        left.get_yticklabels()[at].set_fontweight("bold")
    for axis in (left, right):  # room for the numbers
        low, high = min(axis.get_xlim()[0], 0), max(axis.get_xlim()[1], 0)
        axis.set_xlim(low - 0.03 * (high - low), high + 0.35 * (high - low))
    data = "generated images" if request.drawn else request.dataset
    for axis, title in ((left, "published\nCOCO val2017"), (right, f"measured\n{data}")):
        axis.axvline(0, color="#444444", linewidth=0.7, zorder=0)
        axis.set_title(title)
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=style.TICK_STEPS))
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.grid(axis="x")
    figure.supxlabel(
        f"difference in {request.task.words()} on {request.task.main_group} categories (points)",
        fontsize=plt.rcParams["axes.labelsize"],
    )
    shown = {each.outcome(lower) for each in found}
    handles = [
        Line2D([], [], color=colour, marker=marker, markerfacecolor=face, linestyle="-", markersize=4.5, label=outcome)
        for outcome, (colour, marker, face) in LOOKS.items()
        if outcome in shown
    ]
    style.legend(figure, handles, WIDTH)
    return figure, caption(found, seeds, request)


def caption(found, seeds, request):
    task = request.task
    known = [each.found for each in found if each.found is not None]
    counts = sorted({each.pairs for each in known})
    pairs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    whence = f"the seed study ({seeds.described})" if seeds else "the seeds of the runs"
    tolerance = next((each.tolerance for each in found if each.tolerance is not None), None)
    tie = (
        f"; within ±{tolerance}, by which the authors say that numbers wander, the paper tells none"
        if tolerance
        else ""
    )
    intervals = (
        "with 95 % intervals of Student's t" if any(each.interval for each in known) else "too few for intervals"
    )
    return (
        f"{tables.initial(task.words())} of each row less that of the reference row of its table. Left: as published. "
        f"Right: the mean of {pairs} paired trainings each, {intervals}, from {whence}. Colour and marker: whether the "
        f"published sign is found{tie}. No correction for the {len(found)} comparisons. The sizes are not comparable "
        f"between the panels. {summary(found, task.main_metric.lower_is_better)}"
    )
