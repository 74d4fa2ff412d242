"""The same rows through Slurm: Debian's slurmctld, slurmd and munge, started here on loopback and ended afterwards."""

import os
import shutil
import socket
import subprocess
import time

import pytest
from engines import ROOT, Place

from oefsmc_lib.rows.row import difference

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo", "srun")
CONFIGURATION = """ClusterName=oefsmc
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster of one node; every daemon is a child of this process and ends with the test."""
    monkeypatch.setenv("PATH", os.environ["PATH"] + os.pathsep + "/usr/sbin")
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"{absent[0]} is not installed; on Debian: apt install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0:
        pytest.skip("only root may start slurmd")
    folder, started = tmp_path / "slurm", []
    for name in ("", "state", "spool", "bin"):
        (folder / name).mkdir(mode=0o755)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, folder=folder, ports=free_ports(2)))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    # Snakemake's job step drops most of Slurm's variables, where a real cluster has /etc/slurm/slurm.conf.
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(srun.parent), prepend=os.pathsep)
    munge = ["munged", "--foreground", "--force", *(f"--{name}={folder}/munge.{end}" for name, end in (
        ("socket", "socket"), ("key-file", "key"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed")))]
    try:
        for words in (munge, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            log = (folder / f"{words[0]}.out").open("w")
            started.append(subprocess.Popen(words, stdout=log, stderr=log))
            time.sleep(1)
        end = time.monotonic() + 60
        while "idle" not in (said := subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)).stdout:
            if time.monotonic() > end or any(process.poll() is not None for process in started):
                logs = "\n".join(path.read_text()[-1000:] for path in (*folder.glob("*.log"), *folder.glob("*.out")))
                pytest.skip(f"Slurm does not start on this machine ({said.stderr.strip()}): {logs}")
            time.sleep(0.5)
        yield folder
    finally:
        subprocess.run(["scancel", "--state=RUNNING"], capture_output=True)
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)


@pytest.fixture
def places(tmp_path):
    text = (ROOT / "params" / "grids" / "smoke.yaml").read_text()
    made = [Place(tmp_path / name, text) for name in ("here", "cluster")]
    yield made
    for place in made:
        place.end()


def test_the_smoke_grid_gives_the_same_rows_through_slurm(slurm, places):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    here, cluster = places
    assert here.run("--in-process").returncode == 0
    # Two cores, and no accounting service that `sacct` could ask.
    options = ("--set-threads", "batch=1", "--latency-wait", "10", "--slurm-status-command", "squeue",
               "--slurm-init-seconds-before-status-checks", "5")
    done = cluster.snakemake(*options, profile="slurm")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("has been submitted with SLURM jobid") == 2
    assert "Nothing to be done" in cluster.snakemake(*options, profile="slurm").stderr
    ours, theirs = here.store.rows(), cluster.store.rows()
    assert len(ours) == len(theirs) == 8
    assert [difference(one, other) for one, other in zip(ours, theirs, strict=True)] == [None] * 8
