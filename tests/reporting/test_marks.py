"""A value is marked as distinguishable from the reference row only where something tells how far trainings wander."""

import pytest

from pipeline.artifacts import paths
from pipeline.declaration import experiments, schema
from pipeline.errors import ExperimentError
from pipeline.reporting import tables
from pipeline.reporting.latex import latex

from .studies import grid, rows, write
from .test_tables import built

PLAIN = {"plain": grid(10.0, 11.0, 12.0, 10.0, 11.0, 12.0, 10.0, 11.0, 12.0)}
OURS = {"ours": grid(14.0, 16.0, 18.0, 15.0, 17.0, 16.0, 13.0, 15.0, 17.0)}  # noise of a pair: about 1 point


@pytest.fixture
def compared(toys, workspace):
    """Table 2 with the baseline as its reference, and a study of both of its rows."""
    toys.tables["table2"]["rows"][0]["reference"] = True
    write(rows(PLAIN | OURS))
    return workspace


def shown(table="table2"):
    declared, dataset = experiments.load(), experiments.chosen_dataset()
    frame = tables.table_frame(table, declared, dataset)
    return frame, tables.markdown(table, frame, declared, dataset)


def verdicts(metric="mAP"):
    return [row[f"{metric}_verdict"] for row in built()]


@pytest.mark.parametrize("ours, verdict, sign", [(20, "better", "↑"), (11, "cannot be told", "≈"), (3, "worse", "↓")])
def test_a_value_is_told_from_the_reference_by_the_noise_of_the_study(compared, ours, verdict, sign):
    compared.result("plain", (10.0,))
    compared.result("ours", (float(ours),))
    assert verdicts() == ["", verdict]
    frame, text = shown()
    assert f"| {ours}.0 {sign} (35.1)" in text and "| 10.0 (23.9)" in text
    assert (
        "↑ better, ↓ worse than the row Baseline, ≈ not to be told from it. The noise is that of the seed study" in text
    )
    assert "from 9 pairs of trainings" in text and "3 data sets, seeds 0, 1, 2" in text
    assert {"↑": r"\uparrow", "≈": r"\approx", "↓": r"\downarrow"}[sign] in latex(
        "table2", frame, experiments.load(), "toy"
    )


def test_a_metric_that_the_study_does_not_tell_of_is_not_marked(compared):
    for name, ap in (("plain", 10.0), ("ours", 30.0)):
        compared.result(name, (ap,))
    assert verdicts() == ["", "better"] and verdicts("AP50") == ["", ""]


def test_enough_seeds_of_its_own_tell_a_row_without_the_study(compared):
    compared.result("plain", (10.0, 11.0, 12.0))
    compared.result("ours", (10.6, 11.4, 12.5))  # the study would not tell half a point
    assert verdicts() == ["", "better"]
    _, text = shown()
    assert "± 1.0 ↑" in text and "Told by the differences of their own seeds" in text and "seed study" not in text
    paths.study().unlink()
    assert verdicts() == ["", "better"]


def test_two_seeds_are_too_few_and_halve_the_noise_of_the_study(compared):
    compared.result("plain", (10.0, 10.0))
    compared.result("ours", (12.0, 12.0))
    assert verdicts() == ["", "better"]
    compared.result("ours", (12.0,))
    assert verdicts() == ["", "cannot be told"]


def test_trainings_with_other_seeds_are_no_pair(compared):
    compared.result("plain", (10.0,))
    scores = compared.scores(30.0)
    compared.result("ours", seeds=[5], per_seed=[{"seed": 5, **scores}])
    assert verdicts() == ["", ""]


def test_without_a_study_of_such_data_nothing_is_marked_and_the_note_says_so(compared):
    for name in ("plain", "ours"):
        compared.result(name, (10.0,))
    write(rows({name: {("wide", seed): 1.0 * seed for seed in range(3)} for name in ("plain", "ours")}))
    assert verdicts() == ["", ""]
    _, text = shown()
    assert (
        "No row is marked as distinguishable from Baseline or not: one training a row tells no noise, and "
        "reports/seed_study/runs.csv has none on data that are drawn and trained on as toy is." in text
    )


def test_a_row_of_which_the_study_has_no_pairs_is_named(compared):
    for name in ("plain", "ours"):
        compared.result(name, (10.0,))
    write(rows(PLAIN))
    assert "Not marked, as the seed study has no such pairs: Ours." in shown()[1]


@pytest.mark.parametrize("why", ["paper", "reference"])
def test_nothing_is_said_on_the_data_of_the_paper_or_without_a_reference(compared, why):
    if why == "paper":
        compared.write(paths.PARAMS, "dataset: coco2017\n")
    else:
        del experiments.load().tables["table2"]["rows"][0]["reference"]
    for name in ("plain", "ours"):
        compared.result(name, (10.0,), on=experiments.chosen_dataset())
    assert verdicts() == ["", ""]
    text = shown()[1]
    assert "≈" not in text and "distinguishable" not in text


def test_a_new_row_of_the_same_method_takes_the_noise_of_those_in_the_study(compared):
    declared = experiments.load()
    declared.tables["table2"]["rows"].append({"label": "Free", "runs": ["current"]})
    for name, ap in (("plain", 10.0), ("current", 30.0)):
        compared.result(name, (ap,))
    assert verdicts() == ["", "", "better"]


def test_every_table_of_the_paper_but_the_first_has_a_reference_that_it_prints():
    declared = experiments.load()
    for name, table in declared.tables.items():
        if "published" not in table:
            continue
        references = [row for row in table["rows"] if row.get("reference")]
        assert len(references) == (name != "table1"), name
        assert all("published" in row for row in references), name


@pytest.mark.parametrize(
    "table, message",
    [
        (
            [{"label": "A", "runs": ["a"], "reference": True}, {"label": "B", "runs": ["b"], "reference": True}],
            "'A' and 'B'",
        ),
        ([{"label": "A", "published": "a", "reference": True}], "is true; valid: in a row with runs alone"),
    ],
)
def test_a_table_has_one_reference_and_measures_it(table, message):
    with pytest.raises(ValueError, match=message):
        schema.Table(title="T", published="p", rows=table)


def test_a_damaged_study_is_an_error(compared):
    for name in ("plain", "ours"):
        compared.result(name, (10.0,))
    paths.study().write_text("")
    with pytest.raises(ExperimentError, match="runs.csv: not a table"):
        built()
