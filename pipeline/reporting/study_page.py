"""The seed study in words: rows with their spread, and which claims of the paper are found on drawn data.

For the first screen of README.md and for the page of the study. No number is typed: all are of runs.csv.
"""

from dataclasses import dataclass

import pandas as pd

from pipeline import methods
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import order, published, study, tables

# Rows that no table of the paper has: the full method with the contrastive loss at weight 0, or true masks as prior.
CONTROL, ORACLE = "study_cl_loss_off", "study_oracle"
TABLE, ABLATIONS = "table2", ("table3", "table4", "table5", "table6", "table7")


@dataclass(frozen=True)
class Claim:
    """Something that the paper says of two runs of the study: that the first is better.

    `statement` is the published one where no table has both.
    """

    run: str
    reference: str
    words: str
    statement: str | None = None


CLAIMS = (
    Claim("cam_r50_1x_nonvoc2voc", "mask_rcnn_r50_1x_nonvoc2voc", "The class activation map helps"),
    Claim("contrastmask_r50_1x_nonvoc2voc", "cam_r50_1x_nonvoc2voc", "The CL branch adds to it"),
    Claim("contrastmask_r50_1x_nonvoc2voc", CONTROL, "It is the contrastive loss that adds, not the branch"),
    Claim(ORACLE, "contrastmask_r50_1x_nonvoc2voc", "True masks beat CAMs as its prior (oracle)", "oracle_prior_gain"),
)


def rows(found, declared):
    """The rows of the study that stand on the first screen: mean ± standard deviation of each, beside the published AP.

    Args:
        found: `study.Study`, not empty.
        declared: `pipeline.declaration.experiments.Experiments`.

    Returns:
        A data frame as people read it: the rows of Table 2 with the control before the last one, mask AP of novel
        categories with AP50 and AP75, and mask AP of base ones.
    """
    table = declared.tables[TABLE]
    names = experiments.runs_of(table)
    labels = dict(zip(names, (row["label"] for row in table["rows"]), strict=True))
    task = methods.task_of(declared.runs[names[0]].method)
    names.insert(-1, CONTROL)
    columns = {metric.label: study.column(task, metric=metric.key) for metric in task.metrics[:3]}
    columns[f"{task.parts[-1]} {task.main_metric.label}"] = study.column(task, group=task.parts[-1])
    lines = []
    for name in names:
        if found.values(name, study.column(task)).empty:
            continue
        label = labels.get(name) or found.rows[found.rows["run"] == name]["label"].iloc[0]
        line = {"Row": label} | {head: spread(found.values(name, column)) for head, column in columns.items()}
        printed = {} if name == CONTROL else _printed(table, name, declared)
        for metric in task.metrics[:3]:
            if (number := printed.get(metric.key)) is not None:
                line[metric.label] += f" ({tables.number(number)})"
        lines.append(line)
    return pd.DataFrame(lines)


def spread(values):
    """`12.4 ± 2.2`; without a deviation of one value, a dash of none."""
    if values.empty:
        return "–"
    return tables.number(values.mean()) + (f" ± {tables.number(values.std())}" if len(values) > 1 else "")


def _printed(table, name, declared):
    row = next(row for row in table["rows"] if name in row.get("runs", []))
    return published.row(table["published"], row["published"])["results"].get(declared.runs[name].direction, {})


def claims(found, declared):
    """[(Claim, `study.Comparison` or None, published difference in words or None)] of every claim."""
    task = methods.task_of(declared.runs[CLAIMS[0].run].method)
    return [
        (claim, found.compare(claim.run, claim.reference, study.column(task)), printed(claim, declared, task.main[2]))
        for claim in CLAIMS
    ]


def printed(claim, declared, metric):
    """The published difference of a claim in words: of two rows of a table, or what the text states; None without."""
    if claim.statement is not None:
        stated = published.statement(claim.statement)
        return f"{tables.difference(stated['delta'][metric])} in the direction {stated['setting']}"
    for table in declared.tables.values():
        rows = {run: row for row in table["rows"] for run in row.get("runs", []) if "published" in row}
        if {claim.run, claim.reference} <= rows.keys():
            pair, direction = (rows[claim.run], rows[claim.reference]), declared.runs[claim.run].direction
            return tables.difference(order.published_difference(table["published"], *pair, direction, metric))
    return None


ANSWERS = {study.BETTER: "found", study.WORSE: "the opposite is found", study.UNKNOWN: "cannot be told at this size"}


def claim_line(claim, comparison, printed):
    """A line of Markdown: the claim, whether it is found, the difference with its interval and the published one."""
    beside = "" if printed is None else f"; published: {printed}"
    if comparison is None:
        return f"- **{claim.words}: not tried**{beside}."
    found = f"{tables.difference(comparison.mean)} AP on novel categories ({_interval(comparison)}{beside})"
    return f"- **{claim.words}: {ANSWERS[comparison.verdict()]}.** {found}."


def _interval(comparison):
    pairs = f"{comparison.pairs} pairs of trainings"
    if comparison.interval is None:
        return f"{pairs}, too few for an interval"
    beside = f", {_bounds(comparison.over_sets)} over {comparison.sets} data sets" if comparison.over_sets else ""
    return f"95 % interval {_bounds(comparison.interval)} over {pairs}{beside}"


