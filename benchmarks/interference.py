"""Kill, interrupt and starve every part of the pipeline in a small clone, and look at what is left.

python -m benchmarks.interference [--only signals|launches|setups|disk] [--match WORDS]

The clone draws a few images and trains for seconds. A case of `signals` starts `make reproduce`, `commands.launch` or
`dvc repro`, waits for a moment (a training begins, is in its loop, has ended and is being published), and sends a
signal to `make`, to the launch, to `dvc` or to the training. Nobody cleans up: the next case continues what this one
left, so that every case also tests that one goes on. A case passes if

- nothing is lost: no saved step is trained again, what another run finished is the same byte for byte, and a training
  ends with the weights of the one that nobody interrupted;
- nothing is false: the status is not "running" or "failed", dvc.lock can be read, a file with a final name is complete;
- no process outlives what was ended, and no output has a traceback.

Cases of `disk` run every stage on a file system that is full, out of inodes or read-only: one line, nothing
half-written, old content kept. They need the right to mount: root, or `unshare -Urm python -m benchmarks.interference`.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import psutil
import torch
from ruamel.yaml import YAML

from pipeline.artifacts import attempts, paths
from tests.e2e.clone import TINY, Clone

DATASET = "generated"
KILLED, FINISHED = "contrastmask_r50_1x_nonvoc2voc", "current"  # the run that is interfered with, and another
STEPS = 40
CHANGES = TINY | {
    ("datasets", "generated"): {"train_images": 8, "val_images": 3},
    ("profiles", "embedded", "training"): {
        "batch_size": 2,
        "images_per_gpu": 2,
        "warmup_iterations": 2,
        "log_interval": 1,
        "checkpoint_interval": 2,
    },
    ("profiles", "embedded", "schedules", "1x"): {"iterations": STEPS, "milestones": []},
}
PATIENCE = 240  # seconds for any one thing to happen
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
MOMENTS = ("in its loop", "has ended", "begins")
FIGURES = ("loss_curves", "base_novel_gap")


def make_clone(folder):
    """A clone in which both runs are trained, evaluated and reported."""
    clone = Clone(folder, CHANGES)
    clone.environment["CONTRASTMASK_WORKERS"] = "1"
    path, yaml = folder / "pipeline/experiments/contrastmask.yaml", YAML()
    content = yaml.load(path)
    table = content["tables"]["table2"]
    table["rows"] = [row for row in table["rows"] if row.get("runs") == [KILLED]]
    content["figures"] = {name: content["figures"][name] for name in FIGURES}
    for figure in content["figures"].values():
        if "runs" in figure:
            figure["runs"] = [row for row in figure["runs"] if row["run"] == KILLED]
    yaml.dump(content, path)
    clone.run("python", "-m", "commands.select", "table2")
    clone.commit()
    clone.run("python", "-m", "commands.launch")
    return clone


def weights(path):
    """Digest of all weights of a checkpoint."""
    content = torch.load(path, weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(name.encode() + content[name].numpy().tobytes())
    return digest.hexdigest()


def digests(*folders):
    """{path: digest of its content} of all files below folders."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


def wait_for(what, condition):
    """The first true value of a condition."""
    began = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - began < PATIENCE, f"waited {PATIENCE} s for: {what}"
        time.sleep(0.02)
    return found


