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
let model; // what model.json says of it

export async function open() {
  const facts = await (await fetch(here("model.json"))).json();
  ort.env.wasm.wasmPaths = { wasm: here("runtime/ort-wasm-simd-threaded.wasm") };
  session = await ort.InferenceSession.create(here("model.onnx"), { executionProviders: ["wasm"] });
  model = { name: "Computed in this browser", notice: null, teachers: [], ...facts };
  if (model.words) model.known = new Map(model.words.map((word, i) => [word, i + 2]));
  await run(model, [{ seed: 0n, other: 0n, share: 0 }]); // the first run also prepares the runtime
  const teacher = facts.teacher && { name: "Its teacher, in this browser", ...facts.teacher };
  if (teacher) model.teachers = [teacher.name];
  return { title: facts.title, models: [model], teacher, images, stages, movie: null };
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
  const { inputs, unknown } = told(model, points, asked);
  inputs.noise = new ort.Tensor("float32", data, [points.length, ...model.image_shape]);
  const began = performance.now();
  const { image } = await session.run(inputs);
  return { images: image.data, milliseconds: performance.now() - began, unknown };
}

function told(model, points, asked) {
  // Return the inputs of a network that say what is asked, and the words that it does not know.
  const [inputs, unknown] = [{}, new Set()];
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
  return { inputs, unknown: [...unknown] };
}

function toPictures(images, [channels, height, width], scale = 1) {
  // Return numbers [N, C, H, W], about -1 to 1 when multiplied by a scale, as pictures.
  const [size, pictures] = [channels * height * width, []];
  for (let start = 0; start < images.length; start += size) {
    const levels = new Uint8Array(size); // rounded as d2o rounds
    for (let i = 0; i < size; i++) {
      const value = scale * images[start + (i % channels) * height * width + Math.floor(i / channels)];
      levels[i] = Math.floor(Math.min(255, Math.max(0, (value + 1) * 127.5)) + 0.5);
    }
    pictures.push(toPicture(levels, [height, width, channels]));
  }
  return pictures;
}

async function images(model, points, asked) {
  const made = { pictures: [], milliseconds: 0, unknown: [] };
  for (let first = 0; first < points.length; first += BATCH) {
    const { images, milliseconds, unknown } = await run(model, points.slice(first, first + BATCH), asked);
    made.pictures.push(...toPictures(images, model.image_shape));
    made.milliseconds += milliseconds;
    made.unknown = unknown;
  }
  return made;
}

let predictor; // the teacher's network, read when it is wanted for the first time

async function* stages(teacher, point, asked, steps, signal) {
  predictor ??= ort.InferenceSession.create(here("teacher.onnx"), { executionProviders: ["wasm"] });
  const network = await predictor;
  const { image_shape: shape, sigmas, solved_in_time: inTime } = teacher;
  const { inputs } = told({ ...model, ...teacher }, [point], asked);
  let [calls, milliseconds] = [0, 0];

  async function denoise(x, sigma) {
    inputs.x = new ort.Tensor("float32", Float32Array.from(x), [1, ...shape]);
    inputs.sigma = new ort.Tensor("float32", [sigma], [1]);
    const began = performance.now();
    const { image } = await network.run(inputs);
    milliseconds += performance.now() - began;
    calls += 1;
    return Float64Array.from(image.data);
  }

  const scale = (sigma) => 1 / Math.sqrt(1 + sigma * sigma);
  const levels = sigmas[steps];
  let x = Float64Array.from(noiseAt(point, shape.reduce((a, b) => a * b)), (value) => value * levels[0]);
  for (let i = 0; i < steps; i++) {
    const [sigma, next, before] = [levels[i], levels[i + 1], x];
    const guess = await denoise(x, sigma);
    x = next ? await (inTime ? heunInTime : heun)(denoise, x, guess, sigma, next) : guess;
    const [[noisy], [clean], [result]] = [[before, sigma], [guess, 0], [x, next]].map(([image, level]) =>
      toPictures(image, shape, scale(level)),
    );
    yield { sigma, x: noisy, guess: clean, result, calls, milliseconds };
    await new Promise(requestAnimationFrame); // in which it is seen
    if (signal.aborted) return;
  }
}

// The two steps of d2o.diffusion.sampling, whose first call has made x0 of x.

async function heun(denoise, x, x0, sigma, next) {
  const slope = x.map((value, i) => (value - x0[i]) / sigma);
  const there = x.map((value, i) => value + (next - sigma) * slope[i]);
  const image = await denoise(there, next);
  return x.map((value, i) => value + ((next - sigma) * (slope[i] + (there[i] - image[i]) / next)) / 2);
}

async function heunInTime(denoise, x, x0, sigma, next) {
  const noise = x.map((value, i) => (value - x0[i]) / sigma);
  const there = x0.map((value, i) => value + next * noise[i]);
  const image = await denoise(there, next);
  const passed = next / (1 + next) - sigma / (1 + sigma);
  return x.map((value, i) => {
    const velocity = (noise[i] - x0[i] + (there[i] - image[i]) / next - image[i]) / 2;
    return (value / (1 + sigma) + passed * velocity) * (1 + next);
  });
}
