// Pictures on canvases: small images are enlarged so far, and so smoothly, that they can be recognised.

const shown = new WeakMap(); // canvas -> {picture, side}
let pixelated = false;
const source = new OffscreenCanvas(1, 1);

export function toPicture(levels, [height, width, channels]) {
  // Return uint8 levels [H, W, C] as ImageData.
  const picture = new ImageData(width, height);
  for (let p = 0; p < height * width; p++) {
    for (let c = 0; c < 3; c++) picture.data[4 * p + c] = levels[p * channels + (channels === 1 ? 0 : c)];
    picture.data[4 * p + 3] = 255;
  }
  return picture;
}

export function draw(canvas, picture, side) {
  // Draw a picture so that its longer side has `side` pixels, or more where it has more itself.
  shown.set(canvas, { picture, side });
  const longer = Math.max(picture.width, picture.height);
  const times = pixelated ? Math.max(1, Math.round(side / longer)) : Math.max(1, side / longer);
  resize(canvas, picture.width * times, picture.height * times);
  resize(source, picture.width, picture.height);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = !pixelated;
  context.imageSmoothingQuality = "high";
  source.getContext("2d").putImageData(picture, 0, 0);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
}

function resize(canvas, width, height) {
  // Give a canvas its size, which makes it anew, only where that is another.
  if (canvas.width !== Math.floor(width)) canvas.width = width;
  if (canvas.height !== Math.floor(height)) canvas.height = height;
}

export function showPixels(wanted) {
  // Draw everything that is shown again, as raw pixels or smoothly.
  pixelated = wanted;
  for (const canvas of document.querySelectorAll("canvas")) {
    if (shown.has(canvas)) draw(canvas, shown.get(canvas).picture, shown.get(canvas).side);
  }
}
