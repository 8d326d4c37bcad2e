import csv
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import figures, published, tables
from pipeline.reporting.latex import escape_latex, latex
from pipeline.reporting.table_files import build_table
from pipeline.reporting.tables import table_frame
from tests.scores import change

from .conftest import Workspace

DECLARED = experiments.load()

HEADER = "row,backbone,schedule,run,dataset,direction,state,seeds,agrees,undefined," + ",".join(
    f"{metric}{suffix}"
    for metric in ("mAP", "AP50", "AP75", "APs", "APm", "APl")
    for suffix in ("", "_std", "_published", "_verdict")
)


def built(name="table2"):
    build_table(name)
    with open(paths.table(experiments.chosen_dataset(), name, "csv"), newline="") as file:
        return list(csv.DictReader(file))


def test_csv_columns(workspace):
    workspace.result("plain")
    build_table("table2")
    assert paths.table("toy", "table2", "csv").read_text().splitlines()[0] == f"{HEADER},differs"


def test_one_seed_is_kept_at_full_precision_and_has_no_deviation(workspace):
    workspace.result("plain", novel=(12.345678901234567,))
    row = built()[0]
    assert (row["row"], row["run"], row["dataset"], row["direction"]) == (
        "Baseline",
        "plain",
        "toy",
        "nonvoc2voc",
    )
    assert json.loads(row["seeds"]) == [0]
    assert float(row["mAP"]) == 12.345678901234567
    assert row["mAP_std"] == ""


def test_seeds_give_mean_and_sample_deviation(workspace):
    workspace.result("ours", novel=(20.0, 22.0, 27.0))
    row = built()[1]
    assert json.loads(row["seeds"]) == [0, 1, 2]
    assert float(row["mAP"]) == pytest.approx(23)
    assert float(row["mAP_std"]) == pytest.approx(13**0.5)
    assert "23.0 ± 3.6 (35.1)" in paths.table("toy", "table2", "md").read_text()


def edit(run, how):
    """Change the scores of every seed of a result that was written."""
    path = paths.results("toy", run)
    content = json.loads(path.read_text())
    for seed in content["per_seed"]:
        how(seed)
    path.write_text(json.dumps(content))


def test_undefined_metric_is_empty_and_a_dash(workspace):
    workspace.result("plain")
    workspace.result("ours")
    edit("ours", lambda seed: change(seed, 7.0, kind="segm", group="novel", metric="APs"))
    assert [row["APs"] for row in built()] == ["", "7.0"]
    assert "– (11.6)" in paths.table("toy", "table2", "md").read_text()


def test_a_column_that_is_undefined_for_every_row_is_hidden_with_a_note(workspace):
    workspace.result("plain")
    workspace.result("ours")
    build_table("table2")
    markdown, tex = (paths.table("toy", "table2", extension).read_text() for extension in ("md", "tex"))
    assert "| APs" not in markdown and "Not shown, as undefined for every row: APs." in markdown
    assert "AP$_{S}$" not in tex and "Not shown, as undefined for every row: APs." in tex


def without_masks(seed):
    change(seed, None, kind="segm", group="novel")
    seed["undefined"] = {"segm": {"person": "its objects have no masks", "cat": "its objects have no masks"}}


def test_mask_ap_that_is_undefined_says_so_with_the_reason(workspace):
    workspace.result("plain", novel=(10.0, 11.0))
    workspace.result("ours", novel=(20.0, 21.0))
    edit("ours", without_masks)
    row = built()[1]
    assert (row["state"], row["mAP"], row["undefined"]) == ("done", "", "person, cat: its objects have no masks")
    markdown, tex = (paths.table("toy", "table2", extension).read_text() for extension in ("md", "tex"))
    assert "| undefined (35.1) " in markdown and "& undefined &" in tex
    for text in (markdown, tex):
        assert "Undefined mask AP of ours: person, cat: its objects have no masks." in text


def test_a_table_of_undefined_rows_keeps_the_column_that_says_so(workspace):
    for run in ("plain", "ours"):
        workspace.result(run)
        edit(run, without_masks)
    build_table("table2")
    markdown = paths.table("toy", "table2", "md").read_text()
    assert markdown.count("| undefined (") == 2 and "AP75 " not in markdown
    assert "Undefined mask AP of plain, ours: person, cat" in markdown


