"""The page in a real browser, from the local server and from an exported folder: what both let their reader do."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import needs
from browser import application_server, browsing, folder_server, wait_until
from conftest import make_denoiser
from d2o.checkpoints import CheckpointError
from d2o.data.files import to_uint8
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import generate
from d2o.export import export, runtime

from .offered import models

__all__ = ["models"]

needs.package("starlette")
needs.package("prometheus_client")

PHONE = {"viewport": {"width": 360, "height": 740}}


@pytest.fixture(scope="module")
def visit():
    with browsing() as visit:
        yield visit


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a tiny model, and the address of the page that it was exported to."""
    needs.package("onnxruntime")
    needs.package("onnxscript")
    folder = tmp_path_factory.mktemp("page") / "web"
    denoiser = make_denoiser(channels=3, classes=4)
    try:
        export(denoiser, folder, "web", title="Four kinds", teacher=make_denoiser(1, channels=3, classes=4))
    except CheckpointError as error:
        needs.missing(f"onnxruntime-web is not here ({runtime.VARIABLE} may name its npm package): {error}")
    with folder_server(folder) as address:
        yield denoiser, address


@pytest.fixture(scope="module", params=["server", "folder"])
def address(request, models):
    """Return where the page is: at the local server, or on a static one."""
    if request.param == "folder":
        yield request.getfixturevalue("exported")[1]
        return
    from d2o.server.application import application

    name, denoiser = next(iter(models.denoisers.items()))
    with application_server(application(denoiser, name, page=models)) as address:
        yield address


@pytest.fixture(scope="module")
def desktop(visit, address):
    return visit(address)


def shown(page, canvas="#student"):
    """Return what a canvas shows as uint8 [H,W,4]."""
    return np.asarray(Image.open(io.BytesIO(page.locator(canvas).screenshot())).convert("RGBA"))


def drawing(page, canvas="#student"):
    return page.evaluate(f"document.querySelector('{canvas}').toDataURL()")


def view(page, name):
    page.locator(f"input[value={name}]").check(force=True)


def width_needed(page):
    return page.evaluate("document.documentElement.scrollWidth")


def test_it_opens_with_an_image_that_is_large_and_smooth(desktop):
    page = desktop.page
    box = page.locator("#student").bounding_box()
    assert box["width"] >= 256 and box["height"] >= 256
    smooth = shown(page)
    page.check("#pixels")
    raw = shown(page)
    page.uncheck("#pixels")
    assert steps(raw) < 0.1 < 0.5 < steps(smooth), "8 pixels a side, or changes everywhere between them"
    assert "1 call" in page.inner_text("figure.student") and " ms" in page.inner_text("#student-time")


def steps(pixels):
    """Return the share of neighbours, in the middle of a picture, that differ."""
    inner = pixels[20:-20, 20:-20, :3].astype(int)
    return (np.abs(np.diff(inner, axis=1)).max(-1) > 0).mean()


def test_arrow_keys_walk(desktop):
    page = desktop.page
    before = drawing(page)
    page.focus("#slider")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#position:text-is('0 + 0.05')")
    wait_until(lambda: drawing(page) != before)
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#position:text-is('0')")
    wait_until(lambda: drawing(page) == before)


def test_every_control_is_reached_by_the_tab_key_and_has_a_name(desktop):
    page = desktop.page
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert {"class", "pixels", "view", "first", "slider", "play"} <= set(reached)
    page.focus("#play")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for control in page.locator("input, select").all():
        assert control.evaluate("(control) => control.labels.length") == 1
    for canvas in page.locator("#walk canvas[role=img]:visible").all():
        assert canvas.get_attribute("aria-label")


def test_it_walks_by_itself_until_it_is_stopped(desktop):
    page = desktop.page
    page.click("#play")
    wait_until(lambda: float(page.input_value("#slider")) > 0.3)
    assert "images a second" in page.inner_text("#rate")
    page.click("#play")
    assert page.inner_text("#play") == "Play"


def test_a_seed_and_a_class_change_the_image(desktop):
    page = desktop.page
    page.fill("#first", f"{2**53 + 1}")
    page.press("#first", "Enter")
    page.wait_for_selector(f"#position:text-is('{2**53 + 1}')")
    before = drawing(page)  # of class 1
    page.select_option("#class", "0")
    wait_until(lambda: drawing(page) != before)
    page.select_option("#class", "1")
    wait_until(lambda: drawing(page) == before)
    page.select_option("#class", "")
    page.fill("#first", "none")
    page.press("#first", "Enter")
    page.wait_for_selector("#position:text-is('0')")


