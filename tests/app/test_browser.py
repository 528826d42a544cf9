"""The page in a real browser without a window: sliders, clicks, uploads, and that nobody outside is asked."""

import json

import pytest

import needs

needs.package("gradio")
playwright = needs.package("playwright.sync_api")
SOON = 15_000
"""Milliseconds that something may take on a busy machine."""
NOTICE = "#notice:visible"
STUDENT, TEACHER, RANGE = "#student img", "#teacher", "#position input[type=range]"


@pytest.fixture(scope="module")
def browser():
    program = needs.chromium()
    with playwright.sync_playwright() as p:
        options = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = p.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser, served):
    """Return the page as it is opened; its requests and complaints are collected in `page.seen` and `page.wrong`."""
    page = browser.new_page(viewport={"width": 1280, "height": 1100}, accept_downloads=True)
    page.set_default_timeout(SOON)
    page.seen, page.wrong = [], []
    page.on("request", lambda request: page.seen.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    page.goto(served.address)
    page.wait_for_selector(STUDENT)
    page.wait_for_function("document.querySelectorAll('#trail img').length == 37")
    page.wait_for_function("document.querySelector('#teacher').innerText.includes('times as long')")
    return page


def tab(page, name):
    page.click(f"role=tab[name='{name}']")


def source(page, where=STUDENT):
    return page.get_attribute(where, "src")


def drag(page, share):
    """Move the slider to a share of its length, the button still held."""
    box = page.locator(RANGE).bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2, steps=4)


def test_it_opens_with_an_image_in_one_call_beside_the_teachers(page):
    assert source(page).startswith("data:image/png;base64,")
    assert "One call" in page.inner_text("#student") and "35 calls" in page.inner_text(TEACHER)
    assert "times as long" in page.inner_text(TEACHER)
    assert page.locator(NOTICE).count() == 0, "this model was made for one call"
    assert sum("queue/join" in url for url in page.seen) == 2, "the names of the models, and one drawing"


def test_the_slider_changes_the_image_while_it_moves(page):
    seen = [source(page)]
    drag(page, 0.2)
    page.wait_for_function(f"document.querySelector('{STUDENT}').src != {json.dumps(seen[-1])}")
    assert page.locator("#teacher figure.stale").count() == 1, "the teacher's image is of another noise now"
    seen.append(source(page))
    box = page.locator(RANGE).bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 2)
    page.wait_for_function(f"document.querySelector('{STUDENT}').src != {json.dumps(seen[-1])}")
    page.mouse.up()
    page.wait_for_function("!document.querySelector('#teacher figure.stale')")
    page.wait_for_function("document.querySelector('#teacher').innerText.includes('35 calls')")


def test_a_seed_and_a_class_change_it(page):
    before = source(page)
    page.fill("#seed input", "77")
    page.press("#seed input", "Enter")
    page.wait_for_function(f"document.querySelector('{STUDENT}').src != {json.dumps(before)}")
    before = source(page)  # seed 77 is of class 1
    page.click("#label input")
    page.click("role=option[name='0']")
    page.wait_for_function(f"document.querySelector('{STUDENT}').src != {json.dumps(before)}")


def test_it_walks_by_itself_until_it_is_stopped(page):
    at = float(page.input_value(RANGE))
    page.click("#play")
    page.wait_for_function(f"Math.abs(document.querySelector('{RANGE}').value - {at}) > 0.3")
    page.click("#play")
    page.wait_for_function("document.querySelector('#play').innerText.includes('Play')")
    page.wait_for_function("document.querySelector('#teacher').innerText.includes('35 calls')")


def test_a_grid_can_be_saved(page, tmp_path):
    tab(page, "Grid")
    page.wait_for_selector("#grid img")
    page.fill("#seeds textarea, #seeds input", "0-8")
    page.click("#draw")
    page.wait_for_function("document.querySelector('#grid').innerText.includes('9 images')")
    with page.expect_download() as saved:
        page.click("text=Save PNG")
    saved.value.save_as(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_seeds_are_told(page):
    page.fill("#seeds textarea, #seeds input", "9-1")
    page.click("#draw")
    page.wait_for_selector("text=runs backwards")


def test_an_interpolation_can_be_saved_as_a_gif(page, tmp_path):
    tab(page, "Interpolation")
    page.wait_for_selector("#interpolation img")
    with page.expect_download() as saved:
        page.click("text=Save GIF")
    saved.value.save_as(tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF89a")
    assert saved.value.suggested_filename == "seeds-8-18.gif"


def test_learning_curves_grow_while_the_run_trains(page, served):
    tab(page, "Learning")
    page.wait_for_function("document.querySelector('#progress').innerText.includes('72 of 144 images')")
    page.wait_for_selector("#losses canvas, #losses svg.marks")
    assert "0.123" in page.inner_text("#evaluations")
    with (served.runs / "first" / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"images": 80, "seconds": 10, "evaluation": {"images": 80, "kid": 0.077}}) + "\n")
    page.wait_for_function("document.querySelector('#progress').innerText.includes('80 of 144 images')")
    page.wait_for_function("document.querySelector('#evaluations').innerText.includes('0.077')")
    assert "live" in page.inner_text("#progress")


def choose_file(page, file):
    with page.expect_file_chooser() as chooser:
        page.click("#upload")
    chooser.value.set_files(file)


def test_a_bad_file_is_told_and_a_good_one_is_shown(page, served, tmp_path):
    tab(page, "Walk")
    bad = tmp_path / "bad.pkl"
    bad.write_bytes(b"no checkpoint")
    choose_file(page, bad)
    page.wait_for_selector("text=is no checkpoint that d2o knows")
    choose_file(page, served.checkpoint)
    page.wait_for_function(f"document.querySelector('#student').innerText.includes('{served.checkpoint.name}')")
    page.wait_for_function(f"document.querySelector('#teacher').innerText.includes('{served.checkpoint.name}')")
    page.wait_for_selector(f"{NOTICE}:has-text('many steps')")


def test_another_model_brings_its_teacher(page):
    page.click("#model input")
    page.click("role=option[name='digits-small']")
    page.wait_for_function("document.querySelector('#student').innerText.includes('digits-small')")
    page.wait_for_function("document.querySelector('#teacher').innerText.includes('digits-teacher')")
    page.wait_for_selector(NOTICE, state="detached")


def test_nobody_else_was_asked_and_nothing_complained(page, served):
    assert [url for url in page.seen if not url.startswith((served.address, "data:", "blob:"))] == []
    assert page.wrong == []
