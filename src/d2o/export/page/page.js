// What people see: a slider that walks from seed to seed, a class, the image, and how fast it comes.

import { load } from "./generator.js";

const LAST_SEED = 2n ** 63n - 1n;
const SPAN = 16; // seeds that the slider reaches
const SHOWN = 8; // seeds in the strip
const at = (id) => document.getElementById(id);

const state = { first: 0n, offset: 0, playing: false, chosen: null, changed: true, frames: [] };

function say(text) {
  at("status").textContent = text;
}

function draw(canvas, picture) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function classAt(generator, seed) {
  return state.chosen ?? generator.classOf(seed);
}

async function frame(generator) {
  // Make and show the image at the slider.
  const seed = state.first + BigInt(Math.floor(state.offset));
  const began = performance.now();
  const noise = generator.noiseBetween(seed, state.offset % 1);
  const images = await generator.images([noise], [classAt(generator, seed)]);
  const now = performance.now();
  draw(at("image"), generator.pixels(images));
  state.frames = [...state.frames.filter((time) => now - time < 1000), now];
  at("milliseconds").textContent = (now - began).toFixed(1);
  at("rate").textContent = state.frames.length > 1 ? String(state.frames.length) : "–";
  at("position").textContent = state.offset % 1 ? `${seed} + ${(state.offset % 1).toFixed(2)}` : `${seed}`;
}

async function strip(generator) {
  // Show whole seeds, made in one call: click one to go there.
  const seeds = Array.from({ length: SHOWN }, (_, i) => state.first + BigInt(2 * i));
  const images = await generator.images(
    seeds.map((seed) => generator.noise(seed)),
    seeds.map((seed) => classAt(generator, seed)),
  );
  at("strip").replaceChildren(
    ...seeds.map((seed, i) => {
      const button = document.createElement("button");
      const canvas = document.createElement("canvas");
      draw(canvas, generator.pixels(images, i));
      button.append(canvas, `${seed}`);
      button.onclick = () => go(2 * i);
      return button;
    }),
  );
}

function go(offset) {
  state.offset = offset;
  at("slider").value = String(offset);
  state.changed = true;
}

function from(seed) {
  // Let the slider begin at a seed, as far as seeds go.
  const most = LAST_SEED - BigInt(SPAN);
  state.first = seed < 0n ? 0n : seed > most ? most : seed;
  at("first").value = String(state.first);
  state.stale = true;
  go(0);
}

function controls(generator) {
  at("slider").max = String(SPAN);
  at("slider").oninput = (event) => go(Number(event.target.value));
  at("play").onclick = () => {
    state.playing = !state.playing;
    at("play").textContent = state.playing ? "Pause" : "Walk";
    state.changed = true;
  };
  at("first").onchange = (event) => from(/^\d{1,19}$/.test(event.target.value) ? BigInt(event.target.value) : 0n);
  at("random").onclick = () => from(BigInt(Math.floor(Math.random() * 2 ** 31)));
  const classes = generator.facts.num_classes;
  at("classes").hidden = !classes;
  const options = ["as the seed", ...Array(classes).keys()].map((name, i) => new Option(name, i ? i - 1 : ""));
  at("class").replaceChildren(...options);
  at("class").onchange = (event) => {
    state.chosen = event.target.value === "" ? null : Number(event.target.value);
    state.stale = state.changed = true;
  };
}

async function loop(generator) {
  let before = performance.now();
  for (;;) {
    const now = await new Promise((done) => requestAnimationFrame(done));
    if (state.playing) {
      const next = state.offset + Math.max(0, Math.min(now - before, 200)) / 1500;
      if (next >= SPAN) from(state.first + BigInt(SPAN));
      else go(next);
    }
    before = now;
    if (state.stale) {
      state.stale = false;
      await strip(generator);
    }
    if (state.changed) {
      state.changed = false;
      await frame(generator);
    }
  }
}

try {
  say("Loading the model …");
  const generator = await load();
  const { title, image_shape: shape, parameters } = generator.facts;
  at("name").textContent = document.title = title;
  say(`${shape[2]}×${shape[1]} pixels, ${parameters.toLocaleString("en")} parameters, computed in this browser`);
  controls(generator);
  from(0n);
  at("page").hidden = false;
  await loop(generator);
} catch (error) {
  say(`The model cannot be shown: ${error.message ?? error}`);
  throw error;
}
