// What all parts of the page share: what is chosen, and how sentences and pictures are shown.

import { draw } from "./pictures.js";

export const LARGE = 256; // pixels of a large picture's canvas, and of a small one's
export const SMALL = 128;

export const state = {
  engine: null,
  model: null,
  teacher: null,
  asked: {}, // a class (number), a prompt, and one towards which it is blended; what is null is that of each seed
  blend: 0, // a share of the way between the two prompts
  unknown: [], // words of them that the last images went without
  view: "walk",
  playing: false,
  changed: true, // what is shown is of an older state
};

export const at = (id) => document.getElementById(id);

export function say(sentence, wrong = true) {
  // Show a sentence beside the box, as a rule about what is wrong.
  at("said").textContent = sentence;
  at("said").classList.toggle("wrong", wrong);
}

export async function make(points) {
  // Return the images of points {seed, other, share}, blended as it is chosen where they do not say how.
  const made = await state.engine.images(state.model, points.map((point) => ({ blend: state.blend, ...point })), state.asked);
  state.unknown = made.unknown;
  return made;
}

export function picture(image, label) {
  // Return a new small canvas that shows an image.
  const canvas = document.createElement("canvas");
  canvas.role = "img";
  canvas.ariaLabel = label;
  draw(canvas, image, SMALL);
  return canvas;
}
