// Unit normal noise that is a function of its seed alone: the numbers of d2o.diffusion.noise.noise_for, to the last bits.
// Philox4x64-10 (Salmon et al. 2011) keyed by the seed, and the ziggurat of 256 strips (Marsaglia and Tsang 2000).

const WORD = (1n << 64n) - 1n;
const MULTIPLIERS = [0xd2e7470ee14c6c93n, 0xca5a826395121157n];
const WEYL = [0x9e3779b97f4a7c15n, 0xbb67ae8584caa73bn];

function philox(seed) {
  // Return a function that gives the next 32 random bits; the low half of each 64-bit word comes first.
  let block = 0n;
  let words = [];
  return () => {
    if (!words.length) {
      block += 1n;
      let [a, b, c, d] = [block, 0n, 0n, 0n];
      let [key, other] = [seed & WORD, seed >> 64n];
      for (let round = 0; round < 10; round++) {
        const first = MULTIPLIERS[0] * a;
        const second = MULTIPLIERS[1] * c;
        [a, b, c, d] = [(second >> 64n) ^ b ^ key, second & WORD, (first >> 64n) ^ d ^ other, first & WORD];
        key = (key + WEYL[0]) & WORD;
        other = (other + WEYL[1]) & WORD;
      }
      words = [a, b, c, d].flatMap((word) => [Number(word & 0xffffffffn), Number(word >> 32n)]);
    }
    return words.shift();
  };
}

// Strips of equal area under exp(-x^2 / 2); the last one begins at EDGE and has the tail. Mantissas have 23 bits.
const EDGE = 3.6541528853610088;
const AREA = 0.00492867323399;
const MANTISSA = 2 ** 23;
const inside = new Float64Array(256); // mantissas below are certainly under the curve
const width = new Float32Array(256);
const height = new Float32Array(256);
{
  const exact = new Float64Array(257);
  let x = EDGE;
  exact[255] = Math.exp(-0.5 * x * x);
  inside[0] = Math.round(((x * exact[255]) / AREA) * MANTISSA);
  width[0] = AREA / exact[255] / MANTISSA;
  width[255] = x / MANTISSA;
  exact[0] = 1;
  for (let i = 254; i > 0; i--) {
    const next = Math.sqrt(-2 * Math.log(AREA / x + exact[i + 1]));
    inside[i + 1] = Math.round((next / x) * MANTISSA);
    width[i] = next / MANTISSA;
    exact[i] = Math.exp(-0.5 * next * next);
    x = next;
  }
  inside[1] = 0;
  height.set(exact.subarray(0, 256));
}

function tail(uniform) {
  const [edge, inverse] = [Math.fround(EDGE), Math.fround(1 / EDGE)];
  for (;;) {
    const x = Math.fround(-inverse * Math.fround(Math.log1p(-uniform())));
    const y = -Math.fround(Math.log1p(-uniform()));
    if (y + y > Math.fround(x * x)) return Math.fround(edge + x);
  }
}

export function noiseFor(seed, count) {
  // Return `count` unit normal numbers as Float32Array for a seed (BigInt or number, 0 to 2^63 - 1).
  const next = philox(BigInt(seed));
  const uniform = () => (next() >>> 8) / 2 ** 24;
  const noise = new Float32Array(count);
  for (let i = 0; i < count; ) {
    const bits = next();
    const strip = bits & 255;
    const mantissa = bits >>> 9;
    const sign = bits & 256 ? -1 : 1;
    const x = Math.fround(mantissa * width[strip]);
    if (mantissa < inside[strip]) noise[i++] = sign * x;
    else if (strip === 0) noise[i++] = (mantissa & 256 ? -1 : 1) * tail(uniform);
    else {
      const between = Math.fround(Math.fround(height[strip - 1] - height[strip]) * uniform());
      if (Math.fround(between + height[strip]) < Math.exp(-0.5 * x * x)) noise[i++] = sign * x;
    }
  }
  return noise;
}

export function slerp(a, b, t) {
  // Return the noise a share t of the way from a to b along the sphere: as likely as any other noise.
  if (t === 0) return a;
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) [ab, aa, bb] = [ab + a[i] * b[i], aa + a[i] * a[i], bb + b[i] * b[i]];
  const angle = Math.acos(Math.min(1, Math.max(-1, ab / Math.sqrt(aa * bb))));
  const [from, to] = angle < 1e-6 ? [1 - t, t] : [(1 - t), t].map((share) => Math.sin(share * angle) / Math.sin(angle));
  return a.map((value, i) => from * value + to * b[i]);
}
