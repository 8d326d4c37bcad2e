"""torchrun -m pipeline.training.training_process FOLDER: one process of a training that several share."""

import logging
import os
import sys
from pathlib import Path

from pipeline.cli import command
from pipeline.declaration import config
from pipeline.training import loop
from pipeline.training.torchrun import JOB, member


@command
def main():
    scratch = Path(sys.argv[1])
    if os.environ["RANK"] != "0":
        logging.getLogger("pipeline").setLevel(logging.ERROR)
    with member(scratch):
        loop.work(config.Training.from_json((scratch / JOB).read_text()), scratch)


if __name__ == "__main__":
    main()
