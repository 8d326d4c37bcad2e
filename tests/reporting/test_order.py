"""The published order of rows beside the one found here, and the seed study in words."""

import pytest

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import figures, order, study, study_page, style

from .studies import rows, write
from .test_figures import declare, drawn

REAL = experiments.load()
PROTOCOL = paths.study().with_name("protocol.yaml")
BASELINE, CM, FULL = experiments.runs_of(REAL.tables["table2"])
NOISE = (0.1, 0.0, 0.0, 0.2, 0.1, 0.1, 0.0, 0.1, 0.2)  # another one than that of `wandering`
SETS = ("generated_study1", "generated_study2", "generated_study3")


def wandering(centre, noise=(0.0, 0.1, 0.2, 0.1, 0.2, 0.0, 0.2, 0.0, 0.1)):
    """Nine trainings, three seeds on each of three data sets, about a value."""
    return {(SETS[i // 3], i % 3): centre + value for i, value in enumerate(noise)}


@pytest.fixture
def studied(tmp_path, monkeypatch):
    """Write a study of runs of the repository: {run: {(data set, seed): AP}}."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)

    def make(numbers):
        write(rows(numbers))
        return study.of("generated", REAL), REAL

    return make


def outcomes(declared, *tables):
    found, _ = order.differences(tables or ["table2"], declared, "generated")
    return {each.row: each.outcome() for each in found}


def test_an_order_is_found_contradicted_or_not_to_be_told(studied):
    _, declared = studied({BASELINE: wandering(5.0), CM: wandering(10.0, NOISE)})
    assert outcomes(declared) == {"Baseline": order.SURVIVES, "Baseline + CM + CL": order.UNTOLD}
    _, declared = studied({BASELINE: wandering(15.0), CM: wandering(10.0, NOISE), FULL: wandering(10.0)})
    assert outcomes(declared) == {"Baseline": order.CONTRADICTED, "Baseline + CM + CL": order.UNTOLD}


def test_what_the_paper_does_not_tell_apart_is_neither(studied):
    _, declared = studied(
        {name: wandering(5.0 * i, NOISE) for i, name in enumerate(experiments.runs_of(REAL.tables["table3"]))}
    )
    assert outcomes(declared, "table3") == {"C4F2": order.SURVIVES, "C12F4": order.TIE}  # published: 0.9 and 0.1 below


def test_every_table_of_the_figure_is_compared_with_the_row_that_the_paper_takes_as_its_default(studied):
    _, declared = studied({BASELINE: wandering(1.0)})
    entry = REAL.figures["order"]
    found, _ = order.differences(entry["tables"], declared, "generated")
    assert {(each.table, each.row): each.printed for each in found} == {
        ("Table 2", "Baseline"): -8.4,
        ("Table 2", "Baseline + CM + CL"): 2.8,
        ("Table 3", "C4F2"): -0.9,
        ("Table 3", "C12F4"): -0.1,
        ("Table 4", "sigma = 0.1"): -0.7,
        ("Table 4", "sigma = 0.2"): -0.4,
        ("Table 4", "sigma = 0.6"): -0.8,
        ("Table 5", "tau = 0.1"): -0.7,
        ("Table 5", "tau = 0.9"): -1.1,
        ("Table 6", "Base"): -1.6,
        ("Table 6", "Novel"): -1.7,
        ("Table 7", "Per proposal"): -2.4,
    }


def test_the_summary_counts_and_names(studied):
    _, declared = studied({BASELINE: wandering(15.0), CM: wandering(10.0, NOISE), FULL: wandering(20.0)})
    found, _ = order.differences(["table2", "table3"], declared, "generated")
    assert order.summary(found) == (
        "Found again of the differences that the paper tells apart: 1 of 3 (Table 2, Baseline + CM + CL). Found the "
        "other way round: Table 2, Baseline. Not to be told here: Table 3, C4F2."
    )


def test_the_figure_has_a_panel_of_published_and_one_of_measured_differences(studied):
    _, declared = studied({BASELINE: wandering(15.0), CM: wandering(10.0, NOISE), FULL: wandering(20.0)})
    entry = REAL.figures["order"]
    request = figures.Request("order", entry, "generated", declared, figures.series_of(entry, declared))
    with style.paper_style():
        figure, caption = figures.KINDS["order"].draw(request)
    style.plt.close(figure)
    left, right = figure.axes
    assert left.get_title() == "published\nCOCO val2017" and right.get_title() == "measured\ngenerated images"
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels[:3] == ["Table 2: less Baseline + CM", "Baseline", "Baseline + CM + CL"]
    means = [(line.get_xdata()[0], line.get_ydata()[0]) for line in right.lines if len(line.get_xdata()) == 1]
    assert means == [(pytest.approx(5.0, abs=0.1), 1), (pytest.approx(10.0, abs=0.1), 2)]
    intervals = [
        line for line in right.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == line.get_ydata()[1]
    ]
    assert [line.get_color() for line in intervals] == [
        order.LOOKS[order.CONTRADICTED][0],
        order.LOOKS[order.SURVIVES][0],
    ]
    assert "No correction for the 12 comparisons" in caption and "seeds 0, 1, 2" in caption and "±0.2" in caption
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(order.LOOKS)


def test_without_a_study_the_seeds_of_the_runs_tell(workspace):
    experiments.load().tables["table2"]["rows"][0]["reference"] = True
    declare("order", "order", tables=["table2"])
    for seeds, sentence in ((1, "too few for intervals"), (3, "95 % intervals of Student's t")):
        workspace.result("plain", tuple(10.0 + seed for seed in range(seeds)))
        workspace.result("ours", tuple(20.0 + 1.1 * seed for seed in range(seeds)))
        _, caption = drawn("order")
        assert sentence in caption and "from the seeds of the runs" in caption
    assert "1 of 1 (Table 2, Ours)" in caption


def test_a_figure_that_nothing_tells_of_says_why(workspace):
    experiments.load().tables["table2"]["rows"][0]["reference"] = True
    declare("order", "order", tables=["table2"])
    figures.build_figure("order")
    said = figures.saved_caption("order", "toy")
    assert "how far trainings on toy wander is not known: there is no reports/seed_study/runs.csv" in said


ALL = {BASELINE: 6.0, CM: 10.0, study_page.CONTROL: 10.1, FULL: 12.0}


def test_the_first_screen_has_rows_with_spread_and_says_of_each_claim_if_it_is_found(studied):
    found, declared = studied(
        {name: wandering(value, NOISE[i:] + NOISE[:i]) for i, (name, value) in enumerate(ALL.items())}
    )
    text = study_page.first_screen(found, declared, "generated")
    lines = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ")][1:]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["Baseline", "6.1 ± 0.1 (23.9)"],
        ["Baseline + CM", "10.1 ± 0.1 (32.3)"],
        [f"label of {study_page.CONTROL}", "10.2 ± 0.1"],
        ["Baseline + CM + CL", "12.1 ± 0.1 (35.1)"],
    ]
    assert "- **The class activation map helps: found.** +4.0 AP on novel categories (95 % interval " in text
    assert "- **It is the contrastive loss that adds, not the branch: found.** +1.9 AP" in text
    assert "published: +2.8)." in text and "9 pairs of trainings" in text
    assert "(oracle): not tried**; published: +1.4 in the direction voc2nonvoc." in text
    assert "The baseline reaches 60% of the AP that the row with CM has (published: 74%)." in text
    assert "*generated* images (3 data sets, seeds 0, 1, 2" in text and "not comparable" in text


def test_a_claim_that_is_not_found_says_so(studied):
    found, declared = studied({BASELINE: wandering(9.0), CM: wandering(8.0, NOISE), FULL: wandering(8.0)})
    text = study_page.first_screen(found, declared, "generated")
    assert "The class activation map helps: the opposite is found.** −1.0 AP" in text
    assert "The CL branch adds to it: cannot be told at this size.**" in text


def test_too_few_pairs_have_no_interval_in_words(studied):
    few = {key: 1.0 for key in [(SETS[0], 0), (SETS[1], 0)]}
    found, declared = studied({BASELINE: few, CM: {key: 9.0 for key in few}})
    text = study_page.first_screen(found, declared, "generated")
    assert (
        "cannot be told at this size.** +8.0 AP on novel categories (2 pairs of trainings, too few for an interval"
        in text
    )


def test_the_page_gives_both_intervals_and_the_one_that_is_used(studied):
    found, declared = studied({name: wandering(value) for name, value in ALL.items()} | {CM: wandering(10.0, NOISE)})
    text = study_page.page(declared, "generated")
    (line,) = (line for line in text.splitlines() if line.startswith("| The class activation map"))
    assert [cell.strip() for cell in line.split("|")][2:5] == ["+8.4", "9", "+4.0"] and line.count(" to ") == 2
    assert [cell.strip() for cell in line.split("|")][-3:-1] == ["better", "no"]
    assert f"| label of {BASELINE} " in text and "6.1 ± 0.1" in text


def test_a_page_without_a_study_is_refused(studied):
    _, declared = studied({BASELINE: wandering(9.0)})
    paths.study().unlink()
    with pytest.raises(ExperimentError, match="no seed study applies to generated: there is no"):
        study_page.page(declared, "generated")


def test_the_claims_are_the_comparisons_of_the_protocol():
    protocol = experiments.read_yaml(PROTOCOL)
    assert [[claim.run, claim.reference] for claim in study_page.CLAIMS] == protocol["comparisons"]
    assert {study_page.CONTROL, study_page.ORACLE} == set(protocol["controls"])
