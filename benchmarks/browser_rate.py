"""How many images a second a page of `d2o export --to web` makes: python benchmarks/browser_rate.py FOLDER [SECONDS].

Headless Chromium opens the page and calls the network again and again, one image a call, then walks as a reader would.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "checkpoints"))
from browser import in_browser

SCRIPT = """
  const { load } = await import("/generator.js");
  const page = document.getElementById("page").contentDocument;
  const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  while (!page.getElementById("strip")?.children.length) await sleep(50);
  const generator = await load();
  const seconds = SECONDS;
  let images = 0;
  for (let i = 0; i < 20; i++) await generator.images([generator.noiseBetween(0n, i / 20)], [0]);
  const began = performance.now();
  for (; performance.now() - began < 1000 * seconds; images++)
    await generator.images([generator.noiseBetween(0n, (images % 100) / 100)], [0]);
  const rate = images / (performance.now() - began) * 1000;
  const start = performance.now();
  generator.noises.clear();
  for (let i = 0n; i < 20n; i++) generator.noise(i);
  const noise = (performance.now() - start) / 20;
  page.getElementById("play").click();
  await sleep(1000 * seconds);
  return { rate, noise, shown: page.getElementById("rate").textContent, facts: generator.facts };
"""

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        seconds = sys.argv[2] if len(sys.argv) > 2 else "5"
        found, _ = in_browser(Path(sys.argv[1]), SCRIPT.replace("SECONDS", seconds), Path(profile))
    facts = found["facts"]
    print(f"{facts['title']}: {facts['image_shape']}, {facts['parameters']:,} parameters")
    print(f"{found['rate']:.0f} images a second, one a call; noise of a new seed {found['noise']:.1f} ms")
    print(f"the page, walking, shows {found['shown']} frames a second")
