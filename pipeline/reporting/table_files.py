"""Write a table: CSV at full precision, Markdown for pages, LaTeX for papers."""

from pipeline.artifacts import files, paths
from pipeline.declaration import experiments
from pipeline.reporting import tables
from pipeline.reporting.latex import latex

EXTENSIONS = ("csv", "md", "tex")


def build_table(table_id):
    """Write `reports/<dataset>/tables/<table_id>.{csv,md,tex}` for the chosen dataset.

    Raises:
        ExperimentError: unknown table, run or published row, or a result file that cannot be right.
    """
    declared, dataset = experiments.load(), experiments.chosen_dataset()
    frame = tables.table_frame(table_id, declared, dataset)
    # The page depends on this folder, which nothing else makes where no figure shows a chosen table.
    (paths.reports(dataset) / "figures").mkdir(parents=True, exist_ok=True)
    with files.replacing(paths.table(dataset, table_id, "csv")) as path:
        frame.to_csv(path, index=False, lineterminator="\n")
    files.write_text(paths.table(dataset, table_id, "md"), tables.markdown(table_id, frame, declared, dataset))
    files.write_text(paths.table(dataset, table_id, "tex"), latex(table_id, frame, declared, dataset))
