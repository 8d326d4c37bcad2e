"""How a stage is run: one line for an error the user can mend, a traceback for one of ours."""

import functools
import logging
import os
import select
import signal
import sys

from pipeline import processes
from pipeline.errors import ExperimentError, one_line, refusal
from pipeline.redaction import install, redact


def command(main):
    """Decorate a stage's `main()`: set up logging and signals, turn what the user can mend into one line on stderr.

    That is an ExperimentError, or something that the machine refuses (full disk, no permission): exit code 1. A stage
    that a signal ends says so and leaves with 128 + its number. One that DVC runs ends with DVC (pipeline/__init__.py).
    """

    @functools.wraps(main)
    def run():
        install()
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        ours = logging.getLogger("pipeline")  # not the root: mmcv silences root handlers, others are chatty
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        ours.propagate = False
        logging.raiseExceptions = False  # a log that cannot be written (full disk) is no reason for a traceback
        processes.raise_when_asked_to_end()
        try:
            main()
            sys.stdout.flush()
        except BrokenPipeError:
            if not _nobody_reads(sys.stdout):
                raise
            _silence(sys.stdout)
            sys.exit(128 + signal.SIGPIPE)
        except KeyboardInterrupt as error:
            for number in processes.ENDING:  # impatience must not turn the end into a traceback
                signal.signal(number, signal.SIG_IGN)
            _end(f"{one_line(error)}; the same command goes on from what is saved", 128 + getattr(error, "by", 2))
        except ExperimentError as error:
            _end(one_line(error), error.exit_code)
        except Exception as error:
            if (line := refusal(error)) is None:
                raise
            _end(line, 1)

    return run


def _end(line, code):
    try:
        print(f"error: {redact(line)}", file=sys.stderr, flush=True)
    except OSError:  # where it would be read there is no room either
        _silence(sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)
    sys.exit(code)


def _nobody_reads(stream):
    """Whether what read our output has ended, as `head` does."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _silence(stream):
    """Let the interpreter's last flush of a stream that cannot be written succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
