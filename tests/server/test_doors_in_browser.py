"""A real browser at the server's doors: with its token in the address, from a link, and from a page of another site."""

import pytest

import needs
from browser import application_server, browsing, folder_server

from .offered import models

__all__ = ["models"]

needs.package("starlette")
needs.package("prometheus_client")

TOKEN = "s3cret+/="


@pytest.fixture(scope="module")
def visit():
    with browsing() as visit:
        yield visit


def serving(models, **options):
    from d2o.server.application import application

    name, denoiser = next(iter(models.denoisers.items()))
    return application_server(application(denoiser, name, page=models, **options))


def test_the_page_brings_its_token(visit, models, tmp_path):
    with serving(models, token=TOKEN) as address:
        seen = visit(f"{address}#token=s3cret%2B%2F%3D")
        page = seen.page
        page.wait_for_selector("#ratio:not(:empty)")
        page.locator("input[value=between]").check(force=True)
        page.wait_for_selector("#between-time:not(:empty)")
        with page.expect_download() as saved:
            page.click("#movie")
        saved.value.save_as(tmp_path / "a.gif")
        assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF89a")
        assert seen.complaints == [] and not any("s3cret" in url.partition("#")[0] for url in seen.asked)
        for fragment in ("", "#token=other"):
            other = page.context.browser.new_page()
            other.goto(f"{address}{fragment}")
            other.wait_for_selector("#status:has-text('#token=')")
            assert other.is_hidden("#page")


def test_another_site_gets_a_link_but_no_work(visit, models, tmp_path):
    with serving(models) as address, folder_server(tmp_path) as other:
        (tmp_path / "index.html").write_text(f"""<!doctype html><title>Elsewhere</title>
            <a id="page" href="{address}">page</a> <a id="work" href="{address}images?seeds=0">image</a>
            <img id="image" src="{address}images?seeds=0">""")
        page = visit(address).page.context.browser.new_page()
        counted = "async () => (await (await fetch('metrics')).text()).match(/d2o_images_total ([0-9.]+)/)[1]"
        page.goto(address)
        before = page.evaluate(counted)
        page.goto(other)
        assert page.evaluate("document.getElementById('image').naturalWidth") == 0
        with page.expect_response("**/images?seeds=0") as answer:
            page.click("#work")
        assert answer.value.status == 403
        page.goto(other)
        page.evaluate(f"""fetch("{address}page/images", {{ method: "POST", mode: "no-cors", body:
            '{{"model": "student.safetensors", "points": [["0", "0", 0]]}}' }}).catch(() => null)""")
        assert page.evaluate(f"fetch('{address}health').then(() => 'read', () => 'refused')") == "refused"
        page.click("#page")
        page.wait_for_selector("#student-time:not(:empty)")
        assert float(page.evaluate(counted)) - float(before) <= 6, "its own, which the page made"
