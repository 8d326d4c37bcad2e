"""python -m commands.show [TABLE]: print a finished table, by default Table 2 or without it all chosen ones, and where
the rest is.
"""

import argparse

from pipeline.artifacts import paths
from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="?", metavar="TABLE", help="of pipeline/experiments")
    dataset, chosen = experiments.chosen_dataset(), list(experiments.selected()["tables"])
    named = parser.parse_args().table
    for name in [named] if named else ["table2"] if "table2" in chosen else chosen:
        experiments.lookup(experiments.load().tables, name, "table")
        path = paths.table(dataset, name, "md")
        if not path.exists():
            options = "" if name in chosen else f' TABLES="{" ".join([*chosen, name])}"'
            raise ExperimentError(f"{path.relative_to(paths.ROOT)}: not built; run `make reproduce{options}`")
        print(path.read_text(encoding="utf-8"))
    page = paths.reports(dataset).relative_to(paths.ROOT)
    print(f"Tables, figures and curves: {page}/README.md and index.html. Each training in MLflow: make ui.")


if __name__ == "__main__":
    main()
