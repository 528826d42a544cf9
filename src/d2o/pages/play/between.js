// The way between two seeds, and from the prompt to the one that it is blended with, there and back.

import { draw } from "./pictures.js";
import { LARGE, at, make, picture, say, state } from "./shared.js";
import { readSeed, time } from "./text.js";

const FRAMES_PER_SECOND = 12;

export const between = {
  pictures: [],
  phase: 0, // of the way there and back

  async show() {
    const [seed, other, count] = [readSeed(at("start")), readSeed(at("end")), Number(at("count").value)];
    const { model, asked } = state; // also for the movie of what is shown, whatever is asked by then
    const shares = Array.from({ length: count }, (_, i) => i / (count - 1));
    const { pictures, milliseconds } = await make(shares.map((share) => ({ seed, other, share, blend: share })));
    between.pictures = pictures;
    const every = Math.ceil(count / 24);
    const kept = pictures.filter((_, i) => i % every === 0);
    at("strip").replaceChildren(...kept.map((image, i) => picture(image, `Image ${i * every + 1} of ${count}`)));
    at("count-shown").textContent = count;
    at("frame").max = count;
    at("between-time").textContent = `${count} images, one call each, computed together: ${time(milliseconds)}`;
    at("movie").hidden = state.engine.movie === null;
    at("movie").onclick = async () => {
      try {
        const link = document.createElement("a");
        link.href = URL.createObjectURL(await state.engine.movie(model, seed, other, asked, count));
        link.download = `seeds-${seed}-${other}.gif`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      } catch (error) {
        say(error.message);
      }
    };
    between.turn(Math.min(Number(at("frame").value), count) - 1);
  },

  turn(phase) {
    const last = between.pictures.length - 1;
    between.phase = phase % (2 * last);
    const i = Math.round(last - Math.abs(last - between.phase));
    at("frame").value = i + 1;
    at("frame-shown").textContent = `${i + 1}`;
    draw(at("moving"), between.pictures[i], LARGE);
    at("moving").ariaLabel = `Image ${i + 1} of ${between.pictures.length}`;
  },

  play(seconds) {
    if (between.pictures.length) between.turn(between.phase + FRAMES_PER_SECOND * seconds);
  },
};
