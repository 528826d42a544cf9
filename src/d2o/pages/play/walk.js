// The walk from seed to seed: an image in one call while the slider moves, and where it rests the teacher's as it forms.

import { draw } from "./pictures.js";
import { LARGE, at, make, picture, say, state } from "./shared.js";
import { LAST_SEED, compare, multiply, readSeed, time } from "./text.js";

const SPAN = 8; // seeds that the slider passes
const PACE = 0.7; // seeds a second, when it walks by itself
const REST = 250; // milliseconds without a move, after which the teacher begins

export function here() {
  const seed = walk.first + BigInt(Math.floor(walk.offset));
  return { seed, other: seed + 1n, share: walk.offset % 1, blend: state.blend };
}

export const walk = {
  first: 0n, // the seed that the slider begins at, and how many seeds further it is
  offset: 0,
  frames: [], // when those of the last second were shown
  milliseconds: 0,

  async show() {
    const point = here();
    const { pictures, milliseconds } = await make([point]);
    const now = performance.now();
    walk.frames = [...walk.frames.filter((shown) => now - shown < 1000), now];
    const name = point.share ? `${point.seed} + ${point.share.toFixed(2)}` : `${point.seed}`;
    draw(at("student"), pictures[0], LARGE);
    at("student").ariaLabel = `The image of seed ${name} in one call of ${state.model.name}`;
    walk.took(milliseconds);
    at("rate").textContent = state.playing && walk.frames.length > 1 ? `${walk.frames.length} images a second` : "";
    at("student-name").textContent = state.model.name;
    at("position").textContent = name;
    at("slider").ariaValueText = `seed ${name}`;
    teach();
  },

  took(milliseconds) {
    walk.milliseconds = milliseconds;
    at("student-time").textContent = time(milliseconds);
  },

  async timeAgain(point) {
    // Show the median time of this very image: a single call may have been interrupted.
    const times = [walk.milliseconds];
    for (let all = times[0]; times.length < 5 && all < 1000; all += times.at(-1)) {
      times.push((await make([point])).milliseconds);
    }
    return times.sort((a, b) => a - b)[times.length >> 1];
  },

  play(seconds) {
    const next = walk.offset + PACE * seconds;
    if (next >= SPAN) start(walk.first + BigInt(SPAN), next - SPAN);
    else go(next);
  },
};

export function go(offset) {
  walk.offset = offset;
  at("slider").value = offset;
  state.changed = true;
}

export function start(seed, offset = 0) {
  at("first").value = `${seed}`;
  walk.first = readSeed(at("first"), LAST_SEED - BigInt(SPAN) - 1n);
  go(offset);
}

let forming = new AbortController();
let resting;

export function teach() {
  // Say that the teacher's image is of another place, and begin a new one as soon as nothing moves.
  forming.abort();
  clearTimeout(resting);
  at("teacher-card").classList.add("stale");
  at("ratio").textContent = "";
  if (state.teacher && !state.playing) resting = setTimeout(form, REST);
}

async function form() {
  forming = new AbortController();
  const { signal } = forming;
  const [point, steps] = [here(), Number(at("steps").value)];
  const calls = 2 * steps - 1;
  try {
    let last;
    const cells = [];
    const median = await walk.timeAgain(point);
    if (signal.aborted) return;
    walk.took(median);
    for await (const stage of state.engine.stages(state.teacher, point, state.asked, steps, signal)) {
      if (signal.aborted) return;
      last = stage;
      at("teacher-card").classList.remove("stale");
      draw(at("teacher-image"), stage.result, LARGE);
      at("teacher-image").ariaLabel = `The teacher's image after ${stage.calls} of ${calls} calls`;
      at("teacher-calls").textContent = stage.calls < calls ? `${stage.calls} of ${calls} calls` : `${calls} calls`;
      const { each, all } = multiply(stage.calls, stage.milliseconds);
      at("teacher-each").textContent = `× ${time(each)} =`;
      at("teacher-time").textContent = time(all);
      at("teacher-name").textContent = state.teacher.name;
      const cell = document.createElement("div");
      const sigma = stage.sigma > 1e6 ? "∞" : stage.sigma >= 10 ? stage.sigma.toFixed(0) : stage.sigma.toPrecision(1);
      cell.append(picture(stage.x, `Noise level ${sigma}`), picture(stage.guess, "Prediction"), `σ ${sigma}`);
      cells.push(cell);
      at("trail").replaceChildren(...cells);
    }
    if (!signal.aborted) at("ratio").textContent = compare(multiply(calls, last.milliseconds).all, walk.milliseconds);
  } catch (error) {
    if (!signal.aborted) say(error.message);
  }
}
