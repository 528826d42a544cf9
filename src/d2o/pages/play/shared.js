// What all parts of the page share: what is chosen, and how sentences and pictures are shown.

import { draw } from "./pictures.js";

export const LARGE = 512; // pixels of a large picture's canvas, and of a small one's
export const SMALL = 128;

export const state = {
  engine: null,
  model: null,
  teacher: null,
  asked: null, // a class (number) or a prompt, or null for that of each seed
  view: "walk",
  playing: false,
  changed: true, // what is shown is of an older state
};

export const at = (id) => document.getElementById(id);

export function say(sentence) {
  // Show a sentence, or without one what is known of the model.
  const { name, image_shape: shape, parameters } = state.model;
  const facts = `${name}: ${shape[2]}×${shape[1]} pixels, ${parameters.toLocaleString("en")} parameters.`;
  at("status").textContent = sentence ?? `${facts} Move the slider: each image is one network call.`;
}

export function picture(image, label) {
  // Return a new small canvas that shows an image.
  const canvas = document.createElement("canvas");
  canvas.role = "img";
  canvas.ariaLabel = label;
  draw(canvas, image, SMALL);
  return canvas;
}
