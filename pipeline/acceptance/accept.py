"""Compare the tiny trainings of two versions of the code, and record that both train the same.

What agrees is written to pipeline/accepted.yaml, which recipes map through: a training of the older code then is one of
the newer. docs/training.md says what the comparison does not cover.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from pipeline.artifacts import checkpoint, files, locks, paths
from pipeline.declaration import config, experiments, recipe
from pipeline.errors import ExperimentError, first_line
from pipeline.launching import launchers
from pipeline.processes import tie_to_parent
from pipeline.training import loop

logger = logging.getLogger("pipeline.acceptance")

JOB = Path("pipeline/acceptance/job.py")
BEFORE_ROOMS = Path(__file__).with_name("before_rooms.py")
SETTINGS = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "CONTRASTMASK_WORKERS": "1"}
INIT = "init_"  # begins the names of pre-trainings
JOBS, OUTPUT = "scratch/jobs", "output.log"  # of a tree: what its jobs leave, and what they say
WORDS = {"old": "commit", "new": "working copy"}
HEADER = "# Written by commands.accept: digests of code and recipes that train the same as older ones.\n"


def accept(old, runs=()):
    """Train the tiny jobs of a commit and of the working copy, and accept the newer code if they agree.

    Args:
        old: a commit of this repository.
        runs: names of runs to compare besides one for each method and preset; `all` is every one.

    Returns:
        {"code": ..., "recipes": ...}: what was added to pipeline/accepted.yaml.

    Raises:
        ExperimentError: a job differs, and where; then nothing is accepted.
    """
    with _trees(old) as (before, after):
        return _record(before, after, _compared(before, after, runs))


def adopt(old):
    """Let finished trainings of a commit before recipes count as those of the working copy, where their jobs agree.

    Their checkpoints are copied under the fingerprints of today, weights as they are. Stages `download`, `split` and
    `pretrain` are made on the way.

    Returns:
        Names of the adopted trainings, `<dataset>/<run> seed <seed>`.

    Raises:
        ExperimentError: a job differs, or the data are others than before.
    """
    with _trees(old) as (before, after):
        finished = [training for training in _old_trainings(before) if _source(*training)]
        jobs = _compared(before, after, sorted({name for _, name, _, _ in finished}))
        known = [training for training in finished if training[1] in jobs]
        _same_data()
        weights = [training for training in known if training[1].startswith(INIT)]
        adopted = [training for training in weights if _adopt(*training)]
        if weights and launchers.dvc("recipes", "pretrain", single=True, echo=True):
            raise ExperimentError("initial weights could not be made, see above; nothing else was adopted")
        adopted += [training for training in known if training not in weights and _adopt(*training)]
    return [f"{dataset}/{name} seed {seed}" for dataset, name, seed, _ in adopted]


@contextlib.contextmanager
def _trees(old):
    """Folders with the files of a commit and of the working copy."""
    folder = paths.home() / "scratch" / "accept"
    folder.mkdir(parents=True, exist_ok=True)
    with locks.hold(folder / "lock", "the comparison"), _worktree(old, folder / "old") as before:
        try:
            yield before, _copy(folder / "new")
        finally:
            shutil.rmtree(folder / "new", ignore_errors=True)


def _compared(before, after, runs):
    """Train the jobs of both trees. Returns names of those that agree; raises ExperimentError if one does not."""
    with _job(before, runs) as old, _job(after, runs) as new:
        _wait(old, before)
        _wait(new, after)
    return _agreeing(*(tree / JOBS for tree in (before, after)))


@contextlib.contextmanager
def _worktree(commit, folder):
    """The files of a commit, with the params.yaml of this working copy."""
    _git("worktree", "prune")
    if folder.exists():
        _git("worktree", "remove", "--force", str(folder))
    _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
    shutil.copy(paths.PARAMS, folder)
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def _copy(folder):
    """The files of this working copy that git tracks or would track."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in filter(None, _git("ls-files", "-co", "--exclude-standard", "-z").split("\0")):
        if (paths.ROOT / name).is_file() and not name.startswith("reports/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(paths.ROOT / name, folder / name)
    return folder


def _git(*arguments):
    ran = subprocess.run(["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise ExperimentError(f"git {arguments[0]}: {first_line(ran.stderr)}; name a commit of this repository")
    return ran.stdout


def _job(tree, runs):
    """A process that trains the jobs of a tree."""
    script = ["-m", "pipeline.acceptance.job"] if (tree / JOB).exists() else [str(BEFORE_ROOMS), "train"]
    return _python(tree, *script, str(tree / JOBS), "--runs", *runs)


@contextlib.contextmanager
def _python(tree, *arguments):
    """A process with the code of a tree; it ends with the block."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CONTRASTMASK_", "DVC_"))}
    environment = inherited | SETTINGS | {"CONTRASTMASK_HOME": str(tree)}
    with (tree / OUTPUT).open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tree,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=tie_to_parent,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def _wait(process, tree):
    if process.wait():
        last = (tree / OUTPUT).read_text().strip().splitlines()[-1:]
        raise ExperimentError(f"nothing was accepted, since a job of the {WORDS[tree.name]} failed: {' '.join(last)}")


def _agreeing(before, after):
    """Names of the jobs of both versions. Raises ExperimentError for the first one that differs."""
    names = [path.parent.name for path in sorted(after.glob("*/job.json"))]
    common = [name for name in names if (before / name).exists()]
    for name in common:
        if where := difference(before / name, after / name):
            raise ExperimentError(f"nothing was accepted, since job {name} differs: {where}")
    for name in sorted(set(names) - set(common)):
        logger.info("%s: new, with nothing to compare it to", name)
    logger.info("%d jobs agree bit for bit: %s", len(common), ", ".join(common))
    return common


def difference(before, after):
    """Where two jobs differ first, in words; None if nowhere.

    Args:
        before, after: folders with log.jsonl and checkpoint.pth.
    """
    logs = [[json.loads(line) for line in (job / "log.jsonl").read_text().splitlines()] for job in (before, after)]
    for old, new in zip(*logs, strict=False):
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                return f"at iteration {new.get('iter')} {name} is {new.get(name)}, it was {old.get(name)}"
    if len(logs[0]) != len(logs[1]):
        return f"{len(logs[1])} iterations were logged, not {len(logs[0])}"
    old, new = (checkpoint.read(job / "checkpoint.pth")["state_dict"] for job in (before, after))
    for name in {**old, **new}:
        if name not in old or name not in new:
            return f"the tensor {name} is {'gone' if name in old else 'new'}"
        if not _same(old[name], new[name]):
            return f"after the last iteration the tensor {name} has other values"
    return None


def _same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bytes(one), _bytes(other))


def _bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _record(before, after, jobs):
    """Map what the jobs found equal, and write it to pipeline/accepted.yaml."""
    accepted = recipe.read_accepted()
    added = {"code": {}, "recipes": {}}
    pairs = [[files.read_json(tree / JOBS / job / "job.json") for tree in (before, after)] for job in jobs]
    for old, new in pairs:
        if old["code"] and recipe.follow(accepted["code"], new["code"]) != recipe.follow(accepted["code"], old["code"]):
            added["code"].setdefault(new["code"], old["code"])
    _write(accepted, added)
    for job, (old, new) in zip(jobs, pairs, strict=True):
        named = job in experiments.load().runs and old["recipe"]
        if named and old["replaced"] == new["replaced"] and recipe.identity(new["content"]) != old["recipe"]:
            added["recipes"][recipe.identity(new["content"])] = old["recipe"]
    _write(accepted, added)
    return added


def _write(accepted, added):
    if not any(added.values()):
        return
    lines = [HEADER]
    for section in ("code", "recipes"):
        lines.append(f"{section}:\n")
        lines += (f'  "{new}": "{old}"\n' for new, old in (accepted[section] | added[section]).items())
    files.write_text(paths.accepted(), "".join(lines))


def _old_trainings(tree):
    """[(dataset, run, seed, fingerprint)] of what a tree before recipes would train on the data that are here.

    They are kept for a repetition: by then the code of today has made data and manifest anew.
    """
    if (tree / JOB).exists():
        raise ExperimentError(
            "--adopt is for a commit before recipes; without it, accept keeps the trainings of others"
        )
    commit = _git("-C", str(tree), "rev-parse", "HEAD").strip()
    kept = paths.home() / "scratch" / "accept" / f"{commit}.json"
    if not kept.exists():
        with _python(tree, str(BEFORE_ROOMS), "fingerprints", str(tree), str(paths.home())) as process:
            _wait(process, tree)
        files.copy(tree / "fingerprints.json", kept)
    return [tuple(training) for training in files.read_json(kept, list)]


def _same_data():
    """Make data and splits with the code of today. Raises ExperimentError if they become others."""
    kept = sorted([*paths.ROOT.glob("data/*/annotations/*.json"), *paths.ROOT.glob("data/*/splits/*/train.json")])
    before = [(path, _digest(path)) for path in kept]
    if launchers.dvc("download", "split", echo=True):
        raise ExperimentError("data or splits could not be made, see above; nothing was adopted")
    for path, digest in before:
        if not path.exists() or _digest(path) != digest:
            changed = path.relative_to(paths.ROOT)
            raise ExperimentError(f"nothing was adopted, since {changed} became another file")


def _digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _source(dataset, name, seed, old):
    """The finished checkpoint of a training, None if there is none."""
    candidates = [paths.scratch(old) / "checkpoint.pth", paths.checkpoint(dataset, name, seed)]
    return next((path for path in candidates if path.exists() and _is_of(path, old)), None)


def _is_of(path, fingerprint):
    try:
        return checkpoint.read(path, mmap=True)["meta"].get("fingerprint") == fingerprint
    except ValueError:
        return False


def _adopt(dataset, name, seed, old):
    """Copy a finished training under its fingerprint of today. Returns whether it was not there."""
    scratch = paths.scratch(recipe.fingerprint(_resolved(dataset, name, seed)))
    if loop.finished(scratch):
        return False
    content = checkpoint.read(_source(dataset, name, seed, old))
    meta = {key: value for key, value in content["meta"].items() if key != "digest"} | {"fingerprint": scratch.name}
    others = {"config.py": paths.config(dataset, name, seed), "log.jsonl": paths.log(dataset, name, seed)}
    for file in ("config.py", "log.jsonl", "progress.json"):
        found = [path for path in (paths.scratch(old) / file, others.get(file)) if path and path.exists()]
        if found:
            files.copy(found[0], scratch / file)
    checkpoint.write(scratch / "checkpoint.pth", content["state_dict"], meta)
    return True


def _resolved(dataset, name, seed):
    if name.startswith(INIT):
        return config.resolve_pretraining(name.removeprefix(INIT), dataset)
    return config.resolve(name, dataset, seed)
