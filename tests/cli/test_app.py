"""`d2o app` as a program: it says where the page is, ends when it is asked to, and leaves nothing behind."""

import importlib.util
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from d2o.cli.main import run


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the page needs gradio: pip install -e '.[app]'")
def test_it_serves_until_it_is_stopped(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "d2o", "app"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = next(row for row in process.stderr if "The page is at" in row)
        address = line.split()[4]
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=60) as answer:
            assert b"gradio" in answer.read()
        assert [path.name for path in tmp_path.glob("d2o-app-*")]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
    assert not list(tmp_path.glob("d2o-app-*"))


def test_without_gradio_it_names_the_extra(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("d2o.app.page", "d2o.app.tabs", "d2o.app.choice"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run(["app"]) == 2
    assert "pip install -e '.[app]'" in capsys.readouterr().err
