"""The page beside its teacher in a real browser: what forms step by step, and times that belong to what is shown."""

import re

import pytest

import needs
from browser import application_server, browsing, wait_until

from .offered import models

__all__ = ["models"]

needs.package("starlette")
needs.package("prometheus_client")


@pytest.fixture(scope="module")
def visit(models):
    from d2o.server.application import application

    name, denoiser = next(iter(models.denoisers.items()))
    with application_server(application(denoiser, name, page=models)) as address, browsing() as visit:
        yield visit(address)


@pytest.fixture
def page(visit):
    visit.page.wait_for_selector("#ratio:not(:empty)")
    return visit.page


def milliseconds(page, place, before="", after=" ms"):
    return float(page.inner_text(place).removeprefix(before).removesuffix(after).replace(",", ""))


def check_ratio(page):
    """Compare the ratio that is shown with the two times that are shown, and one of them with the calls."""
    each = milliseconds(page, "#teacher-each", "× ", " ms =")
    calls = int(page.inner_text("#teacher-calls").split()[0])
    assert abs(calls * each - milliseconds(page, "#teacher-time")) <= 0.5 + 0.05 * calls
    ratio = milliseconds(page, "#teacher-time") / milliseconds(page, "#student-time")
    expected = f"{ratio:.1f}" if ratio < 10 else str(int(ratio + 0.5))
    assert page.inner_text("#ratio") == f"{expected} times as long"


def test_times_belong_to_what_is_shown(page):
    assert page.inner_text("#teacher-calls") == "35 calls" and page.inner_text("figure.student b") == "1 call"
    assert page.inner_text("#student-name") == "student.safetensors"
    assert page.inner_text("#teacher-name") == "teacher.safetensors"
    check_ratio(page)


def test_the_teachers_image_forms_step_by_step(page):
    assert page.locator("#trail div").count() == 18
    labels = page.locator("#trail div").all_inner_texts()
    sigmas = [float(re.sub(r"\s*σ ", "", label)) for label in labels]
    assert sigmas[0] == 80 and sigmas == sorted(sigmas, reverse=True)
    page.focus("#steps")
    page.keyboard.press("Home")
    page.wait_for_selector("#teacher-calls:text-is('3 calls')")
    page.wait_for_selector("#ratio:not(:empty)")
    assert page.locator("#trail div").count() == 2
    check_ratio(page)


def test_another_place_makes_the_teachers_image_old(page):
    page.click("#play")
    page.wait_for_selector("#teacher-card.stale")
    assert page.inner_text("#ratio") == ""
    page.click("#play")
    page.wait_for_selector("#teacher-card:not(.stale)")
    page.wait_for_selector("#ratio:not(:empty)")
    check_ratio(page)


def test_another_model_brings_its_teacher_and_its_classes(page):
    assert page.locator("#class option").count() == 3
    page.select_option("#model", "cifar10-small")
    page.wait_for_selector("#student-name:text-is('cifar10-small')")
    page.wait_for_selector("#teacher-name:text-is('cifar10-small-teacher')")
    assert page.locator("#class option").count() == 11 and page.is_hidden("#notice")
    page.select_option("#model", "digits-teacher")
    page.wait_for_selector("#notice:has-text('many steps')")
    page.select_option("#model", "digits-small")
    page.wait_for_selector("#teacher-name:text-is('digits-teacher')")
    wait_until(lambda: page.is_hidden("#notice"))


def test_the_way_between_two_seeds_can_be_saved(page, tmp_path):
    page.locator("input[value=between]").check(force=True)
    page.wait_for_selector("#between-time:not(:empty)")
    with page.expect_download() as saved:
        page.click("#movie")
    saved.value.save_as(tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF89a")
    assert saved.value.suggested_filename == "seeds-8-18.gif"
    page.locator("input[value=walk]").check(force=True)


def test_a_server_that_is_gone_is_said(visit, page):
    page.route("**/page/images", lambda route: route.fulfill(status=503, body='{"error": "Too much at once."}'))
    page.fill("#first", "5")
    page.press("#first", "Enter")
    page.wait_for_selector("#said:has-text('Too much at once.')")
    page.unroute("**/page/images")
    page.fill("#first", "6")
    page.press("#first", "Enter")
    page.wait_for_selector("#position:text-is('6')")
    assert [url for url in visit.asked if not url.startswith((visit.address, "data:", "blob:"))] == []
