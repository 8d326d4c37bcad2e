"""What the `released_checkpoint` modules of methods share: files of released weights, read, compared and written."""

from pathlib import Path

import torch

from pipeline.artifacts import files
from pipeline.errors import ExperimentError


def load_state(path: Path) -> tuple[dict, dict]:
    """A state dict, bare or under 'state_dict' or 'model', and what else the file says (its 'meta').

    Raises:
        ExperimentError: the file cannot be read, or holds anything else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ExperimentError(f"{path}: no such file") from None
    except Exception as error:  # a file of another kind may fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExperimentError(f"{path}: cannot be read as a checkpoint of tensors alone ({reason})") from error
    state, meta = content, {}
    if isinstance(content, dict):
        state = content.get("state_dict", content.get("model", content))
        meta = content.get("meta") if isinstance(content.get("meta"), dict) else {}
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise ExperimentError(f"{path}: holds no state dict (names to tensors, bare, or under 'state_dict' or 'model')")
    return {str(key).removeprefix("module."): tensor for key, tensor in state.items()}, meta


def require_same(state: dict, expected: dict, path: Path, model: str):
    """Refuse a state whose names or shapes are not those expected.

    Args:
        state: name -> tensor.
        expected: name -> shape.
        path, model: for the message.

    Raises:
        ExperimentError: names every tensor that is too many, is missing or has another shape.
    """
    problems = [f"not mapped: {key}" for key in state if key not in expected]
    problems += [f"missing: {key}" for key in expected if key not in state]
    problems += [
        f"{key}: shape {tuple(state[key].shape)}, expected {tuple(shape)}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != tuple(shape)
    ]
    if problems:
        raise ExperimentError(f"{path}: does not fit the {model} model; " + "; ".join(problems))


def save(checkpoint: dict, out: Path):
    """Write a checkpoint; the file appears only when complete."""
    with files.writing(Path(out)) as file:
        torch.save(checkpoint, file)
