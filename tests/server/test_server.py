"""`d2o serve` as a process of its own: it answers what was begun when it is asked to stop."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

import d2o
from conftest import make_denoiser
from d2o.cli.main import run

pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    file = tmp_path_factory.mktemp("served") / "model.safetensors"
    d2o.save(file, make_denoiser(classes=2))
    return str(file)


def test_it_stops_gracefully(model):
    command = [sys.executable, "-m", "d2o", "serve", model, "--port", "0", "--steps", "100", "--batch", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", first)
        assert found, first
        answers = []
        asked = threading.Event()

        def ask():
            with socket.create_connection(("127.0.0.1", int(found[0].split(":")[-1][:-1])), 60) as line:
                line.sendall(b"GET /images?seeds=0-15 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                asked.set()
                answers.append(b"".join(iter(lambda: line.recv(65536), b"")))

        client = threading.Thread(target=ask)
        client.start()
        asked.wait(60)
        while not answers and b"d2o_waiting_images 0.0" in urllib.request.urlopen(f"{found[0]}metrics").read():
            pass  # until the request is being worked on
        process.send_signal(signal.SIGTERM)
        client.join(60)
        assert process.wait(60) == 0
        assert answers[0].startswith(b"HTTP/1.1 200") and b"\x89PNG" in answers[0]
        rest = process.stderr.read()
        assert rest == "Stopped.\n"
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def test_ctrl_c_is_a_good_end(model, capsys, monkeypatch):
    """In this process: the first answers are followed by the signal; none tells where the model lies."""
    answers = []

    def ask_then_stop(address):
        answers.extend(urllib.request.urlopen(f"{address}{door}").read() for door in ("images?seeds=1", "health", ""))
        os.kill(os.getpid(), signal.SIGINT)

    stop_after(monkeypatch, ask_then_stop)
    before = signal.getsignal(signal.SIGINT)
    assert run(["serve", model, "--port", "0"]) == 0
    assert b'"model":"model.safetensors"' in answers[1] and not any(b"/model.safetensors" in text for text in answers)
    assert "Stopped." in capsys.readouterr().out and signal.getsignal(signal.SIGINT) is before


def test_a_port_in_use_is_one_sentence(model, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(["serve", model, "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_of_several_ports_the_first_free_one_is_taken():
    from d2o.server.server import listen

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with listen("127.0.0.1", (port, 0)) as listener:
            assert listener.getsockname()[1] not in (0, port)
        with pytest.raises(OSError, match=str(port)):
            listen("127.0.0.1", (port,))


def test_a_port_that_none_is_one_sentence(model, capsys):
    assert run(["serve", model, "--port", "70000"]) == 2
    assert "--port" in capsys.readouterr().err


WRONG = [
    *("--steps 0", "--batch 0", "--max-seeds -1", "--timeout nan", "--timeout inf", "--idle 0", "--max-connections 0"),
    *("--max-client 0", "--proxy example.org", "--proxy *", "--token a,b", "--token s\u00e9cret", "--token="),
]


@pytest.mark.parametrize("words", WRONG)
def test_wrong_options_are_one_sentence(model, capsys, words):
    with pytest.raises(SystemExit) as end:
        run(["serve", model, *words.split()])
    assert end.value.code == 2 and re.split("[ =]", words)[0] in capsys.readouterr().err


def stop_after(monkeypatch, action, command="serve"):
    """Let `action` have the address that a command announces in this process, in a thread."""

    def act(sentence):
        if found := re.search(r"http://\S+", sentence):
            threading.Thread(target=action, args=(found[0],)).start()
        else:
            print(sentence)

    monkeypatch.setattr(f"d2o.cli.commands.{command}.say", act)


class TestToken:
    """Of the command: those who have it get images, others a sentence; the list of processes need not show it."""

    def ask(self, address, **headers):
        try:
            with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    @pytest.mark.parametrize("way", ["option", "variable"])
    def test_only_its_owners_are_answered(self, model, monkeypatch, capsys, way):
        command = ["serve", model, "--port", "0", "--access-log"]
        if way == "option":
            command += ["--token", "s3cret"]
        else:
            monkeypatch.setenv("D2O_TOKEN", "s3cret")
        found = []

        def ask_then_stop(address):
            try:
                bearer = {"Authorization": "Bearer s3cret", "X-Request-Id": "mine-7"}
                found.extend(self.ask(f"{address}{path}") for path in ("images", "", "metrics", "health"))
                found.extend(self.ask(f"{address}{path}", **bearer) for path in ("images?seeds=1", "", "metrics"))
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        stop_after(monkeypatch, ask_then_stop)
        assert run(command) == 0
        assert found == [401, 401, 401, 200, 200, 200, 200]
        log = capsys.readouterr().err
        assert re.search(r"127\.0\.0\.1 GET /images\?seeds=1 200 [\d.]+ ms mine-7\n", log) and "s3cret" not in log

    def test_the_page_is_announced_with_it(self, model, monkeypatch):
        found = []

        def ask_then_stop(address):
            found.append(address)
            found.extend(
                self.ask(address.partition("#")[0] + path) for path in ("", "page.js", "page/models", "images")
            )
            os.kill(os.getpid(), signal.SIGINT)

        stop_after(monkeypatch, ask_then_stop, "app")
        assert run(["app", model, "--port", "0", "--token", "a+b"]) == 0
        assert found[0].endswith("/#token=a%2Bb") and found[1:] == [200, 200, 401, 401]


def test_a_missing_package_names_the_extra(model, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("d2o.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    assert run(["serve", model]) == 2
    assert "'.[serve]'" in capsys.readouterr().err