def test_a_grid_of_seeds_leads_to_each_and_can_be_saved(desktop, tmp_path):
    page = desktop.page
    view(page, "grid")
    page.fill("#seeds", "0-7,77")
    page.press("#seeds", "Enter")
    page.wait_for_selector("#grid-time:has-text('9 images')")
    assert page.locator("#tiles canvas").count() == 9
    with page.expect_download() as saved:
        page.click("#save")
    saved.value.save_as(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (3 * 128, 3 * 128)
    page.fill("#seeds", "9-1")
    page.press("#seeds", "Enter")
    page.wait_for_selector("#said:has-text('backwards')")
    page.click("#tiles button:has-text('77')")
    page.wait_for_selector("#position:text-is('77')")
    assert page.is_visible("#walk") and not page.is_visible("#grid")


def test_the_way_between_two_seeds_is_shown(desktop):
    page = desktop.page
    view(page, "between")
    page.fill("#start", "1")
    page.fill("#end", "6")
    page.press("#end", "Enter")
    page.wait_for_selector("#between-time:has-text('24 images')")
    assert page.locator("#strip canvas").count() == 24
    first = drawing(page, "#moving")
    page.focus("#frame")
    page.keyboard.press("End")
    page.wait_for_selector("#frame-shown:text-is('24')")
    assert drawing(page, "#moving") != first
    page.click("#run")
    wait_until(lambda: page.input_value("#frame") not in ("1", "24"))
    page.click("#run")
    view(page, "walk")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colours(visit, address, scheme):
    page = visit(address, color_scheme=scheme, **PHONE).page
    for name, content in {"grid": "#tiles canvas", "between": "#strip canvas", "walk": "#student"}.items():
        view(page, name)
        page.wait_for_selector(content)
        assert width_needed(page) <= 360, name
    assert page.locator("#student").bounding_box()["width"] >= 256
    paper, ink = page.evaluate("['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name])")
    brightness = [int(color.split("(")[1].split(",")[0]) for color in (paper, ink)]
    assert brightness == sorted(brightness, reverse=scheme == "light"), (paper, ink)
    page.close()


def test_nobody_else_was_asked_and_nothing_complained(desktop):
    page = desktop.page
    assert [url for url in desktop.asked if not url.startswith((desktop.address, "data:", "blob:"))] == []
    assert desktop.complaints == []
    elsewhere = "fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'refused')"
    assert page.evaluate(elsewhere) == "refused"
    assert any("Content Security Policy" in complaint for complaint in desktop.complaints)


class TestEngineInTheBrowser:
    @pytest.fixture(scope="class")
    def found(self, visit, exported):
        """Return what the exported page's engine makes, and the model."""
        denoiser, address = exported
        page = visit(address).page
        found = page.evaluate("""async () => {
            const { open, run, noiseAt } = await import("./engine.js");
            const engine = await open();
            const [model] = engine.models;
            const points = [0n, 5n, 9007199254740993n].map((seed) => ({ seed, other: seed, share: 0 }));
            const { images } = await run(model, points);
            const { pictures } = await engine.images(model, points, {});
            const stages = [];
            const point = { seed: 6n, other: 6n, share: 0 };
            const { signal } = new AbortController();
            for await (const stage of engine.stages(engine.teacher, point, {}, 3, signal)) stages.push(stage);
            const halfway = noiseAt({ seed: 5n, other: 6n, share: 0.5 }, 192);
            return { images: [...images], halfway: [...halfway], colours: [...pictures[1].data],
              calls: stages.map(({ calls }) => calls), taught: [...stages.at(-1).result.data],
              title: document.title, status: document.getElementById("status").textContent };
        }""")
        return denoiser, found

    def test_images_are_those_of_torch(self, found):
        denoiser, found = found
        expected = next(generate(denoiser, [0, 5, 2**53 + 1]))
        images = torch.tensor(found["images"]).view(expected.shape)
        assert (images - expected).abs().max() < 1e-3
        colours = np.array(found["colours"], int).reshape(8, 8, 4)
        assert (
            np.abs(colours[..., :3] - to_uint8(expected)[1].astype(int)).max() <= 1 and (colours[..., 3] == 255).all()
        )

    def test_its_teachers_stages_end_in_the_image_of_many_steps(self, found):
        _, found = found
        expected = to_uint8(next(generate(make_denoiser(1, channels=3, classes=4), [6], steps=3)))[0].astype(int)
        assert found["calls"] == [2, 4, 5]
        assert np.abs(np.array(found["taught"], int).reshape(8, 8, 4)[..., :3] - expected).max() <= 1

    def test_between_two_seeds_the_noise_stays_on_the_sphere(self, found):
        a, b = noise_for([5, 6], (3, 8, 8)).flatten(1).double()
        angle = torch.acos(a @ b / (a.norm() * b.norm()))
        expected = (a + b) * (angle / 2).sin() / angle.sin()
        assert torch.allclose(torch.tensor(found[1]["halfway"]).double(), expected, atol=1e-5)

    def test_its_title_and_size_are_told(self, found):
        assert found[1]["title"] == "Four kinds" and "8×8 pixels" in found[1]["status"]
