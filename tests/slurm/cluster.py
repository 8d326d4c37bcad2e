"""A real Slurm of two nodes on this machine: munged, slurmctld and two slurmd, everything in one folder.

Each node is a PID namespace, so that a process number of one means nothing on the other, as on two machines, and so
that a node ends as a whole, as in a power cut. Needs root and Debian's packages slurm-wlm and munge.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "unshare")
NODES = ("n1", "n2")
START_SECONDS = 60

CONF = """\
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SlurmdTimeout=15
KillWait=15
SchedulerParameters=sched_interval=5
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=4000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=4000
PartitionName=test Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


def missing():
    """Why a cluster cannot be brought up here, or None."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if absent := [name for name in PROGRAMS if not shutil.which(name, path=path)]:
        return f"no {', '.join(absent)} on this machine (Debian: slurm-wlm, munge)"
    if os.geteuid() != 0 or subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"]).returncode:
        return "nodes need root and PID namespaces"
    return None


class Cluster:
    """A context: brings the cluster up in an empty folder, ends its own processes on leaving.

    Args:
        cpus: CPUs that each node claims to have, whatever the machine has.
    """

    def __init__(self, folder, cpus=1):
        self.folder, self.processes = folder, {}
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        (folder / "state").mkdir(parents=True)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o400)
        (folder / "slurm.conf").write_text(CONF.format(folder=folder, cpus=cpus, ports=_free_ports(3)))

    def __enter__(self):
        try:
            files = [f"--{name}-file={self.folder}/munged.{name}" for name in ("pid", "log", "seed")]
            files += [f"--key-file={self.folder}/key", f"--socket={self.folder}/munge.socket"]
            self._start("munged", "munged", "--foreground", "--force", *files)
            self._wait(lambda: (self.folder / "munge.socket").exists())
            self._start("slurmctld", "slurmctld", "-D")
            self._wait(lambda: self.run("sinfo", check=False).returncode == 0)
            for node in NODES:
                self.start_node(node)
            self._wait(lambda: self.run("sinfo", "--noheader", "-o", "%T %D").stdout.split() == ["idle", "2"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        if "slurmctld" in self.processes:
            with contextlib.suppress(subprocess.SubprocessError):
                self.run("scancel", "--user=root", "--signal=KILL", check=False)
        for name in reversed(list(self.processes)):
            self._end(name, signal.SIGKILL if name in NODES else signal.SIGTERM)

    def start_node(self, node):
        """Boot a node: the slurmd is process 1 of its namespace."""
        self._start(node, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "slurmd", "-D", "-N", node)

    def kill_node(self, node):
        """Cut the power of a node: slurmd, jobs and all."""
        self._end(node, signal.SIGKILL)

    def run(self, *command, check=True):
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=check, timeout=START_SECONDS
        )

    def _start(self, name, *command):
        with (self.folder / f"{name}.out").open("a") as out:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def _end(self, name, how):
        process = self.processes.pop(name)
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, ready):
        until = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > until:
                raise TimeoutError(f"Slurm did not start within {START_SECONDS} s; see {self.folder}")
            time.sleep(0.2)


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
