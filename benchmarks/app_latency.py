"""How long after the slider moved is the new image on the screen? The page of `d2o app` in a headless Chromium.

python benchmarks/app_latency.py [MODEL]
"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from browser import application_server, browsing
from d2o.server.application import application
from d2o.server.models import offer_models

MOVES = 60
WATCH = """() => {
  window.times = [];
  let began = 0;
  document.getElementById("slider").addEventListener("input", () => { began ||= performance.now(); }, true);
  new MutationObserver(() => {
    if (began) requestAnimationFrame(() => { window.times.push(performance.now() - began); began = 0; });
  }).observe(document.getElementById("position"), { childList: true, characterData: true, subtree: true });
}"""


def main() -> None:
    models = offer_models(sys.argv[1:])
    name, denoiser = next(iter(models.denoisers.items()))
    with application_server(application(denoiser, name, page=models)) as address, browsing() as visit:
        page = visit(address).page
        page.wait_for_selector("#ratio:not(:empty)")
        page.evaluate(WATCH)
        box = page.locator("#slider").bounding_box()
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


if __name__ == "__main__":
    main()
