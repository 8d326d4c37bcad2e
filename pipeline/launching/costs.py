"""What targets have cost on this machine: processor seconds, of all attempts, the start of DVC and stages included."""

import threading

from pipeline.artifacts import files, paths

_writing = threading.Lock()


def add(stage, seconds):
    """Note processor seconds of a target under the name of its first stage, such as `train@RUN`."""
    with _writing:
        known = read()
        files.write_json(_path(), known | {stage: known.get(stage, 0.0) + seconds})


def read():
    """{first stage of a target: processor seconds so far}."""
    return files.read_json(_path()) or {}


def _path():
    return paths.launch_log("costs").with_suffix(".json")
