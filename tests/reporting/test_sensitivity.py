"""Mask AP against a knob: values come from what a run resolves to and from the published rows, never from labels."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.declaration.experiments import Run
from pipeline.errors import ExperimentError
from pipeline.reporting import figures, sensitivity, style
from pipeline.reporting.figures import build_figure, saved_caption
from tests.scores import change

from .studies import grid, rows, write
from .test_figures import declare, drawn

KNOBS = Path(__file__).resolve().parents[2] / "pipeline" / "methods" / "contrastmask" / "knobs.yaml"
TAU = {
    "ours": (None, 22.0, None),  # what the recipe says
    "tau_low": ({"tau_easy": 0.1, "tau_hard": 0.9}, 20.0, "t5_tau_0_1"),
    "tau_high": ({"tau_easy": 0.9, "tau_hard": 0.1}, 21.0, "t5_tau_0_9"),
}


@pytest.fixture
def tau(workspace):
    """A table of three temperatures in no order, with labels that lie, and the figure of it."""
    paths.PAPER_KNOBS.parent.mkdir(parents=True, exist_ok=True)
    workspace.write(paths.PAPER_KNOBS, KNOBS.read_text())
    declared = experiments.load()
    declared.tables["temperature"] = {"title": "Temperature", "published": "contrastmask_table_5", "rows": []}
    for name, (overrides, ap, printed) in TAU.items():
        if overrides:
            declared.runs[name] = Run(
                name, "contrastmask", "r50", "1x", "nonvoc2voc", "pipeline/methods/contrastmask/knobs.yaml", overrides
            )
        row = {"label": "tau = 0.5", "runs": [name]} | ({"published": printed} if printed else {})
        declared.tables["temperature"]["rows"].insert(0, row)
        workspace.result(name, (ap,))
    declare("tau", "sensitivity", tables=["temperature"], knob="tau_easy", axis="tau")
    del declared.figures["tau"]["runs"]  # it shows those of its table
    return workspace


def points(line):
    return list(zip(*map(list, line.get_data()), strict=True))


def test_values_are_those_that_the_runs_resolve_to(tau):
    figure, caption = drawn("tau")
    left, right = figure.axes
    recipe = 0.3  # of `released`, which pipeline/methods/contrastmask/knobs.yaml follows
    assert points(left.lines[0]) == [(0.1, 20.0), (recipe, 22.0), (0.9, 21.0)]
    assert points(right.lines[0]) == [(0.1, 34.4), (0.9, 34.0)]
    assert "one seed each" in caption and "±0.2" in caption


def test_points_are_joined_only_where_every_one_has_several_seeds(tau):
    figure, caption = drawn("tau")
    assert [axis.lines[0].get_linestyle() for axis in figure.axes] == ["None", "--"]
    assert "none are joined" in caption
    for name, (_, ap, _) in TAU.items():
        tau.result(name, (ap, ap + 1))
    figure, caption = drawn("tau")
    assert figure.axes[0].lines[0].get_linestyle() == "-" and "none are joined" not in caption


def test_a_study_has_the_curve_with_a_band_of_what_a_difference_may_be(tau, toys):
    toys.tables["temperature"]["rows"][0]["reference"] = True  # the row of `tau_high`
    write(rows({"tau_high": grid(20.0, 21.0, 22.0), "ours": grid(23.0, 24.0, 25.3), "tau_low": grid(19.0, 20.0, 21.4)}))
    figure, caption = drawn("tau")
    left = figure.axes[0]
    curve = next(line for line in left.lines if line.get_color() == sensitivity.STUDY_COLOUR)
    assert points(curve) == [(0.1, pytest.approx(21 - 0.867, abs=0.01)), (0.3, pytest.approx(24.1)), (0.9, 21.0)]
    assert left.lines[0].get_linestyle() == "None"  # points of one seed are not joined
    (band,) = left.collections
    edge = band.get_paths()[0].vertices
    widths = [np.ptp(edge[edge[:, 0] == value, 1]) for value in (0.1, 0.3, 0.9)]
    assert widths[0] > 0 and widths[1] > 0 and widths[2] == pytest.approx(0)
    assert "curve and band: mean of the seed study, with the 95 % interval" in caption


def test_a_study_that_lacks_a_row_has_no_curve(tau, toys):
    toys.tables["temperature"]["rows"][0]["reference"] = True
    write(rows({"tau_high": grid(20.0, 21.0, 22.0), "ours": grid(23.0, 24.0, 25.3)}))
    figure, caption = drawn("tau")
    assert not figure.axes[0].collections and "seed study" not in caption


def test_an_undefined_mask_ap_is_no_point(tau):
    def undefine(name):
        path = paths.results("toy", name)
        content = json.loads(path.read_text())
        change(content["per_seed"][0], None, kind="segm", group="novel")
        path.write_text(json.dumps(content))

    undefine("tau_low")
    assert points(drawn("tau")[0].axes[0].lines[0]) == [(0.3, 22.0), (0.9, 21.0)]
    for name in ("ours", "tau_high"):
        undefine(name)
    build_figure("tau")
    assert "mask AP on novel categories is undefined on toy" in saved_caption("tau", "toy")


def test_a_value_without_a_published_twin_is_hollow(tau):
    left = drawn("tau")[0].axes[0]
    faces = {
        line.get_xdata()[0]: line.get_markerfacecolor()
        for line in left.lines
        if len(line.get_xdata()) == 1 and line.get_marker() == "o"
    }
    colour = style.method_colour("contrastmask")
    assert faces == {0.1: colour, 0.3: "white", 0.9: colour}


def test_the_two_datasets_have_a_panel_each_with_a_scale_of_the_same_span(tau):
    left, right = drawn("tau")[0].axes
    assert left.get_title() == "measured\ntoy" and right.get_title() == "published\nCOCO val2017"
    low, high = left.get_ylim()
    assert high - low == pytest.approx(right.get_ylim()[1] - right.get_ylim()[0])
    assert low < 20 and high > 22


def test_on_the_dataset_of_the_paper_both_curves_share_a_panel(tau):
    for name, (_, ap, _) in TAU.items():
        tau.result(name, (ap,), on="coco2017")
    tau.write(paths.PARAMS, "dataset: coco2017\n")
    figure, caption = drawn("tau")
    (axis,) = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["measured", "not in the paper", "published"]
    assert "comparable" not in caption
    assert axis.get_ylim()[0] < 20 and axis.get_ylim()[1] > 34.4


def test_several_seeds_have_error_bars_and_one_has_none(tau):
    tau.result("tau_low", (19.0, 21.0))
    figure, caption = drawn("tau")
    left = figure.axes[0]
    bars = [segment for collection in left.collections for segment in collection.get_segments()]
    (bar,) = bars
    assert bar[:, 0].tolist() == [0.1, 0.1]
    assert bar[:, 1].tolist() == pytest.approx([20 - math.sqrt(2), 20 + math.sqrt(2)])
    assert "one standard deviation over the seeds" in caption


def test_a_missing_run_is_left_out_and_named_and_its_value_stays_on_the_axis(tau):
    paths.results("toy", "tau_low").unlink()
    figure, caption = drawn("tau")
    assert points(figure.axes[0].lines[0]) == [(0.3, 22.0), (0.9, 21.0)]
    assert "No result on toy, not run: tau_low (`dvc repro evaluate@tau_low`)." in caption
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0.1", "0.3", "0.9"]


def test_a_direction_for_which_nothing_is_published_has_one_panel(tau):
    for run in (experiments.load().runs[name] for name in TAU):
        object.__setattr__(run, "direction", "voc2nonvoc")
        tau.result(run.name, (20.0,))
    figure, caption = drawn("tau")
    assert len(figure.axes) == 1 and "published" not in caption


def test_no_run_at_all(tau):
    for name in TAU:
        paths.results("toy", name).unlink()
    build_figure("tau")
    assert "`dvc repro evaluate@tau_high evaluate@tau_low evaluate@ours`" in saved_caption("tau", "toy")


def test_what_is_no_number_has_no_axis(tau):
    run = experiments.load().runs["ours"]
    for knob in ("supervision", "query_sharing", "sigmma", "seeds"):
        with pytest.raises(ExperimentError, match=f"knob '{knob}' cannot be drawn on an axis: run ours"):
            sensitivity.knob_value(run, knob)
    assert sensitivity.knob_value(run, "encoder_convs") == 8


def test_declared_figures_get_every_value_of_the_paper():
    """The declaration in the repository: x values of Tables 4 and 5, and the pair of the released code."""
    declared = experiments.load()
    expected = {"sensitivity_sigma": [0.1, 0.2, 0.3, 0.6], "sensitivity_tau": [0.1, 0.3, 0.7, 0.9]}
    for name, values in expected.items():
        entry = declared.figures[name]
        series = figures.series_of(entry, declared)
        assert sorted(sensitivity.knob_value(s.run, entry["knob"]) for s in series) == values
        table = declared.tables[entry["tables"][0]]
        printed = sensitivity.published_points(entry["knob"], table, "nonvoc2voc", "mAP")
        assert {point.value for point in printed} == set(values) - ({0.3} if name == "sensitivity_tau" else set())
