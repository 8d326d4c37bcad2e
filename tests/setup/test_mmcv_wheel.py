"""Which mmcv-full is built, where it is kept, and what the user sees meanwhile."""

import dataclasses
import sys
from pathlib import Path

import pytest

from tools import mmcv_unity, mmcv_wheel, setup_env
from tools.mmcv_wheel import BuildProgress, Target, Torch
from tools.pins import SetupError

CPU = Torch("2.13.0+cpu", None, "cp311", "x86_64", "", "")
CUDA = Torch("2.13.0+cu130", "13.0", "cp311", "x86_64", "9.0", "/site/nvidia/cu13/include")


@pytest.fixture
def cuda_home(tmp_path, monkeypatch):
    """Install a fake nvcc of the given release and forget the machine's own CUDA settings."""
    for name in ("CUDA_PATH", "CPATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))

    def install(release):
        (tmp_path / "bin").mkdir()
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.88'\n")
        nvcc.chmod(0o755)
        return tmp_path

    return install


def test_the_installed_torch_describes_itself():
    import torch

    found = Torch.of(sys.executable)
    assert (found.version, found.cuda) == (torch.__version__, torch.version.cuda)
    assert found.python == f"cp{sys.version_info.major}{sys.version_info.minor}"


def test_target_is_cuda_when_all_is_there(cuda_home):
    home = cuda_home("13.0")
    target = mmcv_wheel.choose_target(CUDA, "auto")
    assert target.cuda == {
        "FORCE_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": "9.0",
        "CUDA_HOME": str(home),
        "CPATH": "/site/nvidia/cu13/include",
    }


def test_the_users_architectures_and_headers_come_first(cuda_home, monkeypatch):
    cuda_home("13.2")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0")
    monkeypatch.setenv("CPATH", "/opt/include")
    target = mmcv_wheel.choose_target(CUDA, "1")
    assert target.cuda["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0"
    assert target.cuda["CPATH"] == "/opt/include:/site/nvidia/cu13/include"


@pytest.mark.parametrize(
    ("torch", "release", "lacking"),
    [
        (CPU, "13.0", "torch 2.13.0.cpu is a CPU build"),
        (CUDA, None, "no nvcc: install the CUDA 13 toolkit"),
        (CUDA, "12.4", "nvcc is of CUDA 12.4, torch 2.13.0.cu130 needs CUDA 13"),
        (dataclasses.replace(CUDA, visible_arch=""), "13.0", "set TORCH_CUDA_ARCH_LIST"),
    ],
)
def test_what_is_lacking_is_a_reason_or_an_error(cuda_home, torch, release, lacking):
    if release:
        cuda_home(release)
    target = mmcv_wheel.choose_target(torch, "auto")
    assert not target.cuda
    with pytest.raises(SetupError, match=f"MMCV_CUDA=1: .*{lacking}"):
        mmcv_wheel.choose_target(torch, "1")


def test_cuda_can_be_declined_and_misspelt(cuda_home):
    cuda_home("13.0")
    assert not mmcv_wheel.choose_target(CUDA, "0").cuda
    with pytest.raises(SetupError, match="MMCV_CUDA=yes: valid values are auto, 0 and 1"):
        mmcv_wheel.choose_target(CUDA, "yes")


def test_each_binary_has_its_own_cache_folder():
    cpu_ops, sm90 = Target({}, ""), Target({"TORCH_CUDA_ARCH_LIST": "9.0"}, "")
    sm80_sm90 = Target({"TORCH_CUDA_ARCH_LIST": "8.0;9.0+PTX"}, "")
    folders = [
        mmcv_wheel.cache_folder("1.7.2", CPU, cpu_ops),
        mmcv_wheel.cache_folder("1.7.1", CPU, cpu_ops),
        mmcv_wheel.cache_folder("1.7.2", dataclasses.replace(CPU, version="2.13.1+cpu"), cpu_ops),
        mmcv_wheel.cache_folder("1.7.2", dataclasses.replace(CPU, python="cp312"), cpu_ops),
        mmcv_wheel.cache_folder("1.7.2", dataclasses.replace(CPU, machine="aarch64"), cpu_ops),
        mmcv_wheel.cache_folder("1.7.2", CUDA, cpu_ops),
        mmcv_wheel.cache_folder("1.7.2", CUDA, sm90),
        mmcv_wheel.cache_folder("1.7.2", CUDA, sm80_sm90),
    ]
    assert len(set(folders)) == len(folders)
    assert not any(set(folder.name) & set("; /") for folder in folders)


def test_progress_from_the_output_of_ninja():
    progress = BuildProgress(now=100)
    progress.feed("  building 'mmcv._ext' extension\n")
    assert progress.text(now=130) == "mmcv-full: preparing, 30 s"
    progress.feed("  note: see [7/73] above\n")
    progress.feed("[20/73] c++ -MMD -MF /build/nms.o.d -Wsign-compare [3/4]\n")
    assert progress.text(now=200) == "mmcv-full:  27 %, 20 of 73 files, about 4 min 25 s left"
    progress.feed("  [73/73] c++ -MMD\n")
    assert progress.text(now=500) == "mmcv-full: 100 %, 73 of 73 files, linking, 400 s"


def fake_pip(tmp_path, body, unity="exit 1"):
    """An environment whose python runs `body` for `pip wheel` and `unity` for the build in unity files.

    The wheel folder is the seventh argument of the first, the fourth of the second.
    """
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nif [ "$1" = -P ]; then\n{unity}\nelse\n{body}\nfi\n')
    python.chmod(0o755)
    return tmp_path / ".venv"


def test_unity_files_come_first(tmp_path, capsys):
    venv = fake_pip(tmp_path, "exit 1", 'mkdir "$4"; echo "$3|$FORCE_CUDA" > "$4/mmcv_full-1.7.2.whl"')
    wheel = mmcv_wheel.build_wheel(venv, "1.7.2", Target({}, ""), tmp_path / "cache" / "key")
    assert wheel.read_text() == "1.7.2|0\n"
    assert "one by one" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "unity", ['echo "unity_3.cpp:1: error: min"; mkdir "$4"; touch "$4/mmcv_full-1.whl"; exit 1', "true"]
)
def test_files_are_compiled_one_by_one_where_unity_files_do_not_compile(tmp_path, capsys, unity):
    venv = fake_pip(tmp_path, 'mkdir "$7"; echo plain > "$7/mmcv_full-1.whl"', unity)
    wheel = mmcv_wheel.build_wheel(venv, "1.7.2", Target({}, ""), tmp_path / "cache" / "key")
    assert wheel.read_text() == "plain\n"
    told = [line for line in capsys.readouterr().out.splitlines() if "one by one" in line]
    assert told == [
        f"mmcv-full does not compile in unity files (see {venv}/mmcv_full_unity.log): compiling its files one by one"
    ]
    assert (venv / "mmcv_full_unity.log").read_text() == ("unity_3.cpp:1: error: min\n" if "error" in unity else "")


def test_a_cuda_build_compiles_files_one_by_one(tmp_path):
    venv = fake_pip(tmp_path, 'mkdir "$7"; echo plain > "$7/mmcv_full-1.whl"', 'mkdir "$4"; touch "$4/mmcv_full-1.whl"')
    wheel = mmcv_wheel.build_wheel(venv, "1.7.2", Target({"FORCE_CUDA": "1"}, ""), tmp_path / "key")
    assert wheel.read_text() == "plain\n"


@pytest.fixture
def sources():
    """The files that mmcv-full's setup.py lists for the CPU; the wheel brings them along."""
    import mmcv

    folder = Path(mmcv.__file__).parent / "ops" / "csrc" / "pytorch"
    return sorted(map(str, [*folder.glob("*.cpp"), *folder.glob("cpu/*.cpp")]))


def test_every_source_is_in_one_unity_file(sources, tmp_path):
    assert len(sources) > 70
    files = mmcv_unity.write_unity_files(sources[::-1], tmp_path / "unity")
    included = [line.split('"')[1] for file in files for line in Path(file).read_text().splitlines()]
    assert sorted(included) == sources
    assert mmcv_unity.grouped(sources) == mmcv_unity.grouped(sources[::-1])


def test_sources_that_collide_are_kept_apart(sources):
    groups = [[source.partition("csrc/pytorch/")[2] for source in group] for group in mmcv_unity.grouped(sources)]
    assert groups[0] == ["pybind.cpp"]
    assert not any({"cpu/roi_align.cpp", "cpu/roi_align_rotated.cpp"} <= set(group) for group in groups)
    for leaking in ("cpu/psamask.cpp", "contour_expand.cpp"):
        assert [group[-1] for group in groups if leaking in group] == [leaking]


def test_only_files_and_debugging_symbols_of_the_extension_change(tmp_path, monkeypatch):
    from torch.utils import cpp_extension

    made = []
    (tmp_path / "a.cpp").touch()
    (tmp_path / "setup.py").write_text(
        "import sys\nfrom torch.utils.cpp_extension import CppExtension\n"
        "CppExtension(name='mmcv._ext', sources=['./a.cpp'], include_dirs=['x'], extra_compile_args={'cxx': ['-O9']})\n"
        "assert sys.argv[1:] == ['bdist_wheel', '--dist-dir', 'wheels']\n"
    )
    monkeypatch.setattr(cpp_extension, "CppExtension", lambda name, files, **rest: made.append((name, files, rest)))
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(tmp_path)
    mmcv_unity.build(tmp_path, "wheels")
    assert made == [
        (
            "mmcv._ext",
            ["build/unity/unity_0.cpp"],
            {"include_dirs": ["x"], "extra_compile_args": {"cxx": ["-O9", "-g0"]}},
        )
    ]
    assert (tmp_path / "build/unity/unity_0.cpp").read_text() == f'#include "{tmp_path}/a.cpp"\n'


def test_a_finished_build_appears_whole(tmp_path):
    venv = fake_pip(tmp_path, 'echo "[1/1] c++"; mkdir "$7"; echo wheel > "$7/mmcv_full-1.7.2-cp311.whl"')
    wheel = mmcv_wheel.build_wheel(venv, "1.7.2", Target({}, ""), tmp_path / "cache" / "key")
    assert wheel.read_text() == "wheel\n"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]


