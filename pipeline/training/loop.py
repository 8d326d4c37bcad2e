"""Train one resolved run with mmcv's iteration-based runner, resumable at any time.

All state lives in `scratch/<fingerprint>/`, outside DVC (which deletes outputs when a stage starts):
`state_<step>.pth` (model, optimiser, random generators; the last two are kept), `log.jsonl`, `progress.json`, and at
the end `checkpoint.pth`. A finished fingerprint is never trained twice. The stage copies the result to its DVC outputs.

A step is one update of the weights by `batch_size` images. Each of the processes that share a training makes it in as
many iterations (forward passes) as its share of the images needs. States, log and progress count steps, so that none
of them depends on how a step was divided.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import contextlib
import functools
import hashlib
import io
import json
import logging
import random
import signal
import threading
import time
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmcv.parallel import collate
from mmcv.runner import HOOKS, GradientCumulativeFp16OptimizerHook, Hook, TextLoggerHook, build_optimizer, build_runner
from mmdet.models import build_detector
from mmdet.utils import build_dp
from torch.utils.data import DataLoader

import pipeline.training.progress  # noqa: F401  # registers the hook
from pipeline import methods
from pipeline.artifacts import checkpoint, files, paths
from pipeline.artifacts.training_log import read_log, read_progress
from pipeline.declaration import recipe
from pipeline.errors import ExperimentError, Interrupted, first_line
from pipeline.hardware import data_workers, use_device
from pipeline.processes import handling, tie_to_trainer
from pipeline.training import distributed
from pipeline.training.precision import use_autocast
from pipeline.training.sampler import IterationBatchSampler

logger = logging.getLogger("pipeline.training.loop")

LOG_KEPT = 1000  # iterations of the log that a state keeps; no logging interval is longer


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def save_atomically(content, path):
    """Write a checkpoint under a temporary name, then rename: a killed write never looks complete."""
    files.write_bytes(path, serialised(content), durable=True)


def serialised(content):
    """The bytes of torch.save, which names the archive after its file; a buffer keeps them the same everywhere."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


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
    with distributed.exclusive(scratch / "lock", training.name):
        if finished(scratch):
            logger.info("%s seed %d: already trained, reusing %s", training.name, training.seed, identity)
        else:
            _train(training, scratch, tracker)
            recipe.require_unchanged(training)
        if tracker:
            tracker.log_history(read_log(scratch / "log.jsonl"))
    return scratch


