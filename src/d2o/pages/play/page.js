// One-step images while a slider moves from seed to seed, beside the teacher's as it forms; many seeds; the way between two.

import { open } from "./engine.js";
import { draw, showPixels } from "./pictures.js";
import { LAST_SEED, readSeed, readSeeds, rounded, time } from "./text.js";

const SPAN = 8; // seeds that the slider passes
const PACE = 0.7; // seeds a second, when it walks by itself
const FRAMES_PER_SECOND = 12;
const REST = 250; // milliseconds without a move, after which the teacher begins
const LARGE = 512;
const SMALL = 128;
const at = (id) => document.getElementById(id);

let engine;
const state = { model: null, teacher: null, label: null, view: "walk", first: 0n, offset: 0, playing: false, changed: true };

function say(sentence) {
  const { name, image_shape: shape, parameters } = state.model;
  const facts = `${name}: ${shape[2]}×${shape[1]} pixels, ${parameters.toLocaleString("en")} parameters.`;
  at("status").textContent = sentence ?? `${facts} Move the slider: each image is one network call.`;
}

function picture(image, label, side = SMALL) {
  // Return a new canvas that shows an image.
  const canvas = document.createElement("canvas");
  canvas.role = "img";
  canvas.ariaLabel = label;
  draw(canvas, image, side);
  return canvas;
}

// The walk, and the teacher where it rests

function here() {
  const seed = state.first + BigInt(Math.floor(state.offset));
  return { seed, other: seed + 1n, share: state.offset % 1 };
}

const walk = {
  frames: [], // when those of the last second were shown
  milliseconds: 0,

  async show() {
    const point = here();
    const { pictures, milliseconds } = await engine.images(state.model, [point], state.label);
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
      times.push((await engine.images(state.model, [point], state.label)).milliseconds);
    }
    return times.sort((a, b) => a - b)[times.length >> 1];
  },

  play(seconds) {
    const next = state.offset + PACE * seconds;
    if (next >= SPAN) start(state.first + BigInt(SPAN), next - SPAN);
    else go(next);
  },
};

function go(offset) {
  state.offset = offset;
  at("slider").value = offset;
  state.changed = true;
}

function start(seed, offset = 0) {
  at("first").value = `${seed}`;
  state.first = readSeed(at("first"), LAST_SEED - BigInt(SPAN) - 1n);
  go(offset);
}

let forming = new AbortController();
let resting;

function teach() {
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
    for await (const stage of engine.stages(state.teacher, point, state.label, steps, signal)) {
      if (signal.aborted) return;
      last = stage;
      at("teacher-card").classList.remove("stale");
      draw(at("teacher-image"), stage.result, LARGE);
      at("teacher-image").ariaLabel = `The teacher's image after ${stage.calls} of ${calls} calls`;
      at("teacher-calls").textContent = stage.calls < calls ? `${stage.calls} of ${calls} calls` : `${calls} calls`;
      at("teacher-time").textContent = time(stage.milliseconds);
      at("teacher-name").textContent = state.teacher.name;
      const cell = document.createElement("div");
      const sigma = stage.sigma >= 10 ? stage.sigma.toFixed(0) : stage.sigma.toPrecision(1);
      cell.append(picture(stage.x, `Noise level ${sigma}`), picture(stage.guess, "Prediction"), `σ ${sigma}`);
      cells.push(cell);
      at("trail").replaceChildren(...cells);
    }
    const ratio = rounded(last.milliseconds) / rounded(walk.milliseconds);
    at("ratio").textContent = `${ratio < 10 ? ratio.toFixed(1) : ratio.toFixed(0)} times as long`;
  } catch (error) {
    if (!signal.aborted) say(error.message);
  }
}

// Many seeds

const grid = {
  async show() {
    const seeds = readSeeds(at("seeds").value);
    const points = seeds.map((seed) => ({ seed, other: seed, share: 0 }));
    const { pictures, milliseconds } = await engine.images(state.model, points, state.label);
    at("grid-time").textContent =
      `${seeds.length} images, one call each, computed together: ${time(milliseconds)}, ` +
      `${time(milliseconds / seeds.length)} an image. Choose one to walk from it.`;
    const tiles = seeds.map((seed, i) => {
      const button = document.createElement("button");
      button.append(picture(pictures[i], `The image of seed ${seed}`), `${seed}`);
      button.onclick = () => {
        start(seed);
        look("walk");
      };
      return button;
    });
    at("tiles").replaceChildren(...tiles);
  },
};

