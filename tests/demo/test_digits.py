"""The demo runs from start to end, can be repeated, and reports what scripts rely on; its quality is not judged."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import d2o
from d2o.demo import digits
from d2o.training import recipes

KEYS = {
    "seed": int,
    "images": int,
    "kid": {"teacher", "untuned", "student", "floor"},
    "recall": {"teacher", "student"},
    "diversity": {"teacher", "student"},
    "class_share_min": float,
    "class_accuracy": {"teacher", "student"},
    "seconds": {"pretrain", "finetune", "total"},
    "images_per_second": {"teacher", "student"},
    "frozen_share": float,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory):
    """Run a short demo of few images; return its folder, what it reported, and a way to run it again."""
    out, rate = tmp_path_factory.mktemp("demo") / "out", digits.measure_rate
    with pytest.MonkeyPatch.context() as patch:
        for name in ("digits-pretrain", "digits-d2o-f"):
            patch.setitem(recipes.RECIPES, name, replace(recipes.RECIPES[name], duration=128))
        patch.setattr(digits, "IMAGES", 40)
        patch.setattr(digits, "SHOWN", tuple(range(10)))
        patch.setattr(digits, "measure_rate", lambda denoiser, steps, _: rate(denoiser, steps, 10))
        patch.setattr("d2o.pages.DOTS", 40)

        def again():
            return digits.demo(out, 3)

        yield out, again(), again


def test_report_has_the_keys_that_scripts_rely_on(demo) -> None:
    out, summary, _ = demo
    stored = json.loads((out / "report.json").read_text())
    assert stored == summary
    for key, kind in KEYS.items():
        if isinstance(kind, set):
            assert kind <= stored[key].keys(), key
            assert all(isinstance(stored[key][name], float) for name in kind), key
        else:
            assert isinstance(stored[key], kind), key
    assert stored["frozen_share"] == pytest.approx(0.8169, abs=1e-4)
    assert stored["seed"] == 3


def test_page_is_self_contained(demo) -> None:
    out, _, _ = demo
    page = (out / "report.html").read_text()
    assert page.count("<figure") == 5
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)', page))
    assert not re.search(r"https?://|<script|<link|@import|\$\{?[a-z]", page)


def test_run_again_changes_no_weights_and_is_refused_with_another_recipe(demo, monkeypatch) -> None:
    out, _, again = demo
    before = {path: path.read_bytes() for path in out.glob("*/*.safetensors")}
    assert len(before) >= 6
    again()
    assert {path: path.read_bytes() for path in out.glob("*/*.safetensors")} == before
    changed = replace(recipes.RECIPES["digits-d2o-f"], learning_rate=1.0)
    monkeypatch.setitem(recipes.RECIPES, "digits-d2o-f", changed)
    with pytest.raises(ValueError, match=r"student.*recipe\.learning_rate"):
        again()


def test_classifier_reads_real_digits() -> None:
    train, held_out = d2o.images("digits").split(1_500)
    found = digits.make_classifier(train)(held_out.pixels(range(len(held_out))))
    assert np.mean(found == held_out.labels) > 0.95
