"""States that an interrupted training continues from: scratch/<fingerprint>/state_<step>_<digest>.pth."""

import hashlib
import io
import logging
import random

import numpy as np
import torch

from pipeline.artifacts import checkpoint, files
from pipeline.training import collectives

logger = logging.getLogger("pipeline.training.states")

KEPT = 2


def of(scratch):
    """Saved states of a training, oldest first."""
    return sorted(scratch.glob("state_*.pth"))


def save(scratch, step, computation, pending):
    """Write the state after a step; keep the last ones. Every process calls it, the first one writes.

    Args:
        scratch: folder of the training.
        step: steps done.
        computation: `Computation`.
        pending: text, what was counted since the last record of the log.
    """
    generators = collectives.gather(_generators())
    if collectives.rank():
        return
    content = checkpoint.serialised(
        {
            "step": step,
            "model": computation.model.state_dict(),
            **computation.update.state(),
            "generators": generators,
            "pending": pending,
        }
    )
    files.write_bytes(scratch / f"state_{step:08d}_{digest(content)}.pth", content, durable=True)
    for old in of(scratch)[:-KEPT]:
        old.unlink()


def latest(scratch):
    """The newest undamaged state of a training, or None. A damaged one is reported and the one before it used.

    A state's name ends in a digest of its content: torch itself does not notice a changed byte.
    """
    for path in reversed(of(scratch)):
        try:
            content = path.read_bytes()
            if not path.stem.endswith(f"_{digest(content)}"):
                raise ValueError("its content is not what was written")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file may fail in any way; the state before it is as good
            logger.warning("%s cannot be read (%s); using the state before it", path, error)
            path.unlink(missing_ok=True)
    return None


def restore(computation, state):
    """Put a state into a `Computation` that was just made."""
    computation.model.load_state_dict(state["model"])
    computation.update.restore(state)
    if len(state["generators"]) == collectives.world_size():
        _restore_generators(state["generators"][collectives.rank()])
    else:
        logger.warning(
            "the state is of %d processes, these are %d: random numbers from here on are others",
            len(state["generators"]),
            collectives.world_size(),
        )


def digest(content):
    """Hex digest of bytes, as in a state's name."""
    return hashlib.sha256(content).hexdigest()[:16]


def _generators():
    """State of every global random generator, in types that `weights_only` loading accepts."""
    name, keys, *rest = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _restore_generators(state):
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