def _train(training, scratch, tracker):
    """Train in this process, or in as many as the machine's settings say."""
    if distributed.processes() == (1, 1):
        work(training, scratch, tracker)
        return
    with _follow(scratch / "log.jsonl", tracker):
        distributed.train_in_processes(training, scratch)


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
    if distributed.agree((scratch / "checkpoint.pth").exists()):
        return
    first = distributed.rank() == 0
    device = use_device()
    seed_everything(training.seed)
    dataset = methods.task_of(training.method).training_set(training)
    images, accumulate = distributed.divide(training.data["batch_size"], training.data["images_per_gpu"])
    batches = functools.partial(
        IterationBatchSampler,
        dataset.flag,
        images,
        training.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        accumulate=accumulate,
    )
    config = runner_config(training, batches(0, 0).iterations_per_epoch, accumulate)
    iterations = config["runner"]["max_iters"]

    methods.register(training.method, training.knobs)
    model = build_detector(mmcv.ConfigDict(training.model))
    logging.disable(logging.INFO)  # mmcv logs a paragraph for every parameter it initialises
    model.init_weights()
    logging.disable(logging.NOTSET)
    if training.initial_weights:
        load_initial_weights(model, paths.initial_weights(training.dataset, training.initial_weights))
    model.CLASSES = dataset.CLASSES
    use_autocast(model, methods.method(training.method).autocast, device, training.optimisation["precision"])
    model = (
        distributed.DataParallel(model.to(device))
        if distributed.world_size() > 1
        else build_dp(model, device, device_ids=range(1))
    )
    optimizer = build_optimizer(model, config["optimizer"])
    if not first:  # the others draw RoIs of their own
        seed_everything(int(np.random.SeedSequence([training.seed, distributed.rank()]).generate_state(1)[0]))

    runner = build_runner(
        config["runner"],
        default_args=dict(
            model=model,
            optimizer=optimizer,
            work_dir=str(scratch),
            logger=logger,
            meta=None,
        ),
    )
    runner.timestamp = "mmcv"
    runner.register_training_hooks(
        config["lr_config"],
        config["optimizer_config"],
        None,
        config["log_config"],
        custom_hooks_config=config["custom_hooks"],
    )
    state = latest_state(scratch)
    step = state["step"] if state else 0
    if state:
        restore(runner, state)
    runner._iter = runner._inner_iter = start = step * accumulate
    logger.info(
        "%s seed %d: %s, %d steps of %d images (%d processes, %d iterations of %d images), %d training images, %s, "
        "state in %s",
        training.name,
        training.seed,
        f"resumed at step {step}" if step else "fresh",
        iterations // accumulate,
        training.data["batch_size"],
        distributed.world_size(),
        accumulate,
        images,
        len(dataset),
        device,
        scratch,
    )
    loader = DataLoader(
        dataset,
        batch_sampler=batches(start, iterations),
        num_workers=data_workers(),
        multiprocessing_context="fork",
        generator=torch.Generator(),  # else starting the workers would draw from the restored global generator
        collate_fn=functools.partial(collate, samples_per_gpu=images),
        pin_memory=device == "cuda",
        worker_init_fn=tie_to_trainer,
    )
    interval = training.optimisation["checkpoint_interval"]
    saving = StateHook(scratch, interval, accumulate, state and state["log"])
    runner.register_hook(saving, priority="LOWEST")
    if first:
        for leftover in scratch.glob("*.part"):
            leftover.unlink()
        files.write_text(scratch / "config.py", mmcv.Config(config).pretty_text + "\n")
        cut_log(scratch / "log.jsonl", step)
        log_interval = training.optimisation["log_interval"]
        runner.register_hook(ProgressHook(scratch, log_interval, step, accumulate), priority="LOWEST")
        if tracker:
            runner.register_hook(TrackerHook(tracker), priority="LOWEST")
    began = time.monotonic()
    with saving.stoppable():
        runner.run([loader], [("train", 1)])
    if not first:
        return
    model = runner.model.module
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    require_finite(weights, training.name)
    meta = {"fingerprint": scratch.name, "CLASSES": list(dataset.CLASSES), "versions": recipe.versions()}
    save_atomically(checkpoint.content_of(weights, meta), scratch / "checkpoint.pth")
    for leftover in scratch.glob("state_*.pth*"):
        leftover.unlink()
    logger.info("%s seed %d: trained in %.0f s", training.name, training.seed, time.monotonic() - began)


def require_finite(weights, run):
    """Refuse what a training leaves that diverged behind its last logged losses: it would detect nothing."""
    if name := next((name for name, value in weights.items() if not torch.isfinite(value).all()), None):
        raise ExperimentError(
            f"run {run}: {name} is not finite at the end of the training; lower the learning rate "
            "(profiles.<profile>.training.optimizer.lr) or check the data"
        )


