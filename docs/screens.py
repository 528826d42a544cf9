"""Photograph the page of `d2o app` and of `d2o export emoji --to web`: python docs/screens.py [FOLDER].

Needs the development tools, and Chromium.
"""

import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from browser import application_server, browsing, folder_server, wait_until
from d2o.server.application import application
from d2o.server.models import offer_models

DESK, FILM = {"width": 1040, "height": 930}, {"width": 860, "height": 760}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "color_scheme": "dark"}
WORDS = ("smiling cat with heart eyes", "cowboy hat face", "red heart")
TOWARDS = "blue heart"
QUICK, SLOW = 90, 1_400
"""Milliseconds that a frame of the film is shown."""


def rest(page: Any) -> None:
    """Wait until the one-call image has its time, and the teacher's is complete."""
    wait_until(lambda: "times as long" in page.inner_text("#ratio"))
    page.wait_for_timeout(300)


def ask(page: Any, words: str, box: str = "#prompt") -> None:
    page.fill(box, words)
    page.press(box, "Enter")
    page.wait_for_timeout(900)


def slide(page: Any, slider: str, value: float) -> None:
    page.locator(slider).evaluate("(it, value) => { it.value = value; it.dispatchEvent(new Event('input')) }", value)
    page.wait_for_timeout(150)


def film(page: Any) -> Iterator[tuple[bytes, int]]:
    """Yield the frames of a visit, each with its milliseconds: words, a blend of two prompts, a walk through noise."""
    for words in WORDS:
        for end in range(2, len(words), 2):  # as it is typed, but for what the page would say of half a word
            page.locator("#prompt").evaluate("(it, words) => { it.value = words }", words[:end])
            yield page.screenshot(), QUICK
        ask(page, words)
        rest(page)
        yield page.screenshot(), SLOW
    ask(page, TOWARDS, "#towards")
    for share in range(21):
        slide(page, "#blend", share / 20)
        yield page.screenshot(), QUICK
    rest(page)
    yield page.screenshot(), SLOW
    for step in range(31):
        slide(page, "#slider", step / 10)
        yield page.screenshot(), QUICK
    rest(page)
    yield page.screenshot(), SLOW


def save_film(frames: Iterator[tuple[bytes, int]], place: Path) -> None:
    """Write frames as a GIF of one palette, from every fourth of them."""
    shown, times = zip(*((Image.open(io.BytesIO(data)).convert("RGB"), time) for data, time in frames), strict=True)
    (width, height), some = shown[0].size, shown[::4]
    colours = Image.new("RGB", (width, len(some) * height))
    for row, picture in enumerate(some):
        colours.paste(picture, (0, row * height))
    palette = colours.quantize(255)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in shown]
    pictures[0].save(place, save_all=True, append_images=pictures[1:], duration=list(times), loop=0, optimize=True)


def main(folder: Path) -> None:
    models = offer_models([])
    name, model = next(iter(models.denoisers.items()))
    with browsing() as visit:
        with application_server(application(model, name, page=models)) as address:
            page = visit(address, viewport=DESK).page
            ask(page, WORDS[-1])
            ask(page, TOWARDS, "#towards")
            slide(page, "#blend", 0.5)
            rest(page)
            page.screenshot(path=folder / "app.png")
            save_film(film(visit(address, viewport=FILM).page), folder / "app.gif")
            page = visit(address, **PHONE).page
            ask(page, WORDS[0])
            rest(page)
            page.screenshot(path=folder / "app-phone.png")
        with tempfile.TemporaryDirectory() as place:
            words = ["export", "emoji", "--to", "web", "page", "--title", "Type a word, see a picture"]
            subprocess.run([sys.executable, "-m", "d2o", *words], cwd=place, check=True)
            with folder_server(Path(place) / "page") as address:
                page = visit(address, viewport=DESK).page
                ask(page, WORDS[0])
                rest(page)
                page.screenshot(path=folder / "web.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "images")
