"""How long after the slider moved is the new image on the screen? `d2o app` in a headless Chromium.

python benchmarks/app_latency.py [MODEL]
"""

import shutil
import statistics
import sys

from playwright.sync_api import sync_playwright

from d2o.app.models import models
from d2o.app.server import serving

MOVES = 60
WATCH = """() => {
  window.times = []; let began = 0, last = '';
  const slider = document.querySelector('#position input[type=range]'), card = document.querySelector('#student');
  slider.addEventListener('input', () => { began ||= performance.now(); }, true);
  new MutationObserver(() => {
    const image = card.querySelector('img');
    if (!image || !began || image.src === last) return;
    last = image.src;
    image.decode().then(() => { if (began) { window.times.push(performance.now() - began); began = 0; } });
  }).observe(card, {childList: true, subtree: true, attributes: true});
}"""

with serving(models(sys.argv[1:])) as address, sync_playwright() as p:
    browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.goto(address)
    page.wait_for_function("document.querySelector('#teacher')?.innerText.includes('times as long')")
    page.evaluate(WATCH)
    box = page.locator("#position input[type=range]").bounding_box()
    assert box is not None
    left, middle, width = box["x"] + 8, box["y"] + box["height"] / 2, box["width"] - 16
    page.mouse.move(left, middle)
    page.mouse.down()
    for move in range(1, MOVES + 1):
        page.mouse.move(left + width * move / MOVES, middle)
        page.wait_for_timeout(120)
    times = sorted(page.evaluate("window.times"))
    print(
        f"{len(times)} images: median {statistics.median(times):.0f} ms, nine of ten below "
        f"{times[int(0.9 * len(times))]:.0f} ms, slowest {times[-1]:.0f} ms"
    )
    browser.close()
