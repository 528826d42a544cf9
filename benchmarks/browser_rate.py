"""How many images a second a page of `d2o export --to web` makes: python benchmarks/browser_rate.py FOLDER [SECONDS].

Headless Chromium opens the page and calls the network again and again, one image a call, then walks as a reader would.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from browser import browsing, folder_server

MEASURE = """async (seconds) => {
  const { open, run, noiseAt } = await import("./engine.js");
  const [model] = (await open()).models;
  const point = (i) => ({ seed: 0n, other: 1n, share: (i % 100) / 100 });
  for (let i = 0; i < 20; i++) await run(model, [point(i)]);
  let images = 0;
  const began = performance.now();
  for (; performance.now() - began < 1000 * seconds; images++) await run(model, [point(images)]);
  const rate = (images / (performance.now() - began)) * 1000;
  const start = performance.now();
  const size = model.image_shape.reduce((a, b) => a * b);
  for (let seed = 1000n; seed < 1020n; seed++) noiseAt({ seed, other: seed, share: 0 }, size);
  return { rate, noise: (performance.now() - start) / 20, model };
}"""

if __name__ == "__main__":
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    with folder_server(folder) as address, browsing() as visit:
        page = visit(address).page
        found = page.evaluate(MEASURE, seconds)
        page.click("#play")
        page.wait_for_timeout(1000 * max(seconds, 1))
        shown = page.inner_text("#rate")
    model = found["model"]
    print(f"{model['title']}: {model['image_shape']}, {model['parameters']:,} parameters")
    print(f"{found['rate']:.0f} images a second, one a call; noise of a new seed {found['noise']:.1f} ms")
    print(f"the page, walking, shows {shown}")
