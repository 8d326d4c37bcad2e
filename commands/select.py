"""python -m commands.select [TABLE ...] [--seeds N ...] [--dataset NAME]: choose what `dvc repro` makes."""

import argparse

from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.launching import settings


@command
def main():
    declared = experiments.load()
    settings.load()  # told now, not when it is needed
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "tables",
        nargs="*",
        metavar="TABLE",
        help=f"{', '.join(declared.tables)} or all; none keeps the choice and writes it anew",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="of every pinned run; left out with TABLE: as their knob files say"
    )
    parser.add_argument("--dataset", metavar="NAME", help="written into params.yaml; left out: the one there")
    args = parser.parse_args()
    tables = args.tables or experiments.chosen_tables(declared)
    seeds = args.seeds or (() if args.tables else experiments.asked_seeds())
    selection = experiments.select(list(declared.tables) if "all" in tables else tables, seeds, args.dataset)
    runs = len(selection["runs"]) + len(selection["elsewhere"]["runs"])
    asked = f", seeds {', '.join(map(str, seeds))}" if seeds else ""
    print(f"tables: {', '.join(selection['tables'])}; {runs} runs{asked}, {len(selection['figures'])} figures")
    if lacking := [name for name in selection["chosen"] if name not in selection["tables"]]:
        print(
            f"left out, as no run of theirs is of a direction of label set {selection['label_set']!r}, that of dataset "
            f"{experiments.chosen_dataset()!r}: {', '.join(lacking)}"
        )


if __name__ == "__main__":
    main()
