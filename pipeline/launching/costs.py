"""What targets have cost on this machine: processor seconds, of all attempts, the start of DVC and stages included."""

import contextlib
import threading

from pipeline.artifacts import files, paths
from pipeline.errors import ExperimentError

_writing = threading.Lock()


def add(stage, seconds):
    """Note processor seconds of a target under the name of its first stage, such as `train@RUN`.

    What cannot be noted, as on a full disk, is no reason for the target to fail.
    """
    with _writing, contextlib.suppress(ExperimentError, OSError):
        known = read()
        files.write_json(_path(), known | {stage: known.get(stage, 0.0) + seconds})


def read():
    """{first stage of a target: processor seconds so far}."""
    return files.read_json(_path()) or {}


def _path():
    return paths.launch_log("costs").with_suffix(".json")