def processes_in(folder):
    """Processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
    return found


def find(folder, *words):
    """The oldest process that works in a folder and has all the words in its command line, or None."""
    found = []
    for process in processes_in(folder):
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if all(word in line for word in words):
                found.append((process.create_time(), process.pid, process))
    return min(found)[2] if found else None


class Signals:
    """Cases that end something by a signal."""

    def __init__(self, clone):
        self.clone, self.folder = clone, clone.folder
        self.checkpoint = clone.folder / "runs" / DATASET / KILLED / "seed0" / "checkpoint.pth"
        self.log = clone.folder / "logs" / DATASET / KILLED / "seed0.jsonl"
        self.expected = weights(self.checkpoint), self.log.read_bytes()
        fingerprint = torch.load(self.checkpoint, weights_only=True)["meta"]["fingerprint"]
        self.scratch = clone.folder / "scratch" / fingerprint
        self.other = digests(*(clone.folder / name / DATASET / FINISHED for name in ("runs", "logs", "predictions")))
        self.forget()

    def forget(self):
        """As if the run had never been trained."""
        for path in (self.scratch, self.checkpoint.parent.parent, self.log.parent):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.folder / ".dvc/cache/runs", ignore_errors=True)  # from which DVC would restore it
        (self.folder / "scratch/status" / DATASET / f"{KILLED}.json").unlink(missing_ok=True)
        yaml, lock = YAML(), self.folder / "dvc.lock"
        content = yaml.load(lock)
        for stage in ("train", "evaluate"):
            content["stages"].pop(f"{stage}@{KILLED}", None)
        yaml.dump(content, lock)

    def steps(self):
        """Steps of the newest state, or all if the training has ended."""
        if (self.scratch / "checkpoint.pth").exists():
            return STEPS
        return max((int(path.name.split("_")[1]) for path in self.scratch.glob("state_*.pth")), default=0)

    def start(self, what):
        """Start the command around what is to be ended. Returns its process, in a session of its own."""
        bin_ = Path(sys.executable).parent
        command = {
            "make": ["make", "-o", f"{bin_.parent}/.stamp", f"VENV={bin_.parent}", "reproduce"],
            "launch": ["python", "-m", "commands.launch"],
        }.get(what, ["python", "-m", "dvc", "repro", "--single-item", f"train@{KILLED}"])
        self.output = (self.folder.parent / "output.log").open("w+")
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.clone.environment,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def case(self, what, number, moment):
        """End something once; raises AssertionError if that did any harm."""
        before = self.steps()
        started = self.start(what)
        training = wait_for(
            f"a training that {moment}", lambda: started.poll() is not None or self.reached(moment, before)
        )
        if training is not True:
            self.send(what, number, started, training)
        self.wait(started, before)
        after = self.steps()
        assert after >= before, f"saved steps were lost: {before}, then {after}"
        self.check()
        if self.checkpoint.exists() and self.steps() == STEPS and started.returncode == 0:
            self.check_weights()
            self.forget()

    def wait(self, started, before):
        """Wait for all processes to end."""
        wait_for("the end of what was ended", lambda: started.poll() is not None)
        began = time.monotonic()
        while (left := processes_in(self.folder)) and time.monotonic() - began < 30:  # a step to end, a state to save
            time.sleep(0.05)
        assert not left, f"orphans: {[' '.join(process.cmdline()) for process in left]}"

    def reached(self, moment, before):
        """The process of the training if it is that far, else None."""
        training = find(self.folder, "stages.train", KILLED)
        if moment == "begins":
            return training
        if moment == "in its loop":
            return training if self.steps() >= min(before + 2, STEPS) else None
        return training if (self.scratch / "checkpoint.pth").exists() else None

    def send(self, what, number, started, training):
        """Send a signal as a user or the system would: Ctrl-C and a closed terminal reach the whole process group."""
        if what in ("make", "launch"):
            if number in (signal.SIGINT, signal.SIGHUP):
                os.killpg(started.pid, number)
            else:
                started.send_signal(number)
        elif what == "dvc":
            started.send_signal(number)
        else:
            with contextlib.suppress(psutil.NoSuchProcess):
                training.send_signal(number)

    def check(self):
        """Nothing false, nothing lost, no traceback."""
        self.output.flush()
        texts = [Path(self.output.name).read_text()]
        texts += [path.read_text() for path in (self.folder / "scratch/launch").glob(f"*{KILLED}.log")]
        for text in texts:
            assert "Traceback" not in text, f"a traceback: {text[text.index('Traceback') :][:1500]}"
        known = attempts.read(DATASET, KILLED)
        assert known is None or known.state in ("interrupted", "trained", "evaluated"), f"status: {known.describe()}"
        assert known is None or known.state == "interrupted" or self.steps() == STEPS, f"status: {known.describe()}"
        lock = self.folder / "dvc.lock"
        assert isinstance(YAML(typ="safe").load(lock), dict), "dvc.lock is not readable"
        for path, digest in self.other.items():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, f"{path} has changed"
        for path in self.scratch.glob("state_*.pth"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            assert path.stem.endswith(digest), f"{path.name} is half-written"
        if self.checkpoint.exists():
            self.check_weights()

    def check_weights(self):
        assert weights(self.checkpoint) == self.expected[0], "other weights than without interruption"
        if self.log.exists():
            assert self.log.read_bytes() == self.expected[1], "another log than without interruption"

    def finish(self):
        """End all by `dvc repro`: the same weights, and DVC agrees."""
        self.clone.run("dvc", "repro", "--single-item", f"train@{KILLED}")
        self.check_weights()
        changed = json.loads(self.clone.run("dvc", "status", "--json", f"train@{KILLED}").stdout)
        assert not changed, f"dvc status: {changed}"


def signal_cases(clone):
    """(name, function) of every case of `signals`, and the last that lets all end."""
    os.environ["CONTRASTMASK_HOME"] = str(clone.folder)  # whose status is read
    signals = Signals(clone)
    for moment in MOMENTS:
        for what in ("training", "dvc", "launch", "make"):
            for number in SIGNALS:
                yield (
                    f"{number.name} to {what}, a training {moment}",
                    lambda what=what, number=number, moment=moment: signals.case(what, number, moment),
                )
    yield "all of it goes on to the end", signals.finish


def launch_cases(clone):
    """Two launches in one working copy."""
    os.environ["CONTRASTMASK_HOME"] = str(clone.folder)
    signals = Signals(clone)

    def second_is_refused():
        first = signals.start("launch")
        wait_for("a training", lambda: first.poll() is not None or signals.reached("in its loop", 0))
        logs = signals.folder / "scratch/launch" / f"train_{KILLED}.log"
        inode, size = logs.stat().st_ino, logs.stat().st_size
        second = clone.run("python", "-m", "commands.launch", check=False)
        assert second.returncode == 1 and f"process {first.pid} " in second.stderr, second.stderr
        assert "Traceback" not in second.stderr and len(second.stderr.splitlines()) == 1, second.stderr
        assert logs.stat().st_ino == inode and logs.stat().st_size >= size, "the log was overwritten"
        os.kill(first.pid, signal.SIGTERM)  # as the line says
        signals.wait(first, 0)
        signals.check()

    def second_after_a_killed_first():
        first = signals.start("launch")
        before = signals.steps()
        wait_for("a training", lambda: first.poll() is not None or signals.reached("in its loop", before))
        os.kill(first.pid, signal.SIGKILL)
        second = clone.run(
            "python", "-m", "commands.launch", check=False
        )  # at once: the training still saves its state
        assert second.returncode == 0 and "Traceback" not in second.stderr, second.stderr[-3000:]
        signals.wait(first, 0)
        signals.check()
        signals.check_weights()

    yield "a second launch beside one that runs", second_is_refused
    yield "a launch right after SIGKILL of another", second_after_a_killed_first


def setup_cases():
    """Two set-ups at once, and ended ones, with a pip that only waits: the cases of tests/setup/test_two_setups.py."""

    def run(words):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-k", words, "tests/setup/test_two_setups.py"],
            cwd=paths.ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:]

    yield "two set-ups at once", lambda: run("second_waits")
    for number in SIGNALS:
        yield f"{number.name} to a set-up", lambda number=number: run(f"ended_set_up and {number.name}")


def serve():
    """Run stages, one for each line of standard input, in forks of a process that has imported everything.

    A line is the JSON list of a stage's name and arguments; the answer is one of exit status and output.
    """
    stages = {
        name: importlib.import_module(f"{'commands' if name in Disk.COMMANDS else 'stages'}.{name}")
        for name in Disk.STAGES
    }
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        with tempfile.TemporaryFile(dir="/tmp") as output:
            child = os.fork()
            if not child:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                code = 1
                try:
                    sys.argv = [name, *arguments]
                    stages[name].main()
                    code = 0
                except SystemExit as error:
                    code = error.code or 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            status_ = os.waitpid(child, 0)[1]
            output.seek(0)
            print(json.dumps([os.waitstatus_to_exitcode(status_), output.read().decode()]), flush=True)


class Disk:
    """Stages on a file system of a few hundred MB that can be full, out of inodes or read-only."""

    STAGES = {
        "download": ["download"],
        "split": ["split", "nonvoc2voc"],
        "recipes": ["recipes"],
        "pretrain": ["pretrain", "r50"],
        "train": ["train", KILLED],
        "evaluate": ["evaluate", KILLED],
        "look_inside": ["look_inside", KILLED],
        "headline": ["headline", "current"],
        "tables": ["tables", "table2"],
        "figures": ["figures", "loss_curves"],
        "report": ["report"],
        "select": ["select", "table2"],
        "plan": ["plan"],
        "launch": ["launch"],
    }
    COMMANDS = ("select", "plan", "launch")
    GONE = {  # of each stage: outputs and saved work that are removed before, so that it has something to write
        "download": ["data/generated"],
        "pretrain": ["runs/generated/init", "scratch/pretrain"],
        "train": [f"runs/generated/{KILLED}", "scratch/train"],
        "evaluate": [f"results/generated/{KILLED}.json"],
        "launch": [f"results/generated/{KILLED}.json"],
    }

    def __init__(self, clone, mounted):
        self.mounted = mounted
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m,mode=755", "tmpfs", str(mounted)], check=True)
        self.folder = mounted / "clone"
        shutil.copytree(clone.folder, self.folder, symlinks=True)
        self.environment = clone.environment | {"CONTRASTMASK_HOME": str(self.folder), "TMPDIR": "/tmp"}
        self.filler = mounted / "filler"
        self.server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.interference", "--serve"],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, stage):
        """(exit status, output) of a stage."""
        print(json.dumps([stage, *self.STAGES[stage][1:]]), file=self.server.stdin, flush=True)
        return json.loads(self.server.stdout.readline())

    def close(self):
        self.server.stdin.close()
        self.server.wait()
        subprocess.run(["umount", str(self.mounted)], check=True)

    def remount(self, options):
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.mounted)], check=True)

    @contextlib.contextmanager
    def state(self, kind):
        """The file system in a bad state."""
        if kind == "full disk":
            with contextlib.suppress(OSError), self.filler.open("wb", buffering=0) as file:
                while file.write(b"\0" * 2**20):
                    pass
        elif kind == "no inodes":
            used = os.statvfs(self.mounted)
            self.remount(f"nr_inodes={used.f_files - used.f_ffree}")
        else:
            self.remount("ro")
        try:
            yield
        finally:
            self.remount("rw,size=600m,nr_inodes=400000")
            self.filler.unlink(missing_ok=True)

    def take_away(self, stage):
        """Move aside what the stage is to write. Returns {place: where it is now}."""
        moved = {}
        for name in self.GONE.get(stage, []):
            place = self.folder / name
            if name.startswith("scratch/"):
                found = [path.parent for path in (self.folder / "scratch").glob("*/checkpoint.pth")]
                for folder in found:
                    moved[folder] = self.mounted / "aside" / folder.name
            else:
                moved[place] = self.mounted / "aside" / name.replace("/", "_")
        for place, aside in moved.items():
            aside.parent.mkdir(exist_ok=True)
            os.rename(place, aside)
        return moved

    def content(self):
        """Digests of all that is tracked or has a final name."""
        return digests(
            *(
                self.folder / name
                for name in ("data", "runs", "logs", "predictions", "results", "metrics", "reports", "pipeline")
            )
        )

    def case(self, stage, kind):
        moved = self.take_away(stage)
        before = self.content()
        with self.state(kind):
            code, output = self.run(stage)
        try:
            assert "Traceback" not in output, f"a traceback: {output[-2500:]}"
            after = self.content()
            final = [path for path in after if not path.name.startswith(".") and not path.name.endswith(".part")]
            new = [path for path in final if before.get(path) != after[path]]
            lost = [path for path in before if path not in after and not path.name.endswith(".part")]
            if code == 0:
                assert stage == "plan" or not new or kind == "full disk", f"exit 0, but wrote {new}"
                assert stage == "plan" or self.complete(stage), f"exit 0, but did nothing: {output[-500:]}"
            else:
                lines = [line for line in output.splitlines() if line.startswith("error: ")]
                assert len(lines) == 1, f"not one line: {output[-1500:]}"
                assert stage == "download" or not new, f"half-written: {new}"
            assert not lost, f"lost: {lost}"
        finally:
            for place, aside in moved.items():
                if place.is_dir():
                    shutil.rmtree(place)
                elif place.exists():
                    place.unlink()
                place.parent.mkdir(parents=True, exist_ok=True)
                os.rename(aside, place)

    def complete(self, stage):
        """Whether a stage that ends well had nothing to write, or wrote what it has to."""
        return stage in ("plan", "launch") or all(
            (self.folder / name).exists() for name in self.GONE.get(stage, []) if not name.startswith("scratch/")
        )

    def works_again(self):
        for stage in self.STAGES:
            code, output = self.run(stage)
            assert code == 0, f"{stage}: {output[-1500:]}"


def disk_cases(clone, mounted):
    disk = Disk(clone, mounted)
    try:
        for kind in ("full disk", "no inodes", "read-only"):
            for stage in Disk.STAGES:
                yield f"{kind}, stages.{stage}", lambda stage=stage, kind=kind: disk.case(stage, kind)
        yield "every stage once there is room again", disk.works_again
    finally:
        disk.close()


def cases(kinds, root):
    """(name, function) of all cases of the chosen kinds."""
    if "setups" in kinds:
        yield from setup_cases()
    if set(kinds) - {"setups"}:
        (root / "clone").mkdir()
        print("making a clone with two small trainings", flush=True)
        clone = make_clone(root / "clone")
    if "disk" in kinds:
        (root / "small").mkdir()
        yield from disk_cases(clone, root / "small")
    if "launches" in kinds:
        yield from launch_cases(clone)
    if "signals" in kinds:
        yield from signal_cases(clone)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=("setups", "disk", "launches", "signals"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    args = parser.parse_args()
    if args.serve:
        return serve()
    kinds = args.only or ("setups", "disk", "launches", "signals")
    done = failed = 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, and its children, ignore it
    with tempfile.TemporaryDirectory(prefix="interference") as folder:
        for name, case in cases(kinds, Path(folder)):
            if args.match not in name:
                continue
            began = time.monotonic()
            try:
                case()
                verdict = "ok"
            except Exception as error:
                failed += 1
                verdict = f"FAILED: {error}"
            done += 1
            print(f"{name}: {verdict} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"cases={done} failed={failed}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
