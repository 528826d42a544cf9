// The images of many seeds.

import { at, make, picture } from "./shared.js";
import { readSeeds, time } from "./text.js";
import { start } from "./walk.js";

export const grid = {
  async show() {
    const seeds = readSeeds(at("seeds").value);
    const points = seeds.map((seed) => ({ seed, other: seed, share: 0 }));
    const { pictures, milliseconds } = await make(points);
    at("grid-time").textContent =
      `${seeds.length} images, one call each, computed together: ${time(milliseconds)}, ` +
      `${time(milliseconds / seeds.length)} an image. Choose one to walk from it.`;
    const tiles = seeds.map((seed, i) => {
      const button = document.createElement("button");
      button.append(picture(pictures[i], `The image of seed ${seed}`), `${seed}`);
      button.onclick = () => {
        start(seed);
        document.querySelector("input[value=walk]").click();
      };
      return button;
    });
    at("tiles").replaceChildren(...tiles);
  },
};

export function save() {
  // Give the link the shown tiles as one picture.
  const tiles = [...at("tiles").querySelectorAll("canvas")];
  const columns = Math.ceil(Math.sqrt(tiles.length));
  const sheet = document.createElement("canvas");
  const { width = 1, height = 1 } = tiles[0] ?? {};
  [sheet.width, sheet.height] = [columns * width, Math.ceil(tiles.length / columns) * height];
  const context = sheet.getContext("2d");
  tiles.forEach((tile, i) => context.drawImage(tile, (i % columns) * width, Math.floor(i / columns) * height));
  at("save").href = sheet.toDataURL();
}