def test_row_that_was_not_run_says_so(workspace):
    workspace.result("plain")
    row = built()[1]
    assert (row["run"], row["state"], row["mAP"], row["mAP_published"]) == ("ours", "not run", "", "35.1")
    markdown = paths.table("toy", "table2", "md").read_text()
    assert "not run (35.1)" in markdown
    assert "`dvc repro evaluate@ours`" in markdown
    assert "not run" in paths.table("toy", "table2", "tex").read_text()


def test_results_of_another_dataset_do_not_count(workspace):
    workspace.result("plain", on="coco2017")
    assert built()[0]["mAP"] == ""


def test_cited_rows_have_published_values_only(workspace):
    rows = built("table1")
    assert [(row["row"], row["run"], row["dataset"], row["direction"]) for row in rows] == [
        ("Mask^X R-CNN", "", "", "nonvoc2voc"),
        ("Mask^X R-CNN", "", "", "voc2nonvoc"),
        ("CPMask", "", "", "voc2nonvoc"),
        ("Both", "ours", "toy", "nonvoc2voc"),
        ("Both", "swapped", "toy", "voc2nonvoc"),
        ("Unpublished <b>", "current", "toy", "nonvoc2voc"),
    ]
    assert [row["mAP_published"] for row in rows] == ["28.9", "23.7", "28.8", "35.1", "30.9", ""]
    markdown = paths.table("toy", "table1", "md").read_text()
    assert "Mask^X R-CNN (cited)" in markdown and "Make" not in markdown


def test_published_columns_equal_the_declared_values(workspace):
    for row, row_id in zip(built(), ("t2_baseline", "t2_cam_cl"), strict=True):
        for metric, value in published.row("contrastmask_table_2", row_id)["results"]["nonvoc2voc"].items():
            assert float(row[f"{metric}_published"]) == value


def test_caption_names_the_dataset_and_warns_unless_it_is_coco(workspace):
    workspace.result("plain")
    build_table("table2")
    toy = paths.table("toy", "table2", "md").read_text()
    assert "novel categories of toy" in toy and "not comparable" in toy
    workspace.write(paths.PARAMS, "dataset: coco2017\n")
    build_table("table2")
    coco = paths.table("coco2017", "table2", "md").read_text()
    assert "novel categories of coco2017" in coco and "not comparable" not in coco


@pytest.mark.parametrize(
    ("plain", "ours", "bold", "reason"),
    [
        ((10.0, 11.0), (20.0, 22.0), True, None),
        ((10.0, 30.0), (21.0, 23.0), False, "none lies beyond the spread of the seeds"),
        ((10.0,), (20.0,), False, "one seed tells no spread"),
        ((10.0,), (20.0, 22.0), False, "one seed tells no spread"),
        ((21.01, 21.01), (21.04, 21.04), False, "none lies beyond the spread of the seeds"),
        ((0.0, 0.0), (0.0, 0.0), False, "none lies beyond the spread of the seeds"),
    ],
)
def test_the_best_value_is_bold_where_the_seeds_tell_it_from_the_rest(workspace, plain, ours, bold, reason):
    workspace.result("plain", novel=plain)
    workspace.result("ours", novel=ours)
    build_table("table2")
    markdown, tex = (paths.table("toy", "table2", extension).read_text() for extension in ("md", "tex"))
    assert markdown.count("**21.0** ± 1.4 (") == tex.count(r"\textbf{21.0} $\pm$ 1.4") == 5 * bold  # APs is hidden
    assert ("**" in markdown) == (r"\textbf" in tex) == ("bold: " in markdown) == bold
    assert reason is None or reason in markdown and reason in tex


def test_differences_to_published_values_are_stated_on_the_data_of_the_paper_alone(workspace):
    workspace.result("ours", novel=(20.0,))
    build_table("table2")
    markdown, tex = (paths.table("toy", "table2", extension).read_text() for extension in ("md", "tex"))
    assert "| 20.0 (35.1) " in markdown and "difference" not in markdown + tex and "−15.1" not in markdown
    workspace.write(paths.PARAMS, "dataset: coco2017\n")
    workspace.result("ours", novel=(20.0,), on="coco2017")
    build_table("table2")
    markdown, tex = (paths.table("coco2017", "table2", extension).read_text() for extension in ("md", "tex"))
    assert "| 20.0 (35.1, −15.1) " in markdown and "(published, difference)" in markdown and "$-15.1$" in tex


