"""The numbers that papers print, from the files of `pipeline/experiments/published/`."""

from functools import cache
from pathlib import Path

from pipeline.declaration import experiments
from pipeline.declaration.experiments import read_yaml

PAPER_TABLES = Path(__file__).resolve().parents[1] / "experiments" / "published" / "contrastmask.yaml"


@cache
def _content():
    files = [read_yaml(path) for path in sorted(PAPER_TABLES.parent.glob("*.yaml"))]
    sections = ("tables", "statements", "tolerances")
    return {section: [entry for content in files for entry in content[section]] for section in sections}


def comparable(dataset, declared=None):
    """Whether a dataset holds the paper's data, COCO train2017 -> val2017: its entry in datasets.yaml says so.

    Args:
        declared: `pipeline.declaration.experiments.Experiments`, to spare reading it again.
    """
    return (declared or experiments.load()).dataset(dataset).get("paper_data", False) is True


def tables():
    """The published tables by id; the schema stands at the head of the file."""
    return {table["id"]: table for table in _content()["tables"]}


def row(table_id, row_id):
    """One published row; its `results` map a direction to {metric: percent or None}."""
    return {row["id"]: row for row in tables()[table_id]["rows"]}[row_id]


def statement(statement_id):
    """A number stated in the text, {claim, setting, delta: {metric: points}}."""
    return {entry["id"]: entry for entry in _content()["statements"]}[statement_id]


def tolerance(quantity):
    """By how many points the authors say a metric wanders between repetitions, either way; None if they do not."""
    stated = {entry["quantity"]: entry["plus_minus"] for entry in _content()["tolerances"]}
    return stated.get(quantity)
