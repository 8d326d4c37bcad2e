"""How a stage is run: one line for an error the user can mend, a traceback for one of ours."""

import functools
import logging
import sys

from pipeline.errors import ExperimentError
from pipeline.redaction import install, redact


def command(main):
    """Decorate a stage's `main()`: set up logging, turn an ExperimentError into one line on stderr and exit code 1."""

    @functools.wraps(main)
    def run():
        install()
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        ours = logging.getLogger("pipeline")  # not the root: mmcv silences root handlers, others are chatty
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        ours.propagate = False
        try:
            main()
        except ExperimentError as error:
            # one raised in a data worker carries that worker's traceback before its own line
            line = str(error).strip().splitlines()[-1].removeprefix("pipeline.errors.ExperimentError: ")
            print(f"error: {redact(line)}", file=sys.stderr)
            sys.exit(1)

    return run
