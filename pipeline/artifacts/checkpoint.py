"""Checkpoints of finished trainings, with a digest of what they hold: torch itself does not notice a changed byte."""

import errno
import hashlib
import io
import json

import torch

from pipeline.artifacts import files, paths
from pipeline.declaration import experiments
from pipeline.errors import REMEDY, ExperimentError


def content_of(state_dict, meta):
    """What a checkpoint holds.

    Args:
        state_dict: {name: tensor}, on the CPU.
        meta: JSON object; `fingerprint` is that of the training.

    Returns:
        {"state_dict", "meta"}; meta has one key more, `digest`.
    """
    return {"state_dict": state_dict, "meta": meta | {"digest": digest(state_dict, meta)}}


def write(path, state_dict, meta):
    """Write a checkpoint in one step, so that a killed write never looks complete. Arguments as of `content_of`."""
    files.write_bytes(path, serialised(content_of(state_dict, meta)), durable=True)


def serialised(content):
    """The bytes of torch.save, which names the archive after its file; a buffer keeps them the same everywhere."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def digest(state_dict, meta):
    """Hex digest of names, types, shapes and bytes of all tensors, and of the rest."""
    found = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def read(path, mmap=False):
    """The content of a checkpoint, checked against its digest if it has one (an imported one need not).

    Raises ValueError, with the reason, if it is not what was written.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if not isinstance(content.get("state_dict"), dict):
            raise ValueError("it holds no weights")
        meta = dict(content.get("meta", {}))
        written = meta.pop("digest", None)
        if written is not None and digest(content["state_dict"], meta) != written:
            raise ValueError("its content is not what was written")
    except ValueError:
        raise
    except Exception as error:  # a damaged file may fail in any way
        if isinstance(error, OSError) and error.errno in REMEDY and error.errno != errno.EIO:
            raise
        raise ValueError(f"it cannot be read, {type(error).__name__}") from None
    return content


def of_run(training, mmap=False):
    """The checkpoint of a trained run.

    Args:
        training: pipeline.declaration.config.Training of the run.

    Raises:
        ExperimentError: the run is not trained, or its checkpoint is damaged.
    """
    path = paths.checkpoint(training.dataset, training.name, training.seed)
    if not path.exists():
        make = experiments.repro("train", training.name)
        raise ExperimentError(f"{path.relative_to(paths.ROOT)}: not trained yet; run `{make}`")
    try:
        return read(path, mmap)
    except ValueError as error:
        # DVC takes a file of unchanged size and time for unchanged: only by force it looks again.
        make = experiments.repro("train", training.name, again=True)
        raise ExperimentError(f"{path.relative_to(paths.ROOT)}: damaged ({error}); run `{make}`") from None