def test_latex_is_escaped_and_every_line_has_all_columns(workspace):
    workspace.result("plain")
    workspace.result("ours", novel=(20.0, 21.0))
    build_table("table2")
    text = paths.table("toy", "table2", "tex").read_text()
    assert r"Parts \& pieces\_of 100\%" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\addlinespace")] == [
        1,
        1,
        1,
        1,
    ]
    assert r"\cline" not in text and text.isascii()
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + 2 * 2  # header; measured and published of each row
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {6}


def latex_rows(name):
    """[[label cells], [values]] of the lines of a table, labels as they read with what stands above them."""
    lines = paths.table("toy", name, "tex").read_text().split(r"\midrule")[1].splitlines()
    return [[cell.strip() for cell in line.removesuffix(r"\\").split("&")] for line in lines if line.endswith(r"\\")]


def test_latex_of_two_directions_puts_each_value_under_its_direction(workspace):
    workspace.result("ours", novel=(20.0,))
    workspace.result("swapped", novel=(11.0,))
    build_table("table1")
    text = paths.table("toy", "table1", "tex").read_text()
    assert r"\multicolumn{5}{c}{nonvoc2voc} & \multicolumn{5}{c}{voc2nonvoc}" in text
    assert r"Mask\textasciicircum{}X R-CNN" in text and r"\textless{}b\textgreater{}" in text
    rows = {tuple(row[:2]): row[2:] for row in latex_rows("table1")}
    assert rows[r"Mask\textasciicircum{}X R-CNN", "cited"][::5] == ["28.9", "23.7"]
    assert rows["CPMask", "cited"][::5] == ["--", "28.8"]
    assert rows["Both", "measured"][::5] == ["20.0", "11.0"]
    assert rows["", "published"][::5] == ["35.1", "30.9"]
    assert rows[r"Unpublished \textless{}b\textgreater{}", "measured"][::5] == ["not run", "--"]


