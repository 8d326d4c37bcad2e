"""python -m stages.tables <table>: write reports/<dataset>/tables/<table>.{csv,md,tex} from the results of its runs."""

import argparse

from pipeline.cli import command
from pipeline.reporting.table_files import build_table


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", help="a name under `tables:` in pipeline/experiments")
    build_table(parser.parse_args().table)


if __name__ == "__main__":
    main()
