"""python -m commands.track [--all]: bring MLflow to what the files of this machine say, as after an outage."""

import argparse

from pipeline import runs
from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.tracking import sync


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--all",
        action="store_true",
        help="also what MLflow held already, and results whose tracking files are gone: after a change "
        "of store or a loss in it",
    )
    everything = parser.parse_args().all
    if everything:
        own = (run.dataset for run in experiments.load().runs.values() if run.dataset)
        for dataset in dict.fromkeys((experiments.chosen_dataset(), *own)):
            runs.track_results(dataset)
    print(sync.complete(everything))


if __name__ == "__main__":
    main()
