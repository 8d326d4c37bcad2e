"""python -m tests.tracking.outage [--writers N] [--steps N]: many writers, an MLflow server on PostgreSQL, an outage.

Starts a PostgreSQL of its own (as the user `postgres` or `nobody` when run by root, reached through a socket in a
private folder, no network), `mlflow server` on 127.0.0.1, and the writers. Midway the server is killed with SIGKILL,
PostgreSQL is stopped as by a crash and started again, then the server. Of the writers one is killed with SIGKILL, one
fails, one is not evaluated. Then `python -m commands.track`, and the database is asked what it holds.
"""

import argparse
import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipeline.artifacts import paths
from tests.tracking.conftest import free_port, wait_for
from tests.tracking.stand_in import LOSSES, METRICS_OF_SCORES, record


def postgres_programs():
    """Folder of initdb, pg_ctl and the like, the newest version; None without PostgreSQL."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    on_path = shutil.which("initdb")
    candidates = ([Path(on_path).resolve().parent] if on_path else []) + folders[::-1]
    return next((folder for folder in candidates if (folder / "pg_ctl").exists()), None)


class Postgres:
    """A PostgreSQL below a folder, reached through a socket in it."""

    def __init__(self, folder):
        self.folder, self.programs, self.user = folder, postgres_programs(), None
        if os.geteuid() == 0:  # which PostgreSQL refuses
            names = {entry.pw_name for entry in pwd.getpwall()}
            self.user = "postgres" if "postgres" in names else "nobody"
            shutil.chown(folder, self.user)
        self.run("initdb", "-D", folder / "data", "-A", "trust", "-U", "mlflow", "--no-sync")
        self.start()
        self.run("createdb", "-h", folder, "-U", "mlflow", "mlflow")
        self.uri = f"postgresql://mlflow@/mlflow?host={folder}"

    def run(self, program, *arguments):
        command = ["runuser", "-u", self.user, "--"] if self.user else []
        command += map(str, (self.programs / program, *arguments))
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout[-2000:]}")

    def start(self):
        self.run(
            "pg_ctl",
            "-D",
            self.folder / "data",
            "-l",
            self.folder / "log",
            "-w",
            "-o",
            f"-k {self.folder} -c listen_addresses=",
            "start",
        )

    def crash(self):
        self.run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")


class MlflowServer:
    """`mlflow server` in a process group of its own."""

    def __init__(self, folder, database):
        self.folder, self.database, self.port = folder, database, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "2",
            "--backend-store-uri",
            self.database,
            "--artifacts-destination",
            (self.folder / "artifacts").as_uri(),
        ]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self.address, self.process)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def outage(folder, writers=8, steps=300, seconds=0.1):
    """Run the scenario below a folder. Returns what happened as a dictionary.

    Raises:
        AssertionError: a point is absent or doubled, or a run has a wrong status; says which.
    """
    postgres = Postgres(folder)
    server = MlflowServer(folder, postgres.uri.replace("postgresql:", "postgresql+psycopg2:"))
    started = []
    try:
        server.start()
        environment = os.environ | {"MLFLOW_TRACKING_URI": server.address, "CONTRASTMASK_HOME": str(folder / "home")}
        ends = {f"writer{number}": "evaluate" for number in range(writers)}
        ends |= {"writer1": "train", "writer2": "fail"}
        for name, end in ends.items():
            command = [sys.executable, "-m", "tests.tracking.writer", name, str(steps), str(seconds), end]
            started.append(
                subprocess.Popen(
                    command,
                    cwd=paths.ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=(folder / f"{name}.log").open("w"),
                    text=True,
                )
            )
        for process in started:
            assert process.stdout.readline() == "started\n"
        time.sleep(steps * seconds / 4)
        began = time.monotonic()
        server.kill()
        postgres.crash()
        time.sleep(steps * seconds / 4)
        started[0].kill()
        postgres.start()
        server.start()
        down = time.monotonic() - began
        outputs = [process.communicate()[0] for process in started]
        codes = dict(zip(ends, (process.returncode for process in started), strict=True))
        track = subprocess.run(
            [sys.executable, "-m", "commands.track"], cwd=paths.ROOT, env=environment, capture_output=True, text=True
        )
        assert track.returncode == 0, track.stderr
        expected = dict.fromkeys(ends, "FINISHED") | {"writer0": "KILLED", "writer1": "SCHEDULED", "writer2": "FAILED"}
        assert codes == {name: {"KILLED": -signal.SIGKILL, "FAILED": 1}.get(expected[name], 0) for name in ends}, codes
        held = examine(postgres.uri, folder / "home", expected)
        costs = [json.loads(output) for output in outputs if output.strip()]
        return held | {
            "server away for s": round(down, 1),
            "commands.track": track.stdout.strip(),
            "log_history, median ms": round(max(cost["median_ms"] for cost in costs), 1),
            "log_history, slowest ms": round(max(cost["slowest_ms"] for cost in costs), 1),
            "share of the time, at most": f"{max(cost['share'] for cost in costs):.1%}",
        }
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
        if server.process:
            server.kill()
        postgres.crash()


def examine(uri, home, expected):
    """Compare the tables of MLflow with what the writers wrote to their logs.

    Args:
        expected: {run: status}.
    """
    import psycopg2

    with contextlib.closing(psycopg2.connect(uri)) as connection, connection.cursor() as cursor:
        cursor.execute("select run_uuid, status from runs where lifecycle_stage = 'active'")
        statuses = dict(cursor.fetchall())
        cursor.execute("select run_uuid, value from tags where key = 'run'")
        names = {run: name for run, name in cursor.fetchall() if run in statuses}
        cursor.execute("select run_uuid, key, step, value from metrics")
        rows = cursor.fetchall()
    found = sorted((name, statuses[run]) for run, name in names.items())
    assert found == sorted(expected.items()), found
    assert len(statuses) == len(expected), "a run without its tags"
    points = Counter((names[run], key, step) for run, key, step, _ in rows if run in names)
    values = {(names[run], key, step): value for run, key, step, value in rows if run in names}
    written = {}
    for name in expected:
        for line in (home / "scratch" / name / "log.jsonl").read_text().splitlines():
            step = json.loads(line)["iter"]
            written |= {(name, f"train/{key}", step): record(step)[key] for key in LOSSES}
    doubled = [point for point, times in points.items() if times > 1]
    absent = [point for point in written if values.get(point) != written[point]]
    scores = len(values) - len(written)
    assert not doubled, f"{len(doubled)} points are doubled, such as {doubled[0]}"
    assert not absent, f"{len(absent)} points are absent or wrong, such as {absent[0]}"
    assert scores == METRICS_OF_SCORES * list(expected.values()).count("FINISHED"), scores
    return {
        "runs": len(found),
        "points": len(points),
        "absent": 0,
        "doubled": 0,
        "status": dict(Counter(expected.values())),
    }


@contextlib.contextmanager
def private_folder():
    """A folder that the user of PostgreSQL can reach, as those of pytest cannot; kept with its logs on a failure."""
    folder = Path(tempfile.mkdtemp(prefix="outage"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=8, help="at least 3")
    parser.add_argument("--steps", type=int, default=300, help="log records of each writer")
    arguments = parser.parse_args()
    with private_folder() as folder:
        for name, value in outage(folder, arguments.writers, arguments.steps).items():
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
