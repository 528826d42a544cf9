// Seeds and prompts as they are typed, and times as they are shown.

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

export function multiply(calls, milliseconds) {
  // Return the time of a call and that of all, in milliseconds: the one that is shown times the calls is the other.
  const each = Number((milliseconds / calls).toPrecision(3));
  return { each, all: calls * each };
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
    if (BigInt(seeds.length) + count > MOST) throw new Error(`There are more than ${MOST} seeds: write fewer.`);
    for (let i = 0n; i < count; i++) seeds.push(BigInt(first) + i);
  }
  return seeds;
}

export const splitWords = (prompt) => prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []; // as d2o's Words do

export function readWords(prompt, { known, length }) {
  // Return the numbers of a prompt's words, padded by 0, and the words that are not among those `known` (word -> number).
  const asked = splitWords(prompt);
  const numbers = asked.filter((word) => known.has(word)).map((word) => known.get(word));
  const unknown = [...new Set(asked.filter((word) => !known.has(word)))];
  const some = unknown.slice(0, 5).map((word) => `“${word}”`).join(", ");
  if (unknown.length && !numbers.length) throw new Error(`The model knows none of these words: ${some}. Choose others.`);
  const cut = numbers.length - length;
  if (cut > 0) throw new Error(`The model reads ${length} words, and would ignore the last ${cut}: shorten the prompt.`);
  return { numbers: [...numbers, ...Array(-cut).fill(0)], unknown };
}

export function findStyles(prompts) {
  // Return the words that begin many of the prompts and stand nowhere else in them, if there are a few.
  const rows = prompts.map(splitWords).filter((words) => words.length > 1);
  const inside = new Set(rows.flatMap((words) => words.slice(1)));
  const counts = new Map();
  for (const [first] of rows) counts.set(first, (counts.get(first) ?? 0) + 1);
  const styles = [...counts].filter(([word, count]) => count >= Math.max(3, rows.length / 20) && !inside.has(word));
  return styles.length > 1 && styles.length < 9 ? styles.map(([word]) => word) : [];
}
