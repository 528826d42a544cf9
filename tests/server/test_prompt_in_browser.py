"""The page in a real browser with a model that is asked in words: the box for a prompt, and who has none."""

import pytest

import d2o
import needs
from browser import application_server, browsing, wait_until
from d2o.data.files import to_uint8
from d2o.diffusion.sampling import generate

from .offered import examples_of

needs.package("starlette")
needs.package("prometheus_client")

PROMPT = "a large red circle at the left"


@pytest.fixture(scope="module")
def page():
    from d2o.server.application import application
    from d2o.server.models import Models

    names = ("shapes-small", "shapes-teacher", "digits-small")
    models = Models({name: d2o.load(name) for name in names}, {"shapes-small": "shapes-teacher"})
    made = application(models.denoisers["shapes-small"], "shapes-small", page=models)
    with application_server(made) as address, browsing() as visit:
        yield visit(address).page


def middle(page):
    """Return the colour of the student's image under the middle of its left half, where the prompt wants a shape."""
    script = "document.querySelector('#student').getContext('2d').getImageData(72, 120, 1, 1).data"
    return [*page.evaluate(f"[...{script}]")][:3]


def ask(page, prompt):
    page.fill("#prompt", prompt)
    page.press("#prompt", "Enter")


def test_the_box_is_there_for_a_model_that_reads_words_alone(page):
    assert page.is_visible("#prompt") and not page.is_visible("#class")
    assert page.locator("#prompts option").count() > 1
    page.select_option("#model", "digits-small")
    page.wait_for_selector("#class", state="visible")
    assert not page.is_visible("#prompt")
    page.select_option("#model", "shapes-small")
    page.wait_for_selector("#prompt", state="visible")


def test_what_is_typed_is_drawn_by_student_and_teacher(page):
    ask(page, PROMPT)
    expected = to_uint8(next(generate(d2o.load("shapes-small"), [0], condition=PROMPT)))[0][7, 4].astype(int)
    wait_until(lambda: max(abs(a - b) for a, b in zip(middle(page), expected, strict=True)) < 40)
    page.wait_for_selector("#ratio:not(:empty)")
    assert page.inner_text("#teacher-name") == "shapes-teacher"


def test_a_prompt_of_unknown_words_is_refused_until_the_next(page):
    ask(page, "circel")
    page.wait_for_selector("#said.wrong:has-text('circel')")
    ask(page, "red " * 40)
    page.wait_for_selector("#said.wrong:has-text('10 words')")
    ask(page, "")
    page.wait_for_selector("#said:not(.wrong)")
    assert examples_of("shapes-small")[0] in page.inner_text("#said"), "what seed 0 brings instead"


def test_words_that_are_left_out_are_named_beside_the_box(page):
    ask(page, f"{PROMPT} zyx")
    page.wait_for_selector("#said:not(.wrong):has-text('“zyx”')")
    expected = to_uint8(next(generate(d2o.load("shapes-small"), [0], condition=PROMPT)))[0][7, 4].astype(int)
    wait_until(lambda: max(abs(a - b) for a, b in zip(middle(page), expected, strict=True)) < 40)
    page.click("#suggestions button >> nth=0")
    page.wait_for_selector("#said:empty", state="attached")
    assert page.input_value("#prompt") == page.inner_text("#suggestions button >> nth=0")


def test_a_second_prompt_is_blended_with(page):
    assert page.is_hidden("#blend")
    ask(page, PROMPT)
    page.fill("#towards", PROMPT.replace("red", "blue"))
    page.press("#towards", "Enter")
    for key, colours in (("Home", (0, 2)), ("End", (2, 0))):
        page.focus("#blend")
        page.keyboard.press(key)
        wait_until(lambda colours=colours: middle(page)[colours[0]] > middle(page)[colours[1]] + 60)
    page.fill("#towards", "")
    page.press("#towards", "Enter")
    page.wait_for_selector("#blend", state="hidden")