def test_a_cpu_build_does_not_see_the_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_CUDA", "1")
    body = 'mkdir "$7"; echo "$FORCE_CUDA|$CUDA_VISIBLE_DEVICES|$MMCV_WITH_OPS" > "$7/mmcv_full-1.whl"'
    wheel = mmcv_wheel.build_wheel(fake_pip(tmp_path, body), "1.7.2", Target({}, ""), tmp_path / "key")
    assert wheel.read_text() == "0||1\n"


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("echo 'nms.cpp:1: error: no torch.h'; seq 50", ["nms.cpp:1: error: no torch.h"]),
        ("seq 50", [str(line) for line in range(21, 51)]),
    ],
)
def test_a_failed_build_shows_why_and_leaves_no_wheel(tmp_path, capsys, output, shown):
    venv = fake_pip(tmp_path, f'mkdir "$7"; touch "$7/mmcv_full-1.whl"; {output}; exit 1')
    with pytest.raises(SetupError, match=r"compiling mmcv-full failed, see above and .*mmcv_full_build\.log"):
        mmcv_wheel.build_wheel(venv, "1.7.2", Target({}, ""), tmp_path / "cache" / "key")
    assert capsys.readouterr().err.splitlines() == shown
    assert not list((tmp_path / "cache").iterdir())