def _bounds(interval):
    return "–" if interval is None else " to ".join(map(tables.difference, interval))


def share(found, declared):
    """How much of the AP of the row with CM the baseline reaches, here and in the paper; empty without both rows."""
    claim = CLAIMS[0]
    task = methods.task_of(declared.runs[claim.run].method)
    column = study.column(task)
    ours, theirs = (found.values(name, column).mean() for name in (claim.reference, claim.run))
    if pd.isna(ours) or pd.isna(theirs) or not theirs:
        return ""
    table = declared.tables[TABLE]
    there = [_printed(table, name, declared)[task.main[-1]] for name in (claim.reference, claim.run)]
    here, there = f"{ours / theirs:.0%}", f"{there[0] / there[1]:.0%}"
    return f"The baseline reaches {here} of the AP that the row with CM has (published: {there})."


def first_screen(found, declared, dataset):
    """What the first screen of README.md shows of a study that is not empty: rows, claims, ablations; Markdown."""
    told, _ = order.differences(ABLATIONS, declared, dataset)
    lines = [
        rows(found, declared).to_markdown(index=False, disable_numparse=True),
        f"Mean ± standard deviation of mask AP over the trainings of the seed study on *generated* images "
        f"({found.described}), on none of which anything was chosen (published, on COCO: the two are not comparable, "
        "at most the order is). Novel categories unless the head says base.",
        "\n".join(claim_line(*each) for each in claims(found, declared)),
    ]
    if told and any(each.found is not None for each in told):
        lines.append(f"{share(found, declared)} Tables 3 to 7: {order.summary(told)}".strip())
    else:
        lines.append(share(found, declared))
    return "\n\n".join(filter(None, lines))


def page(declared, dataset):
    """The study in full, Markdown without a heading: every run with its spread, every comparison with both intervals.

    Raises:
        ExperimentError: no study applies to the data set.
    """
    found = study.of(dataset, declared)
    if not found:
        raise ExperimentError(f"no seed study applies to {dataset}: {found.reason}")
    told, _ = order.differences(ABLATIONS, declared, dataset)
    compared = [(claim.words, comparison, printed) for claim, comparison, printed in claims(found, declared)]
    compared += [
        (f"{each.table}: {each.row} less {each.reference}", each.found, tables.difference(each.printed))
        for each in told
    ]
    text = _in_full(found, compared, "novel mask AP", "Generated data, not comparable to COCO.")
    return f"{text}\n\n{order.summary(told)}"


def pairs(declared, dataset, compared):
    """The study of a data set whose comparisons are plain pairs of runs, Markdown without a heading.

    Args:
        compared: [(run, reference)].

    Raises:
        ExperimentError: no study applies to the data set.
    """
    found = study.of(dataset, declared)
    if not found:
        raise ExperimentError(f"no seed study applies to {dataset}: {found.reason}")
    task = methods.task_of(declared.run(compared[0][0]).method)
    group, _, metric = task.main
    labels = found.rows.drop_duplicates("run").set_index("run")["label"]
    lines = []
    for run, reference in compared:
        if (comparison := found.compare(run, reference, study.column(task))) is not None:
            words = f"{labels[run]} less {labels[reference]}"
            lines.append((words, comparison, printed(Claim(run, reference, words), declared, metric)))
    return _in_full(found, lines, f"{group} {task.main_metric.label}", "Drawn data, not comparable to photographs.")


def _in_full(found, compared, number, warning):
    return "\n\n".join(
        [
            f"Trainings that nothing was chosen on: {found.described}. {warning}",
            every_row(found).to_markdown(index=False, disable_numparse=True),
            f"Differences in {number} of trainings on the same data with the same seed. The verdict follows the "
            "95 % interval over pairs, Student's t, without correction for the number of comparisons. The last column "
            "says if pairs on one data set agree with each other more than with those on others; then the interval "
            f"over the means of the data sets is the safer one. Of fewer than {study.FEWEST} there is none.",
            comparisons(compared).to_markdown(index=False, disable_numparse=True),
        ]
    )


def every_row(found):
    """Mean ± standard deviation of every run of a study in every number of runs.csv, a data frame as people read it."""
    numbers = study.numbers(found.rows)
    lines = []
    for name, trainings in found.rows.groupby("run", sort=False):
        line = {"Row": trainings["label"].iloc[0], "Trainings": str(len(trainings))}
        lines.append(line | {column.replace("_", " "): spread(found.values(name, column)) for column in numbers})
    return pd.DataFrame(lines)


def comparisons(compared):
    """Comparisons as people read them: [(words, `study.Comparison` or None, published difference in words or None)]."""
    return pd.DataFrame(
        [
            {
                "Comparison": words,
                "Published": printed or "–",
                "Pairs": str(each.pairs),
                "Mean": tables.difference(each.mean),
                "SD of a pair": tables.number(each.deviation),
                "Above 0": f"{each.positive} of {each.pairs}",
                "Interval over pairs": _bounds(each.over_pairs),
                "Over data sets": _bounds(each.over_sets),
                "Verdict": each.verdict(),
                "Data sets differ": "yes" if each.clustered else "no",
            }
            for words, each, printed in compared
            if each is not None
        ]
    )
