"""The exceptions a user can meet; a stage turns them into one line and exit code 1."""


class ExperimentError(Exception):
    """Something the user can mend: the message names what, the offending value, the valid ones and the remedy."""


class Interrupted(ExperimentError):
    """A training was asked to stop and saved its state: the same command continues it."""
