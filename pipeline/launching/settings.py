"""Read and check `machine.yaml`: where trainings run and on how many processors. Optional, and not in git.

It says nothing of the science: no DVC stage depends on it, and changing it re-trains nothing. `machine.example.yaml`
explains each key.
"""

from pipeline.artifacts import paths
from pipeline.declaration import experiments, schema, strict
from pipeline.errors import ExperimentError


class Settings(schema.Machine):
    """The content of machine.yaml, or the defaults."""

    def size(self, run):
        """(nodes, processes on each) of one training."""
        own = self.runs.get(run, schema.Size())
        return own.nodes or self.nodes, own.processes or self.processes


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
    settings = strict.check(Settings, content, path.name)
    known = experiments.load().runs
    for name in settings.runs:
        if name not in known:
            raise ExperimentError(f"{path.name}: runs.{name}: unknown run{strict.options(name, known)}")
    return settings
