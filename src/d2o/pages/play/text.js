// Seeds as they are typed, and times as they are shown.

export const LAST_SEED = 2n ** 63n - 1n;
const MOST = 256; // seeds at once

export function rounded(milliseconds) {
  // Return a time with as many digits as are shown.
  return milliseconds < 20 ? Math.round(10 * milliseconds) / 10 : Math.round(milliseconds);
}

export function time(milliseconds) {
  return milliseconds >= 10_000 ? `${(milliseconds / 1000).toFixed(1)} s` : `${rounded(milliseconds).toLocaleString("en")} ms`;
}

export function readSeed(input, most = LAST_SEED) {
  // Return the seed in a field, and put it right where it is none.
  const seed = /^\d{1,19}$/.test(input.value.trim()) ? BigInt(input.value.trim()) : 0n;
  input.value = `${seed > most ? most : seed}`;
  return BigInt(input.value);
}

export function readSeeds(text) {
  // Return the seeds of a text such as 0-63 or 1,5,9-12.
  const seeds = [];
  for (const part of text.split(",")) {
    const [, first, last] = part.match(/^\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?$/) ?? [];
    if (first === undefined) throw new Error(`"${part.trim()}" is no seed: write seeds such as 0-39 or 1,5,9-12.`);
    const count = BigInt(last ?? first) - BigInt(first) + 1n;
    if (count < 1n) throw new Error(`${part.trim()} runs backwards: write ${last}-${first}.`);
    if (BigInt(seeds.length) + count > MOST) throw new Error(`These are more than ${MOST} seeds: write fewer.`);
    for (let i = 0n; i < count; i++) seeds.push(BigInt(first) + i);
  }
  return seeds;
}
