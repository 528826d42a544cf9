// The page: what can be chosen, and the loop that shows it.

import { between } from "./between.js";
import { open } from "./engine.js";
import { grid, save } from "./grid.js";
import { showPixels } from "./pictures.js";
import { offer, read, tell } from "./prompts.js";
import { at, say, state } from "./shared.js";
import { readSeed } from "./text.js";
import { go, here, start, teach, walk } from "./walk.js";

const views = { walk, grid, between };
const TYPING = 400; // milliseconds without a letter, after which what was typed is asked for
let typing;

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
  // Show a model, what it can be asked for, and beside it its teacher.
  state.model = model;
  const classes = [...Array(model.num_classes).keys()];
  options(at("class"), ["", ...classes], ["by seed", ...(model.class_names ?? classes)]);
  options(at("teacher"), model.teachers);
  offer(model, ask);
  const { name, image_shape: shape, parameters } = model;
  at("status").textContent = `${name}: ${shape[2]}×${shape[1]} pixels, ${parameters.toLocaleString("en")} parameters.`;
  at("notice").hidden = !model.notice;
  at("notice").textContent = model.notice;
  chooseTeacher(model.teachers[0]);
}

function chooseTeacher(name) {
  const { models, teacher } = state.engine;
  state.teacher = [...models, teacher].find((model) => model?.name === name) ?? null;
  at("teacher-card").hidden = at("teaching").hidden = !state.teacher;
  state.changed = true;
}

function ask() {
  clearTimeout(typing);
  read();
  state.changed = true;
}

function listen() {
  const change = (id, action, event = "change") => at(id).addEventListener(event, () => action(at(id)));
  const again = () => (state.changed = true);
  change("model", ({ value }) => choose(state.engine.models.find(({ name }) => name === value)));
  change("teacher", ({ value }) => chooseTeacher(value));
  ["class", "style", "prompt", "towards"].forEach((id) => change(id, ask));
  change("blend", ask, "input");
  for (const id of ["prompt", "towards"]) {
    change(id, () => (clearTimeout(typing), (typing = setTimeout(ask, TYPING))), "input");
  }
  change("another", () => start(BigInt(Math.floor(Math.random() * 1e6))), "click");
  change("pixels", ({ checked }) => showPixels(checked));
  document.querySelectorAll("[name=view]").forEach((radio) => radio.addEventListener("change", () => look(radio.value)));
  change("first", (input) => start(readSeed(input)));
  change("slider", ({ value }) => go(Number(value)), "input");
  change("steps", ({ value }) => (at("steps-shown").textContent = value), "input");
  change("steps", teach);
  ["play", "run"].forEach((id) => change(id, () => play(!state.playing), "click"));
  change("frame", ({ value }) => between.turn(Number(value) - 1), "input");
  change("save", save, "click");
  ["seeds", "start", "end", "count"].forEach((id) => change(id, again));
}

async function loop() {
  // Show what has changed, one request after the other, and the newest state always last.
  for (let before = performance.now(); ; ) {
    const now = await new Promise((done) => requestAnimationFrame(done));
    const seconds = Math.min(now - before, 200) / 1000;
    before = now;
    try {
      if (state.playing) views[state.view].play(seconds);
      if (!state.changed) continue;
      state.changed = false;
      await views[state.view].show();
      say(tell(here().seed), false);
    } catch (error) {
      say(error.message);
    }
  }
}

try {
  at("status").textContent = "Loading the model …";
  state.engine = await open();
  at("title").textContent = document.title = state.engine.title;
  const names = state.engine.models.map(({ name }) => name);
  options(at("model"), names);
  choose(state.engine.models[0]);
  listen();
  at("page").hidden = false;
  await loop();
} catch (error) {
  at("status").textContent = `The page cannot be shown: ${error.message ?? error}`;
  throw error;
}
