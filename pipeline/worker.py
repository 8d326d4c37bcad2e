"""One process of a training that several share: torchrun -m pipeline.worker FOLDER, as `pipeline.distributed` does."""

import logging
import os
import sys
from pathlib import Path

from pipeline import config, training
from pipeline.cli import command
from pipeline.distributed import JOB, member


@command
def main():
    scratch = Path(sys.argv[1])
    if os.environ["RANK"] != "0":
        logging.getLogger("pipeline").setLevel(logging.ERROR)
    with member(scratch):
        training.work(config.Training.from_json((scratch / JOB).read_text()), scratch)


if __name__ == "__main__":
    main()
