"""Read a checkpoint of any origin: this project's, released code's, or MMDetection's. Nothing in it is executed."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import ast
import codecs
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy._core.multiarray import scalar

from pipeline import methods
from pipeline.artifacts import checkpoint
from pipeline.errors import ExperimentError

OWN, RELEASED, OTHER = "this project", "released code", "MMDetection"
CONFIG = "config.py"  # beside the weights
# MMDetection keeps some numbers of a training as numpy's, which `weights_only` refuses unless they are named.
NUMBERS = (
    scalar,
    np.dtype,
    codecs.encode,
    *{type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")},
)


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        path: of the file.
        state: {name: tensor} on the CPU, in this project's names if it is of code that one of the methods knows.
        meta: what else the file says; {} if nothing.
        origin: `OWN`, `RELEASED` or `OTHER`.
        method: whose `checkpoint_map` knows its names, or None.
    """

    path: Path
    state: dict
    meta: dict
    origin: str
    method: str | None

    @property
    def classes(self):
        """Names of its classes in the order of labels, None if the file does not say."""
        names = self.meta.get("CLASSES")
        if isinstance(names, str):
            names = (names,)
        return tuple(map(str, names)) if isinstance(names, list | tuple) and names else None

    def configuration(self):
        """Its configuration in MMDetection's words, plain containers, from within it, from beside it, or by its names.

        Raises:
            ExperimentError: nothing tells it, or it is no plain data.
        """
        if isinstance(text := self.meta.get("config"), str):
            return literal(text, f"{self.path}: the configuration in it")
        beside = self.path.with_name(CONFIG)
        if beside.is_file():
            return literal(beside.read_text(encoding="utf-8"), beside)
        if self.method:
            model = methods.required(self.method, "checkpoint_map").configuration(self.state, self.path)
            return {"model": model}
        raise ExperimentError(
            f"{self.path}: says nothing of its architecture; put the {CONFIG} of its training beside it, or name the "
            "configuration that it was trained with: --config FILE"
        )


def read(path):
    """Read a file of weights, or the one in the folder of a trained run.

    Returns:
        `Checkpoint`.

    Raises:
        ExperimentError: no such file, not a checkpoint, or a damaged one.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "checkpoint.pth"
    content = _load(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise ExperimentError(
            f"{path}: not a checkpoint: expected names with tensors, bare or under 'state_dict'; of released code that "
            "has them elsewhere, as under 'model', `python -m commands.import_checkpoint` makes one"
        )
    meta = content.get("meta") if isinstance(content.get("meta"), dict) else {}
    _check(path, state, meta)
    state = {str(key).removeprefix("module."): tensor for key, tensor in state.items()}
    if "fingerprint" in meta:
        return Checkpoint(path, state, meta, OWN, None)
    for name in methods.names():
        if methods.method(name).checkpoint_map is None:
            continue
        room = methods.required(name, "checkpoint_map")
        if (renamed := room.renamed(state)) is not None:
            return Checkpoint(path, renamed, {"CLASSES": room.classes()} | meta, RELEASED, name)
    return Checkpoint(path, state, meta, OTHER, None)


def sha256(path):
    """Hex digest of a file's content. Raises ExperimentError if there is none."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise ExperimentError(f"{path}: no such file") from None


def _load(path):
    try:
        with torch.serialization.safe_globals(list(NUMBERS)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ExperimentError(
            f"{path}: no such file; name the checkpoint of a run, of released code or of MMDetection"
        ) from None
    except OSError:
        raise  # what the machine refuses has a line of its own
    except Exception as error:  # a file of another kind may fail in any way
        raise ExperimentError(
            f"{path}: not a checkpoint of tensors alone ({_reason(path, error)}); name the checkpoint of a run, of "
            "released code or of MMDetection"
        ) from None


def _reason(path, error):
    """Why a file is no checkpoint, without torch's advice to execute what it holds."""
    with open(path, "rb") as file:
        beginning = file.read(2)
    if beginning != b"PK" and not beginning.startswith(b"\x80"):  # ZIP, or a bare pickle before torch 1.6
        return "torch.save writes no such file"
    if kind := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds objects of the kind {kind[1]}"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return "damaged" if "weights_only" in reason else reason


def _check(path, state, meta):
    """Compare a checkpoint of this project with the digest that it was written with."""
    rest = dict(meta)
    written = rest.pop("digest", None)
    if "fingerprint" in meta and written is not None and checkpoint.digest(state, rest) != written:
        raise ExperimentError(f"{path}: damaged: its content is not what was written; copy or train it again")


def literal(text, where):
    """The values of a configuration as MMDetection prints it: assignments of `dict(...)`, lists, tuples and literals.

    Nothing is executed: a file that came with weights is as little trusted as they are.

    Args:
        text: Python.
        where: path, or what messages call it.

    Raises:
        ExperimentError: something else stands there.
    """
    found = {}
    try:
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # a docstring
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise ValueError(f"line {statement.lineno} is no assignment of plain data")
            value = ast.fix_missing_locations(_Dicts().visit(statement.value))
            found[statement.targets[0].id] = ast.literal_eval(value)
    except (SyntaxError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ExperimentError(
            f"{where}: not a configuration as MMDetection prints it ({reason}); name one that it reads: --config FILE"
        ) from None
    return found


class _Dicts(ast.NodeTransformer):
    """Turn calls `dict(a=1)` into `{"a": 1}`."""

    def visit_Call(self, node):
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args:
            raise ValueError(f"line {node.lineno} calls something")
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError(f"line {node.lineno} unpacks something")
        return ast.Dict([ast.Constant(keyword.arg) for keyword in node.keywords], [k.value for k in node.keywords])
