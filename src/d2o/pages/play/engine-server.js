// Images from the server that this page came from. Another engine makes them in the browser (engine-browser.js).
//
// An engine has `title` and `models` ({name, image_shape, num_classes, parameters, prompts, blends, notice, teachers}), and
// makes
//   images(model, points, asked) -> {pictures: [ImageData], milliseconds, unknown: [word]}, one network call each
//   stages(model, point, asked, steps, signal) -> stages of a teacher's sampler, one after the other
//   movie(model, first, second, asked, frames) -> the bytes of a GIF (Blob); null where there are none
// A point is {seed, other, share, blend}: a share (0 to 1) of the way between the noises of two seeds (BigInt), and one of
// the way between prompts. What is asked is {class, prompt, towards}: a number; of a model with `prompts` as examples a text;
// of one that `blends` a second text; null stands for that of each seed. What cannot be made is an Error with a sentence.

import { toPicture } from "./pictures.js";

export async function open() {
  return { ...(await (await ask("page/models")).json()), images, stages, movie };
}

const token = new URLSearchParams(location.hash.slice(1)).get("token"); // of a server that wants one: page#token=...
const headers = token ? { Authorization: `Bearer ${token}` } : {};

async function ask(address, query, signal) {
  // Return the answer to a query; what is wrong with it is an Error with the server's sentence.
  const options = query && { method: "POST", body: JSON.stringify(query), signal };
  const answer = await fetch(new URL(address, import.meta.url), { ...options, headers });
  if (answer.status === 401) throw new Error("Open the whole address that d2o app printed, with #token= at its end.");
  if (!answer.ok) throw new Error((await answer.json()).error.replace(/^(prompt|towards): /, "")); // it stands beside the box
  return answer;
}

const unpack = ({ shape, pixels }) => toPicture(Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0)), shape);
const pack = ({ seed, other, share, blend = 0 }) => [`${seed}`, `${other}`, share, blend]; // numbers would round seeds

async function images(model, points, asked) {
  const query = { model: model.name, points: points.map(pack), ...asked };
  const { pictures, ...facts } = await (await ask("page/images", query)).json();
  return { pictures: pictures.map(unpack), ...facts };
}

async function* stages(model, point, asked, steps, signal) {
  const query = { model: model.name, point: pack(point), steps, ...asked };
  const reader = (await ask("page/stages", query, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const { error, x, guess, result, ...facts } of lines.map((line) => JSON.parse(line))) {
      if (error) throw new Error(error);
      yield { ...facts, x: unpack(x), guess: unpack(guess), result: unpack(result) };
    }
  }
}

async function movie(model, first, second, asked, frames) {
  const given = Object.entries(asked).filter(([, value]) => value !== null);
  const query = new URLSearchParams([["model", model.name], ["first", first], ["second", second], ["frames", frames], ...given]);
  return (await ask(`page/movie?${query}`)).blob();
}
