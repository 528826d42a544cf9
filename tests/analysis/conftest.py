"""Figures of few dots: their looks are judged by eye, not by tests."""

import pytest


@pytest.fixture(autouse=True)
def few_dots(monkeypatch):
    monkeypatch.setattr("d2o.pages.DOTS", 40)