function save() {
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

// The way between two seeds

const between = {
  pictures: [],
  place: 0,

  async show() {
    const [seed, other, count] = [readSeed(at("start")), readSeed(at("end")), Number(at("count").value)];
    const points = Array.from({ length: count }, (_, i) => ({ seed, other, share: i / (count - 1) }));
    const label = state.label ?? (state.model.num_classes ? Number(seed % BigInt(state.model.num_classes)) : null);
    const { pictures, milliseconds } = await engine.images(state.model, points, label);
    between.pictures = pictures;
    const every = Math.ceil(count / 24);
    const kept = pictures.filter((_, i) => i % every === 0);
    at("strip").replaceChildren(...kept.map((image, i) => picture(image, `Image ${i * every + 1} of ${count}`)));
    at("count-shown").textContent = count;
    at("frame").max = count;
    at("between-time").textContent = `${count} images, one call each, computed together: ${time(milliseconds)}`;
    const movie = engine.movie(state.model, seed, other, label, count);
    at("movie").hidden = movie === null;
    [at("movie").href, at("movie").download] = [movie ?? "#", `seeds-${seed}-${other}.gif`];
    between.turn(Math.min(between.place, count - 1));
  },

  turn(place) {
    between.place = place;
    const i = Math.round(place);
    at("frame").value = i + 1;
    at("frame-shown").textContent = `${i + 1}`;
    draw(at("moving"), between.pictures[i], LARGE);
    at("moving").ariaLabel = `Image ${i + 1} of ${between.pictures.length}`;
  },

  play(seconds) {
    between.turn((between.place + FRAMES_PER_SECOND * seconds) % (between.pictures.length - 1));
  },
};

// What is chosen

const views = { walk, grid, between };

function play(playing) {
  state.playing = playing;
  for (const id of ["play", "run"]) at(id).textContent = playing ? "Pause" : "Play";
  state.changed = true;
}

function look(view) {
  state.view = view;
  document.querySelector(`input[value=${view}]`).checked = true;
  for (const name of Object.keys(views)) at(name).hidden = name !== view;
  play(false);
}

function options(select, values, names = values) {
  select.replaceChildren(...values.map((value, i) => new Option(names[i], value)));
  select.closest("label").hidden = values.length < 2;
}

function choose(model) {
  // Show a model, its classes, and beside it its teacher.
  state.model = model;
  const classes = [...Array(model.num_classes).keys()];
  options(at("class"), ["", ...classes], ["by seed", ...classes]);
  options(at("teacher"), model.teachers);
  state.label = null;
  at("notice").hidden = !model.notice;
  at("notice").textContent = model.notice;
  chooseTeacher(model.teachers[0]);
}

function chooseTeacher(name) {
  state.teacher = engine.models.find((model) => model.name === name) ?? null;
  at("teacher-card").hidden = at("teaching").hidden = !state.teacher;
  state.changed = true;
}

function listen() {
  const change = (id, action, event = "change") => at(id).addEventListener(event, () => action(at(id)));
  const again = () => (state.changed = true);
  change("model", ({ value }) => choose(engine.models.find(({ name }) => name === value)));
  change("teacher", ({ value }) => chooseTeacher(value));
  change("class", ({ value }) => again((state.label = value === "" ? null : Number(value))));
  change("pixels", ({ checked }) => showPixels(checked));
  document.querySelectorAll("[name=view]").forEach((radio) => radio.addEventListener("change", () => look(radio.value)));
  change("first", (input) => start(readSeed(input)));
  change("slider", ({ value }) => go(Number(value)), "input");
  change("steps", ({ value }) => (at("steps-shown").textContent = value), "input");
  change("steps", teach);
  change("play", () => play(!state.playing), "click");
  change("run", () => play(!state.playing), "click");
  change("frame", ({ value }) => between.turn(Number(value) - 1), "input");
  change("save", save, "click");
  ["seeds", "start", "end", "count"].forEach((id) => change(id, again));
}

async function loop() {
  // Show what has changed, one request after the other, and the newest state always last.
  for (let before = performance.now(); ; ) {
    const now = await new Promise((done) => requestAnimationFrame(done));
    if (state.playing) views[state.view].play?.(Math.min(now - before, 200) / 1000);
    before = now;
    if (!state.changed) continue;
    state.changed = false;
    try {
      await views[state.view].show();
      say();
    } catch (error) {
      say(error.message);
    }
  }
}

try {
  at("status").textContent = "Loading the model …";
  engine = await open();
  at("title").textContent = document.title = engine.title;
  const names = engine.models.map(({ name }) => name);
  options(at("model"), names);
  choose(engine.models[0]);
  listen();
  at("page").hidden = false;
  await loop();
} catch (error) {
  at("status").textContent = `The page cannot be shown: ${error.message ?? error}`;
  throw error;
}
