"""The paper's numbers as transcribed are consistent with each other and with the claims of its text."""

import hashlib

import pytest

from pipeline.declaration.experiments import read_yaml
from pipeline.reporting import published
from pipeline.reporting.published import PAPER_TABLES
from pipeline.tasks.instances import TASK

CONTENT = read_yaml(PAPER_TABLES)
ROWS = {row["id"]: row for table in CONTENT["tables"] for row in table["rows"]}


@pytest.mark.parametrize("row_id", ["t2_cam_cl", "t3_c8f3", "t4_sigma_0_3", "t5_tau_0_7", "t6_all", "t7_shared"])
def test_default_row_of_every_ablation_is_the_row_of_table_1(row_id):
    default = ROWS["t1_r50_1x_contrastmask"]["results"]["nonvoc2voc"]
    assert ROWS[row_id]["results"] == {"nonvoc2voc": default}


def test_baseline_of_table_2_is_the_row_of_table_1():
    assert ROWS["t2_baseline"]["results"]["nonvoc2voc"] == ROWS["t1_r50_1x_maskrcnn"]["results"]["nonvoc2voc"]


@pytest.mark.parametrize("table", CONTENT["tables"], ids=lambda table: table["id"])
def test_rows_fill_their_schema(table):
    assert table["document"] in CONTENT["documents"]
    for row in table["rows"]:
        assert list(row["results"]) == table["settings"]
        for values in row["results"].values():
            assert list(values) == table["metrics"]
            assert set(values) <= set(TASK.keys)
            assert all(value is None or 0 < value < 100 for value in values.values())


@pytest.mark.parametrize(
    "claim", [s for s in CONTENT["statements"] if "minuend" in s], ids=lambda statement: statement["id"]
)
def test_differences_claimed_in_the_text_follow_from_the_tables(claim):
    values = [ROWS[claim[side]]["results"][claim["setting"]]["mAP"] for side in ("minuend", "subtrahend")]
    assert values[0] - values[1] == pytest.approx(claim["delta"]["mAP"])


def test_row_ids_are_unique():
    assert len(ROWS) == sum(len(table["rows"]) for table in CONTENT["tables"])


def test_the_numbers_are_those_that_were_transcribed():
    """340 numbers, each checked against the paper when it was transcribed; a changed digit changes the digest."""
    numbers = [
        f"{table['id']}/{row['id']}/{direction}/{metric}={value}"
        for table in CONTENT["tables"]
        for row in table["rows"]
        for direction, values in row["results"].items()
        for metric, value in values.items()
    ]
    digest = hashlib.sha256("\n".join(numbers).encode()).hexdigest()
    assert (len(numbers), digest) == (340, "b559d727b5e1814550f17cab07043b481b5d5590be4cb50a36abb666dd979813")


def test_every_paper_has_a_file(tmp_path, monkeypatch):
    for name, table in (("contrastmask", "a"), ("other", "b")):
        (tmp_path / f"{name}.yaml").write_text(f"tables: [{{id: {table}}}]\nstatements: []\ntolerances: []\n")
    monkeypatch.setattr(published, "PAPER_TABLES", tmp_path / "contrastmask.yaml")
    published._papers.cache_clear()
    try:
        assert list(published.tables()) == ["a", "b"]
    finally:
        published._papers.cache_clear()
