"""Where measured and published main numbers agree: by value on the paper's dataset, elsewhere by the order of rows."""

from dataclasses import dataclass

import pandas as pd

from pipeline import tasks
from pipeline.reporting import published, tables

VERDICT = "Agrees"


@dataclass(frozen=True)
class Agreement:
    """The comparison over all tables.

    Attributes:
        by_value: whether values were compared; otherwise pairs of neighbouring rows.
        lines: a data frame as people read it, one line for each comparison, `yes` or `no` in the column VERDICT.
        missing: comparisons that wait for a result.
        metrics: labels of what was compared.
        tolerances: by how many points the authors say that each of them wanders.
    """

    by_value: bool
    lines: pd.DataFrame
    missing: int
    metrics: tuple
    tolerances: tuple

    @property
    def compared(self):
        return len(self.lines)

    @property
    def agreeing(self):
        return int((self.lines[VERDICT] == "yes").sum())

    @property
    def _metric(self):
        return " or ".join(self.metrics)

    @property
    def _tolerance(self):
        return " or ".join(map(str, self.tolerances))

    @property
    def summary(self):
        """A few words: how many of the comparisons agree."""
        if not self.compared:
            return "nothing to compare yet"
        if self.by_value:
            return f"{self.agreeing} of {self.compared} rows within ±{self._tolerance}"
        chance = f"{self.compared / 2:g}"  # either order is as likely
        return f"{self.agreeing} of {self.compared} pairs of rows in the paper's order (chance alone gives {chance})"

    @property
    def method(self):
        """What was compared and how, as plain text."""
        if self.by_value:
            text = (
                f"A row agrees if its {self._metric} differs from the published one by at most {self._tolerance} "
                "points, by which the authors say that repetitions wander."
            )
        else:
            text = (
                f"Order only: a pair of neighbouring published rows agrees if the measured {self._metric} rises or "
                "falls from the first to the second as the published one does. How far apart values are says nothing "
                "here."
            )
        rest = f" Not compared for want of a result: {self.missing}." if self.missing else ""
        return f"{text} Compared as printed, to 0.1.{rest}"


def agreement(frames, labels, dataset):
    """Compare every row of our own that the paper prints the main number of its task for.

    Args:
        frames: {table id: data frame of tables.table_frame}.
        labels: {table id: how the page calls it}.
        dataset: name of the dataset of the results.
    """
    by_value = published.comparable(dataset)
    compare = _values if by_value else _pairs
    columns = ["Measured", "Published", "Difference"] if by_value else ["Published", "Measured"]
    columns = ["Table", VERDICT, *columns, "Direction", *(["Row"] if by_value else ["First row", "Second row"])]
    lines, missing = [], 0
    for table, frame in frames.items():
        key = tables.main(frame)
        ours = frame[~tables.is_cited(frame) & frame[f"{key}_published"].notna()]
        for (_, direction), rows in ours.groupby(["dataset", "direction"], sort=False):
            for line in compare(rows, key, [column for column in tables.varying(frame) if column != "direction"]):
                if line is None:
                    missing += 1
                else:
                    agrees, numbers, names = line
                    lines.append((labels[table], "yes" if agrees else "no", *numbers, direction, *names))
    compared = dict.fromkeys(tables.task_of(frame).main_metric for frame in frames.values())
    stated = dict.fromkeys(tables.tolerance(frame) for frame in frames.values())
    compared = list(compared) or [tasks.task(tasks.FIRST).main_metric]
    return Agreement(
        by_value,
        pd.DataFrame(lines, columns=columns),
        missing,
        tuple(metric.label for metric in compared),
        tuple(filter(None, stated)),
    )


def _values(rows, key, telling):
    """(verdict, numbers, names) for each row; None for one whose measured number is missing."""
    for _, row in rows.iterrows():
        value, printed = row[key], row[f"{key}_published"]
        if pd.isna(row["agrees"]):
            yield None
        else:
            numbers = tables.number(value), tables.number(printed), tables.difference(round(value, 1) - printed)
            yield row["agrees"], numbers, [_name(row, telling)]


def _pairs(rows, key, telling):
    """The same for each two neighbours that the paper tells apart."""
    for first, second in zip(rows.index, rows.index[1:], strict=False):
        first, second = rows.loc[first], rows.loc[second]
        there = second[f"{key}_published"] - first[f"{key}_published"]
        if there == 0:
            continue
        here = round(second[key], 1) - round(first[key], 1)
        if pd.isna(here):
            yield None
        else:
            numbers = tables.difference(there), tables.difference(here)
            yield round(here, 1) * there > 0, numbers, [_name(first, telling), _name(second, telling)]


def _name(row, telling):
    return row["row"] + (f" ({', '.join(row[column] for column in telling)})" if telling else "")
