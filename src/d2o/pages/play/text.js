// Seeds as they are typed, and times as they are shown.

export const LAST_SEED = 2n ** 63n - 1n;
const MOST = 256; // seeds at once

function rounded(milliseconds) {
  // Return a time with as many digits as are shown.
  if (milliseconds < 1) return Number(milliseconds.toPrecision(2));
  const perMillisecond = milliseconds < 20 ? 10 : milliseconds < 10_000 ? 1 : 1 / 100;
  return Math.round(milliseconds * perMillisecond) / perMillisecond;
}

export function time(milliseconds) {
  const shown = rounded(milliseconds);
  const [value, unit] = shown >= 10_000 ? [shown / 1000, "s"] : [shown, "ms"];
  return `${value.toLocaleString("en", { maximumSignificantDigits: 6 })} ${unit}`;
}

export function compare(milliseconds, shorter) {
  // Return how many times as long one time is as another, as their readers find it from what is shown.
  const ratio = rounded(milliseconds) / rounded(shorter);
  return Number.isFinite(ratio) ? `${ratio.toFixed(ratio < 10 ? 1 : 0)} times as long` : "";
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
