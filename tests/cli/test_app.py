"""`d2o app` as a program: it says where the page is, ends when it is asked to, and names what old options became."""

import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from d2o.cli.main import run


def test_it_serves_until_it_is_stopped():
    pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", "d2o", "app"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = next(row for row in process.stderr if "The page is at" in row)
        address = line.split()[4]
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=60) as answer:
            assert b"page.js" in answer.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def test_without_its_packages_it_names_the_extra(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("d2o.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    assert run(["app"]) == 2
    assert "pip install -e '.[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        ("--runs runs", "--track"),
        ("--runs=runs", "--track"),
        ("--upload-limit 9", "MODEL"),
        ("--upload_limit=9", "MODEL"),
    ],
)
def test_options_that_went_say_what_took_their_place(words, instead, capsys):
    assert run(["app", *words.split()]) == 2
    complaint = capsys.readouterr().err
    assert words[:6] in complaint and instead in complaint


def test_a_port_that_cannot_be_had_is_a_sentence(capsys):
    pytest.importorskip("uvicorn")
    assert run(["app", "--port", "99999"]) == 2
    assert "--port" in capsys.readouterr().err