def test_latex_compiles_and_fits_the_page(workspace, tmp_path):
    """With pdflatex at hand it is compiled; its braces, environments and columns are checked in any case."""
    workspace.result("plain", novel=(20.0, 21.0))
    workspace.result("swapped", novel=(20.0, 21.0))
    for name in ("table1", "table2"):
        build_table(name)
        shutil.copy(paths.table("toy", name, "tex"), tmp_path)
        text = paths.table("toy", name, "tex").read_text()
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}") and text.isascii()
        opened, closed = (re.findall(rf"\\{word}{{([a-z*]+)}}", text) for word in ("begin", "end"))
        assert opened == closed[::-1] == ["table*", "tabular"]
        (columns,) = re.findall(r"\\begin{tabular}{([lr]+)}", text)
        assert {len(row) for row in latex_rows(name)} == {len(columns)}
    if not shutil.which("pdflatex"):
        return
    (tmp_path / "all.tex").write_text(
        r"\documentclass[twocolumn]{article}\usepackage[margin=2cm]{geometry}\usepackage{booktabs}"
        r"\begin{document}\input{table1}\input{table2}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Overfull" not in done.stdout, done.stdout[-2000:]


def attempt(name, state, **fields):
    """Pretend that the latest attempt at a run ended this way."""
    record = {"state": state, "stage": "train", "host": "elsewhere", "pid": 1, "process_started": 0.0, **fields}
    Workspace.write(paths.statuses("toy") / f"{name}.json", json.dumps(record))


def test_a_failed_run_says_why_and_the_rest_of_the_table_is_there(workspace):
    workspace.result("plain", novel=(12.0,))
    attempt("ours", "failed", error="loss is nan")
    rows = built()
    assert [row["state"] for row in rows] == ["done", "failed: loss is nan"]
    markdown = paths.table("toy", "table2", "md").read_text()
    assert "| failed (35.1)" in markdown and "12.0" in markdown
    assert "failed: loss is nan: `ours`; make it with `dvc repro evaluate@ours`" in markdown


def test_a_result_whose_training_was_begun_anew_and_broke_does_not_count(workspace):
    workspace.result("ours", novel=(12.0,))
    attempt("ours", "failed", error="loss is nan")
    assert built()[1]["mAP"] == ""
    Workspace.write(paths.checkpoint("toy", "ours", 0), "restored by DVC")
    assert built()[1]["mAP"] == "12.0"


def test_agreement_is_stated_for_coco_alone(workspace):
    workspace.result("ours", novel=(35.25,))
    assert built()[1]["agrees"] == ""
    workspace.write(paths.PARAMS, "dataset: coco2017\n")
    workspace.result("plain", novel=(24.16,), on="coco2017")  # 23.9 published: 24.2 is 0.3 away
    workspace.result("ours", novel=(35.25,), on="coco2017")  # prints as 35.2
    assert [row["agrees"] for row in built()] == ["False", "True"]
    assert "within tolerance: mAP differs by at most the ±0.2" in paths.table("coco2017", "table2", "md").read_text()


def test_every_declared_table_shows_the_published_numbers(workspace):
    declared = DECLARED
    for name, table in declared.tables.items():
        frame = table_frame(name, declared, "coco_stuff_10k" if name.startswith("simformer") else "coco2017")
        for row in table["rows"]:
            if "published" not in row:
                continue
            printed = published.row(table["published"], row["published"])
            names = row.get("runs", [None])
            for direction, values in printed["results"].items():
                backbone, schedule = printed["backbone"], printed["schedule"]
                if names != [None] and schedule in ("60k", "not stated"):  # those of the second paper's runs
                    backbone, schedule = "ResNet-50", "1x"
                line = frame[
                    (frame["row"] == row["label"])
                    & (frame["direction"] == direction)
                    & (frame["backbone"] == backbone)
                    & (frame["schedule"] == schedule)
                ]
                if names == [None] and all(value is None for value in values.values()):
                    assert line.empty
                elif names == [None] or any(declared.runs[run].direction == direction for run in names):
                    assert len(line) == 1, (name, row)
                    shown = line.iloc[0]
                    assert [shown[f"{m}_published"] for m in values] == [
                        pytest.approx(math.nan if value is None else value, nan_ok=True) for value in values.values()
                    ]


def test_a_gain_the_paper_states_is_compared_on_its_data_alone(workspace):
    experiments.load().tables["table2"]["gain"] = "oracle_prior_gain"
    stated = published.statement("oracle_prior_gain")["delta"]["mAP"]
    for run, novel in (("plain", 10.0), ("ours", 12.0)):
        workspace.result(run, (novel,))
        workspace.result(run, (novel,), on="coco2017")
    build_table("table2")
    toy = paths.table("toy", "table2", "md").read_text()
    assert f"mAP: +{stated:.1f} stated by the paper" in toy and "+2.0" not in toy
    workspace.write(paths.PARAMS, "dataset: coco2017\n")
    build_table("table2")
    assert "mAP: +2.0 measured on coco2017" in paths.table("coco2017", "table2", "md").read_text()


def test_escape_latex_does_not_escape_twice():
    assert escape_latex(r"\{_") == r"\textbackslash{}\{\_"


SPECIAL = r"""a&b%c$d#e_f{g}h~i^j\k<l>m|n"o[p]q*r±s−t–u"""


def is_plain(text):
    """Whether TeX reads text without commands, alignment, comments or mathematics that was not asked for."""
    text = re.sub(r"\\text[a-z]+\{\}", "", text)  # \textbackslash{} and the like
    text = re.sub(r"\\[&%$#_{}]", "", text)
    text = re.sub(r"\$(\\[a-z]+|-)\$", "", text)
    while (less := re.sub(r"\{([^{}&%$#_\\]*)\}", "", text)) != text:
        text = less
    return not re.search(r"[&%$#_{}~^\\\[\]*]", text) and "\n" not in text


@pytest.mark.parametrize("text", [SPECIAL, *SPECIAL, r"\input{/etc/passwd}", "a\nb", "[5cm] row", r"100% \\ x", "$x$"])
def test_escape_latex_leaves_nothing_that_tex_would_obey(text):
    assert is_plain(escape_latex(text))


def test_directions_and_labels_of_a_user_are_text_in_latex(workspace):
    frame = table_frame("table2", experiments.load(), experiments.chosen_dataset())
    frame["direction"], frame["row"] = "non_voc & 50%", "[a] \\input{x}"
    declared = experiments.load()
    text = latex("table2", frame, declared, experiments.chosen_dataset())
    assert r"non\_voc \& 50\%" in text and "non_voc" not in text
    assert r"{[}a{]} \textbackslash{}input\{x\}" in text and r"\input" not in text


def test_same_results_give_the_same_bytes(workspace):
    workspace.result("plain")
    build_table("table2")
    first = {e: paths.table("toy", "table2", e).read_bytes() for e in ("csv", "md", "tex")}
    build_table("table2")
    assert first == {e: paths.table("toy", "table2", e).read_bytes() for e in ("csv", "md", "tex")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "other"}, r"field run: 'other', expected 'plain'"),
        ({"dataset": "coco2017"}, r"field dataset: 'coco2017', expected 'toy'"),
        ({"direction": "voc2nonvoc"}, r"field direction"),
        ({"per_seed": []}, r"per_seed is empty"),
        ({"seeds": [0, 1]}, r"field seeds"),
        ({"per_seed": [{"seed": 0, "segm": {}}]}, r"field 'scores' is missing"),
        ({"per_seed": [{"seed": 0, "scores": [], "per_category": []}]}, r"field 'segm.novel.mAP' is missing"),
        ({"task": "instance"}, r"field task: 'instance', valid: instances"),
        ({"per_seed": 3}, r"not the structure"),
    ],
)
def test_malformed_result_is_named_and_nothing_is_written(workspace, changes, message):
    workspace.result("plain", **changes)
    with pytest.raises(ExperimentError, match=rf"results/toy/plain.json: .*{message}.*dvc repro evaluate@plain"):
        build_table("table2")
    assert not paths.table("toy", "table2", "csv").exists()


