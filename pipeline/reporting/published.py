"""The numbers that papers print, from the files of `pipeline/experiments/published/`, one a paper."""

from functools import cache

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.declaration.experiments import read_yaml

PAPER_TABLES = paths.PUBLISHED / "contrastmask.yaml"
# Of the paper that a data set of objects or of label maps is for: its name, and what its numbers were measured on.
PAPERS = {"objects": ("ContrastMask", "COCO val2017"), "maps": ("SimFormer", "COCO-Stuff-10K test")}


@cache
def _papers():
    """The content of every file; `pipeline.declaration.references` refuses ids that two of them have."""
    return tuple(read_yaml(path) for path in sorted(PAPER_TABLES.parent.glob("*.yaml")))


def comparable(dataset, declared=None):
    """Whether a dataset holds the paper's data, COCO train2017 -> val2017: its entry in datasets.yaml says so.

    Args:
        declared: `pipeline.declaration.experiments.Experiments`, to spare reading it again.
    """
    return (declared or experiments.load()).dataset(dataset).get("paper_data", False) is True


def tables():
    """The published tables by id; the schema stands at the head of the file."""
    return {table["id"]: table for paper in _papers() for table in paper["tables"]}


def row(table_id, row_id):
    """One published row; its `results` map a direction to {metric: number or None}."""
    return {row["id"]: row for row in tables()[table_id]["rows"]}[row_id]


def statement(statement_id):
    """A number stated in the text, {claim, setting, delta: {metric: points}}."""
    return {entry["id"]: entry for paper in _papers() for entry in paper["statements"]}[statement_id]


def tolerance(quantity, table_id):
    """How far the authors of a published table say a metric wanders between repetitions, either way.

    None if they do not, or without a published table.
    """
    papers = (paper for paper in _papers() if any(table["id"] == table_id for table in paper["tables"]))
    return next((_tolerances(paper).get(quantity) for paper in papers), None)


def _tolerances(paper):
    return {entry["quantity"]: entry["plus_minus"] for entry in paper["tolerances"]}
