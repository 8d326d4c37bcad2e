"""Train one resolved run, resumable at any time.

All state lives in `scratch/<fingerprint>/`, outside DVC (which deletes outputs when a stage starts):
`state_<step>.pth` (model, optimiser, random generators; the last two are kept), `log.jsonl`, `progress.json`, and at
the end `checkpoint.pth`. A finished fingerprint is never trained twice. The stage copies the result to its DVC outputs.
States, log and progress count steps, so that none of them depends on how a step was divided.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import contextlib
import functools
import logging
import threading
import time

import torch

from pipeline import methods
from pipeline.artifacts import checkpoint, files, locks, paths
from pipeline.artifacts.training_log import read_log
from pipeline.declaration import recipe
from pipeline.errors import ExperimentError
from pipeline.hardware import data_workers, use_device
from pipeline.trained import published, starting
from pipeline.training import collectives, states, torchrun
from pipeline.training.computation import Computation
from pipeline.training.interruption import Interruption
from pipeline.training.journal import Journal

logger = logging.getLogger("pipeline.training.loop")


def train(training, tracker=None):
    """Train, or continue, or find finished. Returns the scratch folder with checkpoint.pth, config.py and log.jsonl.

    Args:
        training: pipeline.declaration.config.Training.
        tracker: pipeline.tracking.tracker.Tracker or None; a mirror, never an input.

    Raises:
        ExperimentError: missing inputs, non-finite loss, bad data, full disk; code edited meanwhile.
        Interrupted: stopped by SIGTERM, SIGHUP or Ctrl-C; the state is saved.
    """
    identity = recipe.fingerprint(training)
    scratch = paths.scratch(identity)
    scratch.mkdir(parents=True, exist_ok=True)
    with locks.hold(scratch / "lock", f"training {training.name}"):
        if finished(scratch):
            logger.info("%s seed %d: already trained, reusing %s", training.name, training.seed, identity)
            files.write_text(scratch / "config.py", published.configuration(training))  # in the words of today
        else:
            _train(training, scratch, tracker)
            recipe.require_unchanged(training)
        if tracker:
            tracker.log_history(read_log(scratch / "log.jsonl"))
    return scratch


def _train(training, scratch, tracker):
    """Train in this process, or in as many as the machine's settings say."""
    if training.fitted:
        starting.fit(training, scratch)
    if torchrun.processes() == (1, 1):
        work(training, scratch, tracker)
        return
    with _follow(scratch / "log.jsonl", tracker):
        torchrun.train(training, scratch)


def finished(scratch):
    """Whether a training has ended; a damaged checkpoint is reported, removed, and does not count."""
    path = scratch / "checkpoint.pth"
    if not path.exists():
        return False
    try:
        meta = checkpoint.read(path, mmap=True)["meta"]
        if "digest" not in meta or meta["fingerprint"] != scratch.name:
            raise ValueError("it is of another training")
    except (ValueError, KeyError) as error:
        logger.warning("%s: damaged (%s); training again", path, error)
        path.unlink()
        return False
    return True


@contextlib.contextmanager
def _follow(log, tracker, seconds=10):
    """Mirror the log that other processes write."""
    over = threading.Event()

    def follow():
        while not over.wait(seconds):
            if log.exists():
                tracker.log_history(read_log(log))

    thread = threading.Thread(target=follow, daemon=True)
    if tracker:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if tracker:
            thread.join()


def work(training, scratch, tracker=None):
    """Train in this process, alone or as one of several; the first one writes everything.

    Args:
        training: pipeline.declaration.config.Training.
        scratch: its folder; its name is the fingerprint.
        tracker: as in `train`.
    """
    if collectives.agree((scratch / "checkpoint.pth").exists()):
        return
    first = collectives.rank() == 0
    computation = _computation(training, scratch)
    state = states.latest(scratch)
    if state:
        states.restore(computation, state)
    done = state["step"] if state else 0
    _introduce(training, scratch, computation, done)
    if first:
        for leftover in scratch.glob("*.part"):
            leftover.unlink()
        files.write_text(scratch / "config.py", published.configuration(training))
    journal = Journal(training, scratch, computation.steps, done, state and state.get("pending"), tracker)
    began = time.monotonic()
    _run(computation, done, journal, scratch, training.optimisation["checkpoint_interval"])
    if not first:
        return
    weights = {key: value.cpu() for key, value in computation.model.state_dict().items()}
    require_finite(weights, training.name)
    meta = {"fingerprint": scratch.name, "CLASSES": list(computation.dataset.CLASSES), "versions": recipe.versions()}
    checkpoint.write(scratch / "checkpoint.pth", weights, meta)
    for leftover in (*scratch.glob("state_*.pth*"), *scratch.glob(starting.FITTED)):
        leftover.unlink()
    logger.info("%s seed %d: trained in %.0f s", training.name, training.seed, time.monotonic() - began)


def _computation(training, scratch):
    """What a training computes, on the device of this process."""
    methods.register(training.method, training.knobs)
    starts_from = training.initial_weights and paths.initial_weights(training.dataset, training.initial_weights)
    if training.fitted:
        starts_from = scratch / starting.FITTED
    return Computation(
        training,
        training_set=functools.partial(methods.task_of(training.method).training_set, training),
        autocast=methods.method(training.method).autocast,
        starts_from=starts_from,
        device=use_device(),
    )


def _introduce(training, scratch, computation, done):
    logger.info(
        "%s seed %d: %s, %d steps of %d images (%d processes, %d iterations of %d images), %d training images, %s, "
        "state in %s",
        training.name,
        training.seed,
        f"resumed at step {done}" if done else "fresh",
        computation.steps,
        training.data["batch_size"],
        collectives.world_size(),
        computation.accumulate,
        computation.images,
        len(computation.dataset),
        computation.device,
        scratch,
    )


def _run(computation, done, journal, scratch, interval):
    """Train to the end; save the state every `interval` steps, and when a signal asks any process to end."""
    interruption = Interruption()
    with interruption.noted():
        for step in computation.run(done, data_workers()):
            journal.add(step)
            stop = collectives.any_of(interruption.asked is not None)
            if stop or step.number % interval == 0:
                states.save(scratch, step.number, computation, journal.pending())
            if stop:
                collectives.barrier()  # torchrun kills the others as soon as one has ended
                raise interruption.error(f" at step {step.number}; the state is saved, run again to continue")


def require_finite(weights, run):
    """Refuse what a training leaves that diverged behind its last logged losses: it would detect nothing."""
    if name := next((name for name, value in weights.items() if not torch.isfinite(value).all()), None):
        raise ExperimentError(
            f"run {run}: {name} is not finite at the end of the training; lower the learning rate "
            "(profiles.<profile>.training.optimizer.lr) or check the data"
        )


def publish(scratch, dataset, run, seed):
    """Copy a finished training to the DVC outputs of its run."""
    for name, target in (
        ("checkpoint.pth", paths.checkpoint(dataset, run, seed)),
        ("config.py", paths.config(dataset, run, seed)),
        ("log.jsonl", paths.log(dataset, run, seed)),
    ):
        files.copy(scratch / name, target)
