"""A second paper, and a task of another metric: its own numbers, tolerance, unit, and where lower is better."""

from dataclasses import replace

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline import tasks
from pipeline.artifacts import paths
from pipeline.declaration import references
from pipeline.errors import ExperimentError
from pipeline.reporting import published, tables
from pipeline.tasks.instances import TASK

DISTANCE = tasks.Metric("gap", "gap", "gap", unit="px", highest=float("inf"), lower_is_better=True)


@pytest.fixture
def distance(monkeypatch):
    """The task of the tables is one whose first metric is a distance."""
    task = replace(TASK, metrics=(DISTANCE, TASK.metrics[1]), main=("novel", "segm", "gap"))
    monkeypatch.setattr(tables, "task_of", lambda frame: task)


def frame(metric, values, deviation):
    columns = {"state": tables.DONE, "dataset": "toy", "direction": "nonvoc2voc", "undefined": None}
    return pd.DataFrame([{**columns, metric: value, f"{metric}_std": deviation} for value in values])


def test_the_best_distance_is_the_lowest(distance):
    assert list(tables.best(frame("gap", (250.0, 120.0, 180.0), 2.0), "gap")) == [False, True, False]
    assert not tables.best(frame("gap", (121.0, 120.0), 2.0), "gap").any()
    assert list(tables.best(frame("AP50", (30.0, 20.0), 1.0), "AP50")) == [True, False]


def test_a_distance_of_hundreds_is_valid_and_a_negative_one_is_not():
    assert DISTANCE.valid(350.5) and not DISTANCE.valid(-1) and not DISTANCE.valid(float("inf"))


def paper(**changes):
    row = {"id": "r", "method": "m", "backbone": "b", "schedule": "1x", "source": "ours", "factors": {}}
    table = {"id": "other_1", "document": "other", "number": 1, "caption": "c", "settings": ["nonvoc2voc"]}
    table |= {"metrics": ["mAP"], "rows": [row | {"results": {"nonvoc2voc": {"mAP": 50.0}}}]}
    content = {"schema_version": 1, "documents": {"other": {"title": "Other"}}, "tables": [table | changes]}
    tolerance = {"document": "other", "quantity": "mAP", "plus_minus": 3.0, "unit": "percentage_points"}
    return content | {"tolerances": [tolerance], "statements": []}


@pytest.fixture
def two_papers(tmp_path, monkeypatch):
    (tmp_path / "first.yaml").write_text(published.PAPER_TABLES.read_text())
    YAML().dump(paper(), tmp_path / "second.yaml")
    monkeypatch.setattr(published, "PAPER_TABLES", tmp_path / "first.yaml")
    published._papers.cache_clear()
    yield
    published._papers.cache_clear()


def test_every_paper_has_rows_and_a_tolerance_of_its_own(two_papers):
    assert published.row("other_1", "r")["results"]["nonvoc2voc"] == {"mAP": 50.0}
    assert published.row("contrastmask_table_2", "t2_baseline")
    assert published.tolerance("mAP", "contrastmask_table_2") == 0.2 and published.tolerance("mAP", "other_1") == 3.0
    assert published.tolerance("AP50", "other_1") is None and published.tolerance("mAP", None) is None


def test_an_id_of_another_paper_is_refused():
    first = YAML(typ="safe").load(paths.PUBLISHED / "contrastmask.yaml")
    with pytest.raises(ExperimentError) as error:
        references.Published({"contrastmask.yaml": first, "second.yaml": paper(id="contrastmask_table_2")})
    assert str(error.value) == (
        "second.yaml: tables['contrastmask_table_2']: declared in contrastmask.yaml too; rename one"
    )
