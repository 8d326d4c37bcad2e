"""Read and check `machine.yaml`: where trainings run and on how many processors. Optional, and not in git.

It says nothing of the science: no DVC stage depends on it, and changing it re-trains nothing. `machine.example.yaml`
explains each key.
"""

import difflib
from dataclasses import dataclass, field

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError

LAUNCHERS = ("local", "slurm")
COUNT, TEXT, LINES = "a whole number of at least 1", "a text or a whole number", "a list of texts"
TOP = {
    "launcher": " or ".join(LAUNCHERS),
    "jobs": COUNT,
    "nodes": COUNT,
    "processes": COUNT,
    "runs": "a mapping",
    "slurm": "a mapping",
}
RUN = {"nodes": COUNT, "processes": COUNT}
SLURM = {
    "partition": TEXT,
    "account": TEXT,
    "time": TEXT,
    "gres": TEXT,
    "cpus_per_task": COUNT,
    "mem": TEXT,
    "extra": LINES,
    "prologue": LINES,
    "warning_seconds": COUNT,
    "restarts": COUNT,
    "poll_seconds": COUNT,
}


@dataclass(frozen=True)
class Settings:
    """The content of machine.yaml, or the defaults.

    Attributes:
        launcher: 'local' or 'slurm'.
        jobs: trainings at a time; None: the launcher decides.
        nodes, processes: of one training: nodes, and processes (GPUs) on each.
        runs: run -> {nodes, processes} where they differ.
        slurm: the section as it is, for `pipeline.launching.launchers.slurm`.
    """

    launcher: str = "local"
    jobs: int | None = None
    nodes: int = 1
    processes: int = 1
    runs: dict = field(default_factory=dict)
    slurm: dict = field(default_factory=dict)

    def size(self, run):
        """(nodes, processes on each) of one training."""
        own = self.runs.get(run, {})
        return own.get("nodes", self.nodes), own.get("processes", self.processes)


def load(path=None):
    """Settings of machine.yaml below `paths.home()`. Raises ExperimentError for an unknown key or a bad value."""
    path = path or paths.home() / "machine.yaml"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text in UTF-8"
        raise ExperimentError(f"{path}: {reason}; write it anew from machine.example.yaml, or remove it") from None
    if all(not line.strip() or line.lstrip().startswith("#") for line in lines):
        return Settings()  # every line is commented out
    content = experiments.read_yaml(path, pure=True)
    _check(content, TOP, path.name)
    _check(content.get("slurm", {}), SLURM, f"{path.name}: slurm")
    known = experiments.load().runs
    for name, size in content.get("runs", {}).items():
        if name not in known:
            raise ExperimentError(f"{path.name}: runs: unknown run {name!r}; did you mean {_nearest(name, known)!r}?")
        _check(size, RUN, f"{path.name}: runs.{name}")
    return Settings(**content)


def _check(section, kinds, where):
    if not isinstance(section, dict):
        raise ExperimentError(f"{where}: expected a mapping, found {section!r}")
    for key, value in section.items():
        if key not in kinds:
            raise ExperimentError(f"{where}: unknown key {key!r}; did you mean {_nearest(key, kinds)!r}?")
        if not _fits(value, kinds[key]):
            raise ExperimentError(f"{where}: {key} is {value!r}; valid: {kinds[key]}")


def _fits(value, kind):
    if kind == COUNT:
        return _whole(value) and value >= 1
    if kind == TEXT:
        return isinstance(value, str) or _whole(value)
    if kind == LINES:
        return isinstance(value, list) and all(isinstance(line, str) for line in value)
    return isinstance(value, dict) if kind == "a mapping" else value in LAUNCHERS


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _nearest(name, known):
    return difflib.get_close_matches(str(name), known, n=1, cutoff=0)[0]
