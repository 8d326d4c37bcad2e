"""A checkout has the same bytes everywhere, whatever git is configured to do with line ends."""

import shutil
import subprocess

from pipeline.artifacts import paths


def git(folder, *arguments):
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout


def test_a_checkout_with_autocrlf_has_line_feeds(tmp_path):
    (tmp_path / "origin").mkdir()
    shutil.copy(paths.ROOT / ".gitattributes", tmp_path / "origin")
    scripts = {
        "pipeline/launching/launchers/job.sh": "sh",
        "stages/train.py": "py",
        "params.yaml": "yaml",
        "Makefile": "mk",
    }
    for name, content in scripts.items():
        (tmp_path / "origin" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "origin" / name).write_bytes(f"{content}\nline\n".encode())
    picture = b"\x89PNG\r\n\x1a\n\0\r\n\n"
    (tmp_path / "origin" / "picture.png").write_bytes(picture)
    git(tmp_path / "origin", "init", "-q")
    git(tmp_path / "origin", "add", "-A")
    git(tmp_path / "origin", "commit", "-q", "-m", "state")
    git(tmp_path, "clone", "-q", "-c", "core.autocrlf=true", "-c", "core.eol=crlf", "origin", "copy")
    for name, content in scripts.items():
        assert (tmp_path / "copy" / name).read_bytes() == f"{content}\nline\n".encode(), name
    assert (tmp_path / "copy" / "picture.png").read_bytes() == picture
    assert git(tmp_path / "copy", "status", "--porcelain") == b""


def test_no_tracked_text_has_carriage_returns():
    listing = subprocess.run(["git", "ls-files", "--eol"], cwd=paths.ROOT, capture_output=True, text=True).stdout
    assert [line for line in listing.splitlines() if line.startswith(("i/crlf", "i/mixed"))] == []