def runner_config(training, iterations_per_epoch, accumulate):
    """mmcv configuration of the training loop, with as many iterations per epoch as the batch sampler has."""
    optimisation, schedule = training.optimisation, training.schedule
    unit = iterations_per_epoch if "epochs" in schedule else accumulate
    length = schedule.get("epochs", schedule.get("iterations")) * unit
    lr = {
        "by_epoch": False,
        "warmup": "linear",
        "warmup_ratio": 0.001,
        "warmup_iters": optimisation["warmup_iterations"] * accumulate,
    }
    if optimisation["lr_policy"] == "step":
        lr |= {"policy": "step", "step": [milestone * unit for milestone in schedule["milestones"]]}
    else:
        lr |= {"policy": "CosineAnnealing", "min_lr": 0.0}
    masks = training.model["type"] == "MaskRCNN"
    step = {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": accumulate} if accumulate > 1 else {}
    if optimisation["precision"] == "fp16":
        step = {"type": "ScaledOptimizerHook", "cumulative_iters": accumulate, "loss_scale": "dynamic"}
    return {
        "model": training.model,
        "data": training.data,
        "seed": training.seed,
        "runner": {"type": "IterBasedRunner", "max_iters": length},
        "optimizer": optimisation["optimizer"],
        "optimizer_config": {"grad_clip": None, **step},
        "lr_config": lr,
        "log_config": {
            "interval": optimisation["log_interval"] * accumulate,
            "hooks": [{"type": "RunLogHook", "run": training.name, "accumulate": accumulate}],
        },
        "custom_hooks": [
            {"type": "TrainingProgressHook", "seed": training.seed, "iters_per_epoch": iterations_per_epoch}
        ]
        if masks
        else [],
    }


def load_initial_weights(model, path):
    """Load the weights of the `pretrain` stage; every one of them must have its place in the model."""
    try:
        weights = checkpoint.read(path)["state_dict"]
    except ValueError as error:
        raise ExperimentError(f"{path}: damaged ({error}); run `dvc repro -s -f pretrain@{path.stem}`") from None
    result = model.load_state_dict(weights, strict=False)
    if result.unexpected_keys:
        raise ExperimentError(
            f"{path}: {result.unexpected_keys[0]!r} has no place in the model; "
            f"run `dvc repro -s -f pretrain@{path.stem}`"
        )
    logger.info("loaded %d tensors from %s; %d start fresh", len(weights), path, len(result.missing_keys))


def generators():
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


def restore_generators(state):
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


def restore(runner, state):
    """Put a training's state into a runner whose hooks are registered."""
    model = runner.model.module
    model.load_state_dict(state["model"])
    runner.optimizer.load_state_dict(state["optimizer"])
    for hook in runner.hooks:
        if isinstance(hook, ScaledOptimizerHook):
            hook.loss_scaler.load_state_dict(state["scaler"])
    if len(state["generators"]) == distributed.world_size():
        restore_generators(state["generators"][distributed.rank()])
    else:
        logger.warning(
            "the state is of %d processes, these are %d: random numbers from here on are others",
            len(state["generators"]),
            distributed.world_size(),
        )


def save_state(runner, scratch, step):
    """Write the resumable state after a step; keep the last two. Every process calls it, the first one writes."""
    states = distributed.gather(generators())
    if distributed.rank():
        return
    # What was not averaged into a record yet belongs to the next one.
    log = [
        {key: values[-LOG_KEPT:] for key, values in history.items()}
        for history in (runner.log_buffer.val_history, runner.log_buffer.n_history)
    ]
    scaler = [hook.loss_scaler.state_dict() for hook in runner.hooks if isinstance(hook, ScaledOptimizerHook)]
    content = {
        "step": step,
        "model": runner.model.module.state_dict(),
        "optimizer": runner.optimizer.state_dict(),
        "generators": states,
        "scaler": scaler[0] if scaler else None,
        "log": json.dumps(log),
    }
    state = serialised(content)
    files.write_bytes(scratch / f"state_{step:08d}_{digest(state)}.pth", state, durable=True)
    for old in states_of(scratch)[:-2]:
        old.unlink()


def states_of(scratch):
    """Saved states of a training, oldest first."""
    return sorted(scratch.glob("state_*.pth"))


def digest(content):
    return hashlib.sha256(content).hexdigest()[:16]


def latest_state(scratch):
    """The newest undamaged state of a training, or None. A damaged one is reported and the one before it used.

    A state's name ends in a digest of its content: torch itself does not notice a changed byte.
    """
    for path in reversed(states_of(scratch)):
        try:
            content = path.read_bytes()
            if not path.stem.endswith(f"_{digest(content)}"):
                raise ValueError("its content is not what was written")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file may fail in any way; the state before it is as good
            logger.warning("%s cannot be read (%s); using the state before it", path, error)
            path.unlink(missing_ok=True)
    return None


def cut_log(path, step):
    """Keep the records up to `step`; later ones will be written again."""
    kept = [record for record in read_log(path) if record["iter"] <= step] if path.exists() else []
    files.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


class StateHook(Hook):
    """Write the resumable state every `interval` steps, and when a signal asks any process of this training to end."""

    def __init__(self, scratch, interval, accumulate, log=None):
        self.scratch, self.interval, self.accumulate, self.log = scratch, interval, accumulate, log
        self.asked_to_stop = None  # number of the signal

    @contextlib.contextmanager
    def stoppable(self):
        """Handle SIGTERM, SIGHUP and Ctrl-C inside."""
        with handling(self._ask_to_stop):
            try:
                yield
            except RuntimeError as error:
                if self.asked_to_stop is None:
                    raise
                # The signal went to every process of a job, and a data worker or another trainer ended before the step.
                raise self._interrupted(
                    f"; run again to continue from the last state ({first_line(str(error))})"
                ) from None

    def _ask_to_stop(self, number, _):
        if self.asked_to_stop is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # for somebody who does not want to wait for the step to end
        self.asked_to_stop = number

    def _interrupted(self, words):
        by = self.asked_to_stop or signal.SIGTERM  # another process was asked
        return Interrupted(f"stopped by {signal.Signals(by).name}{words}", by)

    def before_epoch(self, runner):
        """Put back what was logged and not averaged yet; the logger has cleared its buffer."""
        if self.log:
            values, counts = json.loads(self.log)
            runner.log_buffer.val_history.update(values)
            runner.log_buffer.n_history.update(counts)

    def after_train_iter(self, runner):
        step, rest = divmod(runner.iter + 1, self.accumulate)
        if rest:
            return
        stop = distributed.any_of(self.asked_to_stop is not None)
        if stop or step % self.interval == 0:
            save_state(runner, self.scratch, step)
        if stop:
            distributed.barrier()  # torchrun kills the others as soon as one has ended
            raise self._interrupted(f" at step {step}; the state is saved, run again to continue")


class ProgressHook(Hook):
    """Tell other processes how far this training is and how fast: scratch/progress.json.

    `iteration` and `of` count steps; `seconds` is the training time of this and earlier attempts up to `iteration`,
    start-up left out; `processes` share it.
    """

    def __init__(self, scratch, interval, start, accumulate):
        self.path, self.interval, self.start, self.accumulate = scratch / "progress.json", interval, start, accumulate
        earlier = read_progress(scratch)
        self.before = earlier["seconds"] * min(1.0, start / max(earlier["iteration"], 1)) if earlier else 0.0

    def before_run(self, runner):
        self.began = time.monotonic()

    def after_train_iter(self, runner):
        if self.every_n_iters(runner, self.interval * self.accumulate) or self.is_last_iter(runner):
            progress = {
                "iteration": (runner.iter + 1) // self.accumulate,
                "of": runner.max_iters // self.accumulate,
                "seconds": self.before + time.monotonic() - self.began,
                "processes": distributed.world_size(),
            }
            files.write_json(self.path, progress)


@HOOKS.register_module()
class ScaledOptimizerHook(GradientCumulativeFp16OptimizerHook):
    """Scale the loss for half-precision gradients; the casting is that of `use_autocast`, not mmcv's."""

    def before_run(self, runner):
        runner.meta = {}  # mmcv keeps a copy of the scaler's state in it


class TrackerHook(Hook):
    """Mirror the log to MLflow while training."""

    def __init__(self, tracker):
        self.tracker = tracker

    def after_train_iter(self, runner):
        if runner.log_buffer.ready:
            self.tracker.log_history(read_log(Path(runner.work_dir) / "log.jsonl")[-1:])


@HOOKS.register_module()
class RunLogHook(TextLoggerHook):
    """Print progress with ETA and data time, append the losses to log.jsonl, and stop at a non-finite loss.

    `iter` counts steps. log.jsonl has no times, so that the same training writes the same bytes.
    """

    def __init__(self, run, accumulate, **kwargs):
        super().__init__(**kwargs)
        self.run, self.accumulate = run, accumulate

    def _dump_log(self, log_dict, runner):
        if "iter" not in log_dict:  # mmcv's hand-over of its meta data
            return
        record = {
            key: float(value) if isinstance(value, np.floating) else value
            for key, value in log_dict.items()
            if key not in ("mode", "epoch", "time", "data_time", "memory")
        }
        record["iter"] //= self.accumulate
        for name, value in record.items():
            if not np.isfinite(value):
                raise ExperimentError(
                    f"run {self.run}: {name} is {value} at iteration {record['iter']}; lower the learning rate "
                    f"(profiles.<profile>.training.optimizer.lr) or check the data; state is kept in {runner.work_dir}"
                )
        if distributed.rank() == 0:
            with files.naming(Path(runner.work_dir) / "log.jsonl") as path, path.open("a") as file:
                file.write(json.dumps(record) + "\n")


def publish(scratch, dataset, run, seed):
    """Copy a finished training to the DVC outputs of its run."""
    for name, target in (
        ("checkpoint.pth", paths.checkpoint(dataset, run, seed)),
        ("config.py", paths.config(dataset, run, seed)),
        ("log.jsonl", paths.log(dataset, run, seed)),
    ):
        files.copy(scratch / name, target)
