"""Trains on several devices and in clusters of local processes: `python local_clusters.py DATA FOLDER [SCENARIO ...]`.

TensorFlow is imported once, here, and runs in forked children only. Each scenario writes FOLDER/NAME/, what its processes
print to FOLDER/NAME.PROCESS.log, and its figures to FOLDER/NAME.json. A scenario that fails ends the script.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from child_processes import fork

from trainer import task
from trainer.distribute.distribution import connect
from trainer.distribute.replicas import replica_seed

DATA, FOLDER = (Path(argument) for argument in sys.argv[1:3])
SECONDS_TO_WAIT = 240
NETWORK = ["model.embedding_dim=4", "model.dcn.hidden_units=[16]", "finetune.dropout=0", "finetune.learning_rate=0.01",
           "pretrain.learning_rate=0.01", "finetune.table_decay=0.01", "runtime.matmul=float32"]
FOUR_STEPS = [*NETWORK, "finetune.epochs=3", "finetune.batch_size=256", "finetune.min_steps=1"]
# The whole split is one batch, so that the steps of one process and of two workers see the same rows.
WHOLE_SPLIT = [*NETWORK, "finetune.epochs=20", "finetune.patience=20", "finetune.batch_size=1024", "finetune.min_steps=1"]
PRETRAIN = [*NETWORK, "pretrain.epochs=4", "pretrain.batch_size=128", "pretrain.min_steps=1"]
SERVED = [*PRETRAIN, "finetune.epochs=14", "finetune.patience=14", "finetune.batch_size=64", "finetune.min_steps=1"]


def command(name: str, stage: str, settings: list[str], *flags: str) -> list[str]:
    sets = [part for setting in settings for part in ("--set", setting)]
    return [f"--stage={stage}", "--data_dir", str(DATA), "--model_dir", str(FOLDER / name), *flags, *sets]


class Process:
    """`trainer.task`, or another function, in a forked child, as one task of a cluster if `cluster` is given."""

    def __init__(self, name: str, arguments: list[str], cluster: dict | None = None, role: str = "one", index: int = 0,
                 main: Callable[[list[str]], int] = task.main):
        self.code: int | None = None
        self.log = FOLDER / f"{name}.{role}{index}.log"

        def run() -> int:
            if cluster:
                os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
            return main(arguments)

        self.pid = fork(run, self.log)

    def ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait(self) -> int:
        """The exit code, or minus the signal that ended it."""
        wait_until(self.ended)
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> int:
        os.kill(self.pid, number)
        return self.wait()


def addresses(count: int) -> list[str]:
    """Free ports of this machine."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return [f"localhost:{port}" for port in ports]


def wait_until(reached: Callable[[], bool]) -> None:
    stop = time.monotonic() + SECONDS_TO_WAIT
    while not reached():
        if time.monotonic() > stop:
            raise TimeoutError(f"waited {SECONDS_TO_WAIT} s")
        time.sleep(0.02)


def finished_epochs(name: str) -> int:
    return max((int(path.name[6:10]) for path in (FOLDER / name / "finetune" / "checkpoints").glob("epoch-*")), default=0)


def wait_for_epoch(name: str, epoch: int, chief: Process) -> None:
    wait_until(lambda: chief.ended() or finished_epochs(name) >= epoch)
    assert chief.code is None, f"the chief ended with {chief.code}"


def finish(name: str, figures: dict) -> None:
    (FOLDER / f"{name}.json").write_text(json.dumps(figures))


def two_devices() -> None:
    process = Process("devices", command("devices", "finetune", FOUR_STEPS, "--from_scratch", "--devices", "cpus:2"))
    finish("devices", {"code": process.wait()})


def seeds_of_two_devices() -> None:
    finish("seeds", {"code": Process("seeds", [], main=write_seeds).wait(), **json.loads((FOLDER / "seeds").read_text())})


def write_seeds(_: list[str]) -> int:
    """Writes which seed each of two replicas uses in steps 2 and 3 of a run with seed 1."""
    import tensorflow as tf

    distribution = connect(None, "cpus:2", table_rows=8)
    with distribution.scope():
        strategy = tf.distribute.get_strategy()
        steps = {step: strategy.run(lambda step: replica_seed(tf.stack([1, step])), args=(tf.constant(step),)) for step in (2, 3)}
        seeds = {step: [seed.numpy().tolist() for seed in strategy.experimental_local_results(value)] for step, value in steps.items()}
    (FOLDER / "seeds").write_text(json.dumps(seeds))
    return 0


def two_workers_pretrain() -> None:
    cluster = {"worker": addresses(2)}
    workers = [Process("servers", command("servers", "pretrain", PRETRAIN), cluster, "worker", i) for i in range(2)]
    finish("pretrain", {"codes": [worker.wait() for worker in workers], "chief": workers[0].pid})


def a_killed_worker() -> None:
    """Worker 1 of two is killed; both are started again, and it is told to stop; both are started again."""
    arguments = command("killed", "finetune", WHOLE_SPLIT, "--from_scratch")
    cluster = {"worker": addresses(2)}
    chief, worker = (Process("killed", arguments, cluster, "worker", i) for i in range(2))
    wait_for_epoch("killed", 2, chief)
    worker.kill()
    survivor = chief.wait()
    cluster = {"worker": addresses(2)}
    again = [Process("killed", arguments, cluster, "worker", i) for i in range(2)]
    wait_for_epoch("killed", finished_epochs("killed") + 2, again[0])
    stopped = [again[1].kill(signal.SIGTERM), again[0].wait()]
    epoch = finished_epochs("killed")
    cluster = {"worker": addresses(2)}
    last = [Process("killed", arguments, cluster, "worker", i) for i in range(2)]
    figures = {"survivor": survivor, "stopped": stopped, "epoch": epoch, "codes": [process.wait() for process in last]}
    finish("killed", {**figures, "chiefs": [chief.pid, again[0].pid, last[0].pid]})


def parameter_servers() -> None:
    """Two servers and two workers fine-tune the model pre-trained before. A worker is killed and started again, then the
    chief is told to stop and started again, while the others go on."""
    arguments = command("servers", "finetune", SERVED)
    places = addresses(5)
    cluster = {"chief": places[:1], "worker": places[1:3], "ps": places[3:]}
    servers = {role: [Process("servers", arguments, cluster, role, i) for i in range(2)] for role in ("ps", "worker")}
    chief = Process("servers", arguments, cluster, "chief")
    wait_for_epoch("servers", 2, chief)
    killed = servers["worker"][1].kill()
    servers["worker"][1] = Process("servers", arguments, cluster, "worker", 1)
    wait_for_epoch("servers", finished_epochs("servers") + 2, chief)
    stopped = chief.kill(signal.SIGTERM)
    code = Process("servers", arguments, cluster, "chief").wait()
    ended = [process.kill(signal.SIGTERM) for processes in servers.values() for process in processes]
    finish("servers", {"killed": killed, "stopped": stopped, "chief": code, "ended": ended})


if __name__ == "__main__":
    settings = {"devices": FOUR_STEPS, "killed": WHOLE_SPLIT, "pretrain": PRETRAIN, "servers": SERVED}
    (FOLDER / "settings.json").write_text(json.dumps(settings))
    scenarios = {scenario.__name__: scenario for scenario in (
        seeds_of_two_devices, two_devices, two_workers_pretrain, a_killed_worker, parameter_servers)}
    for name in sys.argv[3:] or scenarios:
        scenarios[name]()
