// Prompts: the box, styles and suggestions of the model's examples, and the sentence beside the box.

import { at, state } from "./shared.js";
import { findStyles, splitWords } from "./text.js";

const SUGGESTED = 6;
const LONGEST = 40; // characters of a suggestion

let styles = [];
let turned = 0; // how often other suggestions were asked for

export function offer(model, changed) {
  // Show what a model can be asked for, and call `changed` when something is.
  const prompts = model.prompts ?? [];
  styles = findStyles(prompts);
  for (const label of document.querySelectorAll("label.words")) label.hidden = !prompts.length;
  at("style").replaceChildren(...["", ...styles].map((style) => new Option(style || "any", style)));
  at("style").closest("label").hidden = !styles.length;
  at("suggestions").hidden = !prompts.length;
  at("towards").closest("label").hidden = !model.blends;
  for (const id of ["prompt", "towards"]) at(id).value = "";
  turned = 0;
  const bare = [...new Set(prompts.map(strip))];
  at("prompts").replaceChildren(...bare.map((prompt) => new Option(prompt)));
  suggest(bare.filter((prompt) => prompt.length <= LONGEST), changed);
  read();
}

function suggest(prompts, changed) {
  const apart = Math.max(1, Math.floor(prompts.length / SUGGESTED));
  const chosen = prompts.filter((_, i) => i % apart === turned % apart).slice(0, SUGGESTED);
  const choose = (prompt) => chip(prompt, () => changed((at("prompt").value = prompt)));
  const more = chip("more …", () => suggest(prompts, changed, turned++));
  at("suggestions").replaceChildren(...chosen.map(choose), ...(apart > 1 ? [more] : []));
}

function chip(text, action) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  button.onclick = action;
  return button;
}

const isStyled = (prompt) => styles.includes(splitWords(prompt)[0]);
const strip = (prompt) => (isStyled(prompt) ? prompt.trim().replace(/^\S+\s*/, "") : prompt);

function typed(id) {
  // Return what a box asks for in the chosen style, null for nothing.
  const [prompt, style] = [at(id).value.trim(), at("style").value];
  return prompt && style ? `${style} ${strip(prompt)}` : prompt || null;
}

export function read() {
  // Take what is asked from the page's boxes. A style without a prompt is one of what is suggested first.
  if (at("style").value && !at("prompt").value.trim()) at("prompt").value = at("suggestions").firstChild.textContent;
  const { value } = at("class");
  state.asked = { class: value === "" ? null : Number(value), prompt: typed("prompt"), towards: typed("towards") };
  state.blend = state.asked.towards === null ? 0 : Number(at("blend").value);
  at("blend").closest("label").hidden = state.asked.towards === null;
  at("blend-shown").textContent = `${Math.round(100 * state.blend)} %`;
}

export function tell(seed) {
  // Return what readers should know of the prompt, whose unknown words the last images went without.
  const { prompts = [] } = state.model;
  const { unknown = [] } = state;
  const words = unknown.map((word) => `“${word}”`).join(", ");
  if (words) return `The model does not know ${words}, and uses the other words.`;
  if (state.asked.prompt !== null || !prompts.length) return "";
  return `Without a prompt each seed uses its own; seed ${seed}: “${prompts[Number(seed % BigInt(prompts.length))]}”.`;
}
