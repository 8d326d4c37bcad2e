"""A copy of the working tree to run the pipeline in, on a few generated images and trainings of a few iterations."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.artifacts import paths
from pipeline.reporting import study

TINY = {
    ("datasets", "generated"): {"train_images": 24, "val_images": 6},
    ("profiles", "embedded", "initial_weights"): {"iterations": 6, "milestones": []},
    ("profiles", "embedded", "initial_weights", "classifier"): {"iterations": 2, "batch_size": 8},
    ("profiles", "embedded", "training"): {
        "batch_size": 2,
        "images_per_gpu": 2,
        "warmup_iterations": 2,
        "log_interval": 2,
        "checkpoint_interval": 4,
    },
    ("profiles", "embedded", "schedules", "1x"): {"iterations": 6, "milestones": []},
}
ROUND_TRIP = YAML()
ROUND_TRIP.width = 1000  # a text that a test looks for stays on its line

# Of the figures of Table 2, which are drawn again and again: one for each kind of input, and those that a test names.
FIGURES = ("qualitative", "same_objects", "supp_fig1_partition", "base_novel_gap", "loss_curves")


def section_of(content, keys):
    """The section that keys lead to; None if there is none."""
    for key in keys:
        if key not in content:
            return None
        content = content[key]
    return content


class Clone:
    """A temporary clone of the working tree, committed, with a few of the figures and a seed study of no training.

    Args:
        changes: what is shrunk in the declaration, as for `edit_experiments`.
        figures: those that stay declared; None: all.
    """

    def __init__(self, folder, changes=TINY, figures=FIGURES):
        self.folder = folder
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))}
        self.environment = inherited | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }
        listing = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
        files = subprocess.run(listing, cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, files):
            if (paths.ROOT / name).is_file() and not name.startswith("reports/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(paths.ROOT / name, folder / name)
        runs = folder / paths.study().relative_to(paths.ROOT)  # tables and figures depend on it
        runs.parent.mkdir(parents=True)
        runs.write_text(",".join(study.COLUMNS) + "\n")
        self.edit_experiments(changes)
        if figures:
            self.keep_figures(figures)
        self.run("git", "init", "-q", "-b", "main")
        self.commit()

    def edit_experiments(self, changes):
        """Update sections of the declaration: {keys that lead to one: {name: value}}, in the first file that has it."""
        left = dict(changes)
        for path in sorted((self.folder / "pipeline" / "experiments").glob("*.yaml")):
            content = ROUND_TRIP.load(path)
            found = {keys: section for keys in left if (section := section_of(content, keys)) is not None}
            for keys, section in found.items():
                section.update(left.pop(keys))
            if found:
                ROUND_TRIP.dump(content, path)
        assert not left, f"no file has {list(left)}"

    def keep_figures(self, names):
        """Declare no figures but these, and choose the tables anew."""
        path = self.folder / "pipeline" / "experiments" / "contrastmask.yaml"
        content = ROUND_TRIP.load(path)
        content["figures"] = {name: content["figures"][name] for name in names}
        ROUND_TRIP.dump(content, path)
        self.run("python", "-m", "commands.select")

    def commit(self):
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", "state")

    def run(self, *command, check=True):
        result = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        if check:
            assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-6000:]}\n{result.stderr[-6000:]}"
        return result

    def json(self, path):
        return json.loads((self.folder / path).read_text())
