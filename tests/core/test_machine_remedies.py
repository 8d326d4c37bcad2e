"""What messages about the machine and the environment say to do is done; then what failed works."""

import errno
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap

import pytest

from pipeline import doctor
from pipeline.artifacts import paths
from pipeline.errors import REMEDY, ExperimentError
from pipeline.launching import launch, settings
from pipeline.tasks.instances import coco_engines
from tools.pins import ROOT

NOBODY = 65534
TOUCH = (
    "import sys; from pathlib import Path; from pipeline.artifacts import files; "
    "files.write_text(Path(sys.argv[1]), 'x')"
)


def quoted(text):
    return re.findall("`([^`]+)`", text)


def shell(script, folder=ROOT, **options):
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path, **options.pop("environment", {})},
        **options,
    )


def reading(code, arguments=""):
    """A command of the project, as words of a shell."""
    body = textwrap.indent(code, "    ")
    script = f"from pipeline.cli import command\n@command\ndef main():\n{body}\nmain()"
    return f'{sys.executable} -c "{script}" {arguments}'


def test_too_few_open_files():
    (command,) = quoted(REMEDY[errno.EMFILE])
    step = reading("opened = [open('/dev/null') for _ in range(300)]")
    assert (failed := shell(f"ulimit -Sn 200; {step}")).returncode == 1 and f"`{command}`" in failed.stderr
    done = shell(f"ulimit -Sn 200; {command}; {step}")
    assert done.returncode == 0, done.stderr


def test_a_limit_on_the_size_of_files_is_looked_at_and_raised(tmp_path):
    (command,) = quoted(REMEDY[errno.EFBIG])
    step = reading(
        "from pathlib import Path; from pipeline.artifacts import files; files.write_text(Path('%s'), 'x' * 9000)"
        % (tmp_path / "x")
    )
    failed = shell(f"ulimit -Sf 4; {command}; {step}")
    assert failed.returncode == 1 and failed.stdout == "4\n" and f"`{command}`" in failed.stderr
    assert shell(f"ulimit -Sf 4; {command} unlimited; {step}").returncode == 0


def test_the_number_of_processes_is_looked_at():
    (command,) = quoted(REMEDY[errno.EAGAIN])
    assert re.fullmatch(r"unlimited|\d+", shell(command).stdout.strip())


def test_a_file_without_permission(tmp_path):
    """As root no permission counts: then it is done as another user."""
    look, mend = quoted(REMEDY[errno.EACCES])
    options = {"user": NOBODY, "group": NOBODY} if os.getuid() == 0 else {}
    folder = tmp_path / "theirs"
    folder.mkdir()
    file = folder / "locked"
    file.write_text("content")
    file.chmod(0)
    for each in (folder, file) if options else ():
        os.chown(each, NOBODY, NOBODY)
    for each in (tmp_path, tmp_path.parent, tmp_path.parent.parent) if options else ():
        each.chmod(each.stat().st_mode | 0o055)
    assert shell("cat locked", folder, **options).returncode == 1
    assert shell(f"{look} locked", folder, **options).stdout.startswith("----------")
    assert shell(f"{mend} locked; cat locked", folder, **options).stdout == "content"


@pytest.mark.parametrize("command", ["df -h", "df -i"])
def test_what_is_looked_at_before_space_is_made(command, tmp_path):
    done = shell(f"{command} {tmp_path}")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2