@pytest.fixture
def installation(tmp_path, monkeypatch):
    """Record what install_mmcv installs; `errors` are the outcomes of loading it, one after the other."""
    events = []

    def prepare(errors):
        monkeypatch.setattr(mmcv_wheel.Torch, "of", lambda python: CPU)
        monkeypatch.setattr(mmcv_wheel, "cache_folder", lambda *key: tmp_path)
        monkeypatch.setattr(mmcv_wheel, "build_wheel", lambda *job: events.append("build") or tmp_path / "built.whl")
        monkeypatch.setattr(setup_env, "pip_install", lambda venv, *arguments: events.append(arguments[-1].name))
        monkeypatch.setattr(setup_env, "load_error", lambda venv: errors.pop(0))
        return events

    return prepare


def test_a_cached_wheel_is_reused(installation, tmp_path):
    (tmp_path / "mmcv_full-1.7.2.whl").touch()
    events = installation([None])
    setup_env.install_mmcv(tmp_path, "1.7.2", "auto")
    assert events == ["mmcv_full-1.7.2.whl"]


def test_a_cached_wheel_that_does_not_load_is_compiled_anew(installation, tmp_path):
    (tmp_path / "mmcv_full-1.7.2.whl").touch()
    events = installation(["undefined symbol", None])
    setup_env.install_mmcv(tmp_path, "1.7.2", "auto")
    assert events == ["mmcv_full-1.7.2.whl", "build", "built.whl"]


def test_a_missing_package_is_not_a_reason_to_compile(installation, tmp_path):
    (tmp_path / "mmcv_full-1.7.2.whl").touch()
    events = installation(["ModuleNotFoundError: No module named 'yapf'"])
    with pytest.raises(SetupError, match="No module named 'yapf': environment.yml lacks a package"):
        setup_env.install_mmcv(tmp_path, "1.7.2", "auto")
    assert events == ["mmcv_full-1.7.2.whl"]


def test_a_new_wheel_that_does_not_load_is_an_error(installation, tmp_path):
    installation(["undefined symbol"])
    with pytest.raises(SetupError, match="does not load .undefined symbol.: remove"):
        setup_env.install_mmcv(tmp_path, "1.7.2", "auto")


def test_what_does_not_load_is_told_by_its_own_first_line(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    lines = (
        "warning",
        "Traceback (most recent call last):",
        "  File x",
        "ImportError: operators of another torch",
        "",
        "Please note the following",
        "  1. and so on",
    )
    python.write_text("#!/bin/sh\ncat >&2 <<END\n" + "\n".join(lines) + "\nEND\nexit 1\n")
    python.chmod(0o755)
    assert setup_env.load_error(tmp_path) == "ImportError: operators of another torch"
