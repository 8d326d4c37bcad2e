"""The end of a training that a signal asks for: after the step, with its state saved."""

import contextlib
import signal

from pipeline.errors import Interrupted, first_line
from pipeline.processes import handling


class Interruption:
    """Notes a signal that asks this process to end.

    Attributes:
        asked: number of the signal, or None.
    """

    def __init__(self):
        self.asked = None

    @contextlib.contextmanager
    def noted(self):
        """Note SIGTERM, SIGHUP and Ctrl-C inside, where otherwise they would end the process at once."""
        with handling(self._note):
            try:
                yield
            except RuntimeError as error:
                if self.asked is None:
                    raise
                # The signal went to every process of a job, and a data worker or another trainer ended before the step.
                raise self.error(f"; run again to continue from the last state ({first_line(str(error))})") from None

    def error(self, words):
        """An Interrupted that says by which signal, and then some words."""
        by = self.asked or signal.SIGTERM  # another process was asked
        return Interrupted(f"stopped by {signal.Signals(by).name}{words}", by)

    def _note(self, number, _):
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # for somebody who does not want to wait for the step to end
        self.asked = number
