"""The server's command with all of its files: models, batching, certificates; and its stop."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
import tiny_saved_models as tiny
from certificates import Authority
from running_server import SECONDS, copy_in
from tensorflow_serving.apis import prediction_service_pb2_grpc

from preprocessing.errors import EXIT_USER_ERROR, UserError
from serving.server import command
from serving.server.loading import Loader
from serving.server.ports import require_free

REPOSITORY = Path(__file__).resolve().parents[1]
PORTS = re.compile(
    r"serving tiny version 2 on 127\.0\.0\.1:(\d+)\nserving other version 2 on .*\nREST and metrics on https://127\.0\.0\.1:\d+\n"
)


@pytest.fixture
def arguments(tmp_path):
    """Flags for two models, one with labels, batches of up to four rows and mutual TLS."""
    saved, base_path = tiny.save(tmp_path / "saved"), tmp_path / "base"
    base_path.mkdir()
    for version in (1, 2):
        tiny.write_warmup(copy_in(saved, base_path, version))
    (tmp_path / "models.config").write_text(f"""model_config_list {{
      config {{ name: "tiny" base_path: "{base_path}" model_version_policy {{ all {{}} }}
        version_labels {{ key: "stable" value: 1 }} }}
      config {{ name: "other" base_path: "{base_path}" }}
    }}""")
    (tmp_path / "batching.config").write_text("max_batch_size { value: 4 } batch_timeout_micros { value: 1000 }")
    certificate, key = Authority(tmp_path).sign("server")
    return command._parse([
        "--model_config_file", f"{tmp_path}/models.config", "--batching_parameters_file", f"{tmp_path}/batching.config",
        "--port", "0", "--rest_api_port", "0", "--tls_cert", str(certificate), "--tls_key", str(key),
        "--tls_client_ca", f"{tmp_path}/authority.pem", "--poll_seconds", "0.1",
        "--model_config_file_poll_wait_seconds", "0.1", "--shutdown_delay_seconds", "0.1",
        "--tensorflow_intra_op_parallelism", "1", "--tensorflow_inter_op_parallelism", "1",
    ])  # fmt: skip


def serve(arguments, stop):
    batching = command.read_batching_parameters(arguments.batching_parameters_file)
    command._serve(arguments, command._configs(arguments), command._tls(arguments), batching, stop)


def answer_in_time(stub, request):
    """The answer of a model that the server has still to notice."""
    give_up = time.monotonic() + SECONDS
    while True:
        try:
            return stub.Predict(request, timeout=SECONDS)
        except grpc.RpcError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def test_a_configuration_file_that_is_not_there_cannot_be_looked_at(tmp_path, capsys):
    flags = ["--model_name", "tiny", "--model_base_path", str(tmp_path), "--model_config_file_poll_wait_seconds", "30"]
    with pytest.raises(SystemExit):
        command._parse(flags)
    assert "--model_config_file_poll_wait_seconds needs a --model_config_file" in capsys.readouterr().err


def test_all_files_and_flags_work_together(arguments, tmp_path, capsys):
    stop = command.StopRequest()
    thread = threading.Thread(target=serve, args=(arguments, stop))
    thread.start()
    try:
        said, give_up = "", time.monotonic() + SECONDS
        while not (ports := PORTS.search(said)) and thread.is_alive() and time.monotonic() < give_up:
            time.sleep(0.02)
            said += capsys.readouterr().out
        trusted = (tmp_path / "authority.pem").read_bytes()
        pair = [
            arguments.tls_key.read_bytes(),
            arguments.tls_cert.read_bytes(),
        ]  # of the same authority: good enough for a client
        with grpc.secure_channel(f"127.0.0.1:{ports[1]}", grpc.ssl_channel_credentials(trusted, *pair)) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for spec, version in (({"label": "stable"}, 1), ({}, 2), ({"model": "other"}, 2)):
                assert stub.Predict(tiny.predict_request(**spec), timeout=SECONDS).model_spec.version.value == version
            models = (tmp_path / "models.config").read_text()
            (tmp_path / "models.config").write_text(models.replace('"other"', '"renamed"'))
            assert answer_in_time(stub, tiny.predict_request(model="renamed")).model_spec.version.value == 2
            with pytest.raises(grpc.RpcError, match="Task size 5 is larger than maximum input batch size 4"):
                stub.Predict(tiny.predict_request([1.0] * 5), timeout=SECONDS)
    finally:
        stop.make()
        thread.join(SECONDS)
    assert not thread.is_alive()


@pytest.fixture
def endless(tmp_path):
    """A version that never loads nor fails: it waits for somebody to write its variables into a pipe."""
    version = tiny.save(tmp_path / "endless")
    [data] = (version / "variables").glob("variables.data-*")
    data.unlink()
    os.mkfifo(data)
    return version


@pytest.fixture
def started(tmp_path):
    """Starts the server's command in a process of its own, for the versions under `base`."""
    (tmp_path / "base").mkdir()
    flags = ["--model_name", "tiny", "--model_base_path", str(tmp_path / "base"), "--port", "0", "--poll_seconds", "0.1"]
    processes = []

    def start(*more):
        command_line = [sys.executable, "-m", "serving.server", *flags, *more]
        processes.append(subprocess.Popen(command_line, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


def wait_for_line(stream, part):
    assert any(part in line for line in stream), f"the process has ended without a line with {part!r}"


def ended(process):
    """What a process prints from SIGTERM on, and its exit code."""
    process.terminate()
    printed, said = process.communicate(timeout=SECONDS)
    return printed, said, process.returncode


def test_a_stop_ends_the_command_in_the_middle_of_its_first_load(tmp_path, endless, started):
    endless.rename(tmp_path / "base" / "1")
    process = started()
    wait_for_line(process.stderr, "tiny version 1 is loading")
    printed, said, code = ended(process)
    assert (printed, code) == ("", 0) and "stopped before every model had a version" in said and "Traceback" not in said


def test_a_stop_waits_for_a_later_load_no_longer_than_it_drains(tmp_path, endless, started):
    tiny.save(tmp_path / "base" / "1")
    process = started("--drain_seconds", "0.2")
    wait_for_line(process.stdout, "serving tiny version 1 on ")
    endless.rename(tmp_path / "base" / "2")
    wait_for_line(process.stderr, "tiny version 2 is loading")
    printed, said, code = ended(process)
    assert (printed, code) == ("", 0) and "INFO stopped" in said and "Traceback" not in said


def test_a_stop_during_the_first_load_opens_no_port(arguments, monkeypatch, capsys):
    stop, load = command.StopRequest(), Loader.load
    monkeypatch.setattr(Loader, "load", lambda *given: (stop.make(), load(*given))[1])
    serve(arguments, stop)
    assert "serving" not in capsys.readouterr().out


def test_a_signal_that_interrupts_another_thread_ends_the_wait():
    waits = """
import signal, threading, time
from serving.server.command import StopRequest

def send():
    time.sleep(0.5)  # the main thread waits by now
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

stop = StopRequest()
stop.on_signals(signal.SIGTERM)
threading.Thread(target=send).start()
print(stop.wait(None), stop.wait(0))
"""
    ended = subprocess.run([sys.executable, "-c", waits], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert ended.stdout == "True True\n"


@pytest.mark.parametrize("flag", ["--port", "--rest_api_port"])
def test_a_port_that_is_taken_ends_the_command_before_anything_is_loaded(flag, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"--port": 0, flag: taken.getsockname()[1]}
        # There is no version to load, so a server that does not look at its ports first would wait for one here.
        flags = [str(part) for pair in ports.items() for part in pair]
        assert command.main(["--model_name", "tiny", "--model_base_path", str(tmp_path), *flags]) == EXIT_USER_ERROR
    said = " ".join(capsys.readouterr().err.split())
    assert f"cannot listen on 127.0.0.1:{ports[flag]}: the port is in use" in said and f"choose another {flag}, or {flag} 0" in said


def test_an_address_of_another_machine_is_told():
    for host in ("192.0.2.1", "no..host"):
        with pytest.raises(UserError, match=f"cannot listen on {host}:0: .* the address is not this machine's"):
            require_free(host, 0, "--port")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_free_ports_are_found_free(host):
    require_free(host, 0, "--port")