@pytest.mark.parametrize("value", [101, -1, "12", True, float("nan")])
def test_value_that_is_no_ap_is_refused(workspace, value):
    workspace.result("plain", novel=(value,))
    with pytest.raises(ExperimentError, match=r"segm.novel.mAP of seed 0: .*valid: null or a number in \[0, 100\]"):
        build_table("table2")


def test_truncated_result_is_refused(workspace):
    workspace.write(paths.results("toy", "plain"), '{"run": "pl')
    with pytest.raises(ExperimentError, match="not JSON"):
        build_table("table2")


def test_unknown_names_are_errors(workspace):
    with pytest.raises(ExperimentError, match="unknown table 'table9'; valid: table2, table1"):
        build_table("table9")


def test_csv_survives_a_round_trip(workspace):
    workspace.result("plain", novel=(1 / 3,))
    build_table("table2")
    assert pd.read_csv(paths.table("toy", "table2", "csv"))["mAP"][0] == 1 / 3


def test_a_run_with_a_dataset_of_its_own_stands_beside_the_others(workspace):
    experiments.load().runs["ours"] = replace(experiments.load().runs["ours"], dataset="coco2017")
    workspace.result("plain", novel=(10.0, 10.2))
    workspace.result("ours", novel=(20.0, 20.2), on="coco2017")
    rows = built()
    assert [(row["run"], row["dataset"], row["state"]) for row in rows] == [
        ("plain", "toy", "done"),
        ("ours", "coco2017", "done"),
    ]
    assert rows[0]["agrees"] == "" and rows[1]["agrees"] == "False", "only one is on the data of the paper"
    markdown = paths.table("toy", "table2", "md").read_text()
    assert "| Dataset" in markdown and "**" not in markdown, "rows of different data are not ranked"
    assert "categories of toy and coco2017" in markdown and "Measured numbers are on the dataset toy" in markdown
    assert "coco2017" in paths.table("toy", "table2", "tex").read_text()


def test_the_page_has_the_folder_it_depends_on_where_no_figure_is_chosen(workspace):
    build_table("table2")
    assert paths.figure("toy", "any", "png").parent.is_dir()


@pytest.mark.parametrize(("dataset", "splits"), [("scenes", {"s1"}), ("coco_stuff_10k", {"s1", "s2", "s3", "s4"})])
def test_a_direction_that_the_data_set_lacks_has_no_line(dataset, splits):
    frame = table_frame("simformer2", experiments.load(), dataset)
    assert set(frame["direction"]) == splits and set(frame["mIoU_published"].dropna()) >= {27.0, 27.8, 31.1}


def test_numbers_of_each_paper_are_said_to_be_of_its_own_data():
    declared = experiments.load()
    of_maps, of_objects = (tables.comparability(declared, name) for name in ("scenes", "generated"))
    assert "published ones on COCO-Stuff-10K test" in of_maps and "COCO val2017" not in of_maps
    assert "published ones on COCO val2017" in of_objects and "Stuff" not in of_objects
    assert figures.data_label(declared, "scenes").endswith("drawn by a program, not COCO-Stuff")
    assert figures.data_label(declared, "coco_stuff_10k") == ""
