"""Figures of few dots: their looks are judged by eye, not by tests."""

import pytest

from d2o.analysis import page


@pytest.fixture(autouse=True)
def few_dots(monkeypatch):
    monkeypatch.setattr(page, "DOTS", 40)
