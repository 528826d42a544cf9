// The one-step generator: a seed's noise, one call of the network, an image.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";
import { noiseFor, slerp } from "./noise.js";

const REMEMBERED = 256; // noises of seeds that are kept

export async function load() {
  // Return the generator of this folder's model.onnx, described by model.json.
  const here = (name) => new URL(name, import.meta.url).href;
  const facts = await (await fetch(here("model.json"))).json();
  ort.env.wasm.wasmPaths = { wasm: here("runtime/ort-wasm-simd-threaded.wasm") };
  const session = await ort.InferenceSession.create(here("model.onnx"), { executionProviders: ["wasm"] });
  return new Generator(facts, session);
}

class Generator {
  constructor(facts, session) {
    this.facts = facts;
    this.session = session;
    this.size = facts.image_shape.reduce((a, b) => a * b);
    this.noises = new Map();
  }

  noise(seed) {
    // Return the noise of a whole seed (BigInt).
    if (!this.noises.has(seed)) {
      if (this.noises.size >= REMEMBERED) this.noises.delete(this.noises.keys().next().value);
      this.noises.set(seed, noiseFor(seed, this.size));
    }
    return this.noises.get(seed);
  }

  noiseBetween(seed, share) {
    // Return the noise a share of the way from a seed to the next one.
    return share ? slerp(this.noise(seed), this.noise(seed + 1n), share) : this.noise(seed);
  }

  classOf(seed) {
    // Return the class that d2o gives a seed when none is asked for.
    return Number(seed % BigInt(this.facts.num_classes || 1));
  }

  async images(noises, classes) {
    // Return images as one Float32Array [N, C, H, W], about -1 to 1, in one call of the network.
    const count = noises.length;
    const data = new Float32Array(count * this.size);
    noises.forEach((noise, i) => data.set(noise, i * this.size));
    const inputs = { noise: new ort.Tensor("float32", data, [count, ...this.facts.image_shape]) };
    if (this.facts.num_classes) {
      inputs.label = new ort.Tensor("int64", BigInt64Array.from(classes, BigInt), [count]);
    }
    return (await this.session.run(inputs)).image.data;
  }

  pixels(images, i = 0) {
    // Return image i as ImageData, rounded as d2o rounds.
    const [channels, height, width] = this.facts.image_shape;
    const plane = height * width;
    const picture = new ImageData(width, height);
    for (let p = 0; p < plane; p++) {
      for (let c = 0; c < 3; c++) {
        const value = images[i * this.size + (channels === 1 ? 0 : c) * plane + p];
        picture.data[4 * p + c] = Math.floor(Math.min(255, Math.max(0, (value + 1) * 127.5)) + 0.5);
      }
      picture.data[4 * p + 3] = 255;
    }
    return picture;
  }
}
