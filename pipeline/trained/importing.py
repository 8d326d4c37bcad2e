"""The configuration beside a checkpoint that was converted from released code."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv

from pipeline import methods
from pipeline.artifacts import files
from pipeline.trained import loading, published, reading


def write_configuration(method, backbone, checkpoint):
    """Write `config.py` beside an imported checkpoint, and return its path.

    Args:
        method: whose `checkpoint_map` converted it.
        backbone: as the `convert` of that returned it.
        checkpoint: path of the converted file.
    """
    task = methods.task_of(method)
    if task.name == published.INSTANCES:
        return published.write_imported(method, backbone, checkpoint)
    room, state = methods.required(method, "checkpoint_map"), reading.read(checkpoint).state
    content = {
        "model": room.configuration(state, checkpoint),
        "data": {"test": {"pipeline": loading.full_size_steps(task, room.label_set_of(state))}},
    }
    path = checkpoint.with_name(published.CONFIG)
    files.write_text(path, mmcv.Config(content).pretty_text + "\n")
    return path
