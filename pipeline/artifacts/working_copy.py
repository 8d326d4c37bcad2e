"""The working copy that the code runs from."""

import subprocess

from pipeline.artifacts import paths


def commit():
    """Commit of the working copy, with `-dirty` appended when tracked files differ from it; `unknown` outside git."""

    def git(*args):
        return subprocess.run(["git", *args], cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