def test_a_file_in_the_place_of_a_folder_is_moved_away(tmp_path):
    (tmp_path / "runs").write_text("")
    step = reading(TOUCH, tmp_path / "runs" / "x")
    failed = shell(step)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr and "move it away" in failed.stderr
    (tmp_path / "runs").rename(tmp_path / "aside")
    assert shell(step).returncode == 0


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="no device that is full")
def test_a_full_disk_is_named_and_another_takes_the_file(tmp_path):
    (tmp_path / "x").symlink_to("/dev/full")
    step = "open(__import__('sys').argv[1], 'w').write('x' * 9000)"
    failed = shell(reading(step, tmp_path / "x"))
    assert failed.returncode == 1 and "free some space" in failed.stderr
    (tmp_path / "x").unlink()
    assert shell(reading(step, tmp_path / "x")).returncode == 0


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "CONTRASTMASK_WORKERS"])
def test_a_bad_number_is_unset(variable):
    step = reading("from pipeline import hardware; hardware.use_device(); hardware.data_workers()")
    failed = shell(step, environment={variable: "many", "CUDA_VISIBLE_DEVICES": ""})
    assert failed.returncode == 1 and failed.stderr.strip().endswith("or unset it")
    done = shell(f"unset {variable}; {step}", environment={variable: "many", "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr


def test_fewer_data_workers():
    """The number that the message names is obeyed, and reading in one process needs none besides it."""
    step = reading("from pipeline import hardware; print(hardware.data_workers())")
    assert "CONTRASTMASK_WORKERS=1" in REMEDY[errno.EAGAIN]
    assert shell(f"CONTRASTMASK_WORKERS=1 {step}").stdout == "1\n"


def test_a_bad_machine_file_is_removed_or_written_anew(tmp_path):
    file = tmp_path / "machine.yaml"
    for mend in (file.unlink, lambda: shutil.copy(ROOT / "machine.example.yaml", file)):
        file.write_bytes(b"jobs: \xff\xfe")
        with pytest.raises(ExperimentError, match="write it anew from machine.example.yaml, or remove it"):
            settings.load(file)
        mend()
        settings.load(file)


def test_another_launch_is_ended_as_printed(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    holding = (
        "import time\nfrom pipeline.launching.launch import _alone\nwith _alone():\n    print('held', flush=True)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", f"{holding}    time.sleep(60)"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ExperimentError, match="a launch runs in this working copy already") as caught, launch._alone():
        pass
    (command,) = quoted(str(caught.value))
    assert shell(command).returncode == 0
    other.wait(timeout=30)
    with launch._alone():
        pass


def without_hotcoco(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "hotcoco" else find(name))


@pytest.fixture
def checkout(tmp_path):
    """What `make setup` needs; the set-up itself is a stand-in that says it ran."""
    folder = tmp_path / "with space"
    (folder / "tools").mkdir(parents=True)
    for name in ("Makefile", "environment.yml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / "tools" / "__init__.py").touch()
    (folder / "tools" / "setup_env.py").write_text(
        "import pathlib, sys\nvenv = pathlib.Path(sys.argv[-1])\nvenv.mkdir(parents=True, exist_ok=True)\n"
        "(venv / '.stamp').touch()\n(venv / 'installed').touch()\n"
    )
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / ".stamp").touch()
    return folder, venv


def test_a_package_is_missing_in_an_environment_that_is_set_up(checkout, monkeypatch):
    """Its stamp says that nothing is to be done, so it has to go."""
    folder, venv = checkout
    monkeypatch.setenv("CONTRASTMASK_EVAL_ENGINE", "hotcoco")
    monkeypatch.setattr(sys, "prefix", str(venv))
    without_hotcoco(monkeypatch)
    with pytest.raises(ExperimentError, match="it is not installed") as caught:
        coco_engines.chosen_engine()
    again, unset = quoted(str(caught.value))
    assert "Nothing to be done" in shell(f"make setup VENV={venv}", folder).stdout
    assert shell(again, folder).returncode == 0 and (venv / "installed").exists()
    engine = "python -c 'from pipeline.tasks.instances import coco_engines; print(coco_engines.chosen_engine())'"
    assert shell(f"{unset}; {engine}").returncode == 0


def problem(folder, change):
    """What the check of the environment says in a copy of it."""
    for name in ("stages/__init__.py", "pipeline/__init__.py", "pipeline/environment.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    before = "import importlib.util, sys\nsys.orig_argv = ['python']\nfind = importlib.util.find_spec"
    return shell(f'{sys.executable} -c "{before}\n{change}\nimport stages"', folder).stderr


def test_an_environment_that_is_incomplete(checkout):
    folder, venv = checkout
    said = problem(
        folder, f"sys.prefix = '{venv}'\nimportlib.util.find_spec = lambda name: None if name == 'dvc' else find(name)"
    )
    assert "the environment is incomplete" in said
    (command,) = quoted(said)
    assert shell(command, folder).returncode == 0 and (venv / "installed").exists()


def test_operators_that_are_not_compiled(checkout):
    """Both packages go, in an environment of its own, before the set-up."""
    folder, venv = checkout
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", venv], check=True)
    said = problem(
        folder,
        "class Bare: submodule_search_locations = []\n"
        f"importlib.util.find_spec = lambda *_: Bare\nsys.prefix = '{venv}'\n"
        f"sys.executable = '{venv}/bin/python'",
    )
    assert "without its compiled operators" in said
    (command,) = quoted(said)
    assert command.startswith(f"{venv}/bin/python -m pip uninstall -y mmcv mmcv-full; rm -f {venv}/.stamp")
    packages = venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (packages / "mmcv").mkdir()
    (packages / "mmcv" / "__init__.py").touch()
    record = packages / "mmcv-2.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: mmcv\nVersion: 2.0\n")
    (record / "RECORD").write_text("mmcv/__init__.py,,\nmmcv-2.0.dist-info/METADATA,,\nmmcv-2.0.dist-info/RECORD,,\n")
    (record / "INSTALLER").write_text("pip\n")
    first, _, second = command.partition("; ")
    assert shell(first.replace("uninstall -y mmcv mmcv-full", "uninstall -y mmcv"), folder).returncode == 0
    assert not (packages / "mmcv" / "__init__.py").exists()
    assert shell(second, folder).returncode == 0 and (venv / "installed").exists()


def test_an_environment_that_is_set_up_and_activated_as_printed(checkout):
    folder, _ = checkout
    setup = (folder / "tools" / "setup_env.py").read_text()
    activate = "(venv / 'bin').mkdir()\n(venv / 'bin' / 'activate').write_text('ready=1')\n"
    (folder / "tools" / "setup_env.py").write_text(setup + activate)
    said = problem(folder, "sys.prefix = '/usr'\nimportlib.util.find_spec = lambda name: None")
    assert "the environment is not activated" in said
    setup, source = quoted(said)
    done = shell(f"{setup} && {source} && echo $ready", folder)
    assert done.stdout.splitlines()[-1] == "1"


def git_finding(monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {"git": doctor.check_git})
    return doctor.examine()[0]


def test_no_commit_and_no_name_for_git(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{name}_NAME", raising=False)
        monkeypatch.delenv(f"GIT_{name}_EMAIL", raising=False)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    shell("git init -q", tmp_path)
    finding = git_finding(monkeypatch)
    assert "no commit" in finding.found
    assert shell(*quoted(finding.remedy), folder=tmp_path).returncode == 0
    assert git_finding(monkeypatch).status == doctor.OK


def test_a_folder_of_somebody_else(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "ROOT", tmp_path / "with space")
    paths.ROOT.mkdir()
    shell("git init -q && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x", paths.ROOT)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    finding = git_finding(monkeypatch)
    assert "belongs to somebody else" in finding.found
    assert shell(*quoted(finding.remedy), folder=tmp_path).returncode == 0
    assert git_finding(monkeypatch).status == doctor.OK


def test_the_port_that_doctor_names_is_free(monkeypatch):
    real = socket.create_server
    with real(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(
            doctor.socket, "create_server", lambda address: real((address[0], port if address[1] == 5000 else 0))
        )
        with pytest.raises(doctor.Problem) as found:
            doctor.check_port()
    (command,) = quoted(found.value.finding[1])
    other = command.removeprefix("make ui PORT=")
    assert f"--port {other}" in shell(f"make -n {command.removeprefix('make ')}").stdout
    real(("127.0.0.1", int(other))).close()


def test_a_disk_that_is_full_or_read_only_is_left_with_contrastmask_home(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "CHECKS", {"disk": doctor.check_disk})
    usage = shutil.disk_usage
    small = lambda folder: type("Usage", (), {"free": 2**30 if "small" in str(folder) else 2**40})  # noqa: E731
    monkeypatch.setattr(doctor.shutil, "disk_usage", small)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path / "small"))
    assert "CONTRASTMASK_HOME" in doctor.examine()[0].remedy
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path / "large"))
    assert doctor.examine()[0].status == doctor.OK and usage(tmp_path).free


def test_a_dataset_that_is_not_declared(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")
    monkeypatch.setattr(paths, "manifest", lambda dataset: tmp_path / "manifest.json")
    monkeypatch.setattr(doctor, "CHECKS", {"dataset": doctor.check_dataset})
    paths.PARAMS.write_text("dataset: coco2071\n")
    assert doctor.examine()[0].remedy == "choose a declared dataset in params.yaml"
    paths.PARAMS.write_text("dataset: generated\n")
    assert doctor.examine()[0].status == doctor.NOTE
