// Images made in this browser by onnxruntime-web, from model.onnx; what an engine is stands in engine-server.js.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";
import { noiseFor, slerp } from "./noise.js";
import { toPicture } from "./pictures.js";
import { readWords } from "./text.js";

const REMEMBERED = 256; // noises of seeds that are kept
const BATCH = 32; // images of one run

const here = (name) => new URL(name, import.meta.url).href;
const noises = new Map();
let session;

export async function open() {
  const facts = await (await fetch(here("model.json"))).json();
  ort.env.wasm.wasmPaths = { wasm: here("runtime/ort-wasm-simd-threaded.wasm") };
  session = await ort.InferenceSession.create(here("model.onnx"), { executionProviders: ["wasm"] });
  const model = { name: "Computed in this browser", notice: null, teachers: [], ...facts };
  if (model.words) model.known = new Map(model.words.map((word, i) => [word, i + 2]));
  await run(model, [{ seed: 0n, other: 0n, share: 0 }]); // the first run also prepares the runtime
  return { title: facts.title, models: [model], images, movie: null };
}

function noiseOf(seed, size) {
  if (!noises.has(seed)) {
    if (noises.size >= REMEMBERED) noises.delete(noises.keys().next().value);
    noises.set(seed, noiseFor(seed, size));
  }
  return noises.get(seed);
}

export function noiseAt({ seed, other, share }, size) {
  return share ? slerp(noiseOf(seed, size), noiseOf(other, size), share) : noiseOf(seed, size);
}

function wordsOf(model, points, prompt) {
  // Return the words of a prompt, or without one of each seed's example, as a tensor, and those that are unknown.
  const { prompts } = model;
  const rows = points.map(({ seed }) => readWords(prompt ?? prompts[Number(seed % BigInt(prompts.length))], model));
  const numbers = BigInt64Array.from(rows.flatMap((row) => row.numbers.map(BigInt)));
  return { tensor: new ort.Tensor("int64", numbers, [points.length, model.length]), unknown: rows[0].unknown };
}

export async function run(model, points, asked = {}) {
  // Return images as one Float32Array [N, C, H, W], about -1 to 1, the milliseconds that the network took, and the words of
  // what is asked that it does not know.
  const size = model.image_shape.reduce((a, b) => a * b);
  const data = new Float32Array(points.length * size);
  points.forEach((point, i) => data.set(noiseAt(point, size), i * size));
  const inputs = { noise: new ort.Tensor("float32", data, [points.length, ...model.image_shape]) };
  const unknown = new Set();
  if (model.words) {
    for (const [name, prompt] of [["words", asked.prompt], ["other", asked.towards ?? asked.prompt]]) {
      const read = wordsOf(model, points, prompt);
      inputs[name] = read.tensor;
      read.unknown.forEach((word) => unknown.add(word));
    }
    inputs.share = new ort.Tensor("float32", points.map(({ blend = 0 }) => blend), [points.length]);
  } else if (model.num_classes) {
    const labels = points.map(({ seed }) => BigInt(asked.class ?? seed % BigInt(model.num_classes)));
    inputs.label = new ort.Tensor("int64", BigInt64Array.from(labels), [points.length]);
  }
  const began = performance.now();
  const { image } = await session.run(inputs);
  return { images: image.data, milliseconds: performance.now() - began, unknown: [...unknown] };
}

async function images(model, points, asked) {
  const [channels, height, width] = model.image_shape;
  const size = channels * height * width;
  const made = { pictures: [], milliseconds: 0, unknown: [] };
  for (let first = 0; first < points.length; first += BATCH) {
    const { images, milliseconds, unknown } = await run(model, points.slice(first, first + BATCH), asked);
    made.unknown = unknown;
    made.milliseconds += milliseconds;
    for (let start = 0; start < images.length; start += size) {
      const levels = new Uint8Array(size); // rounded as d2o rounds
      for (let i = 0; i < size; i++) {
        const value = images[start + (i % channels) * height * width + Math.floor(i / channels)];
        levels[i] = Math.floor(Math.min(255, Math.max(0, (value + 1) * 127.5)) + 0.5);
      }
      made.pictures.push(toPicture(levels, [height, width, channels]));
    }
  }
  return made;
}
