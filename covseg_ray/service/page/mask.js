// A mask from the server as pixels, and the overlay that is painted from it.

import { Failure } from "./api.js";
import { element } from "./dom.js";

const AMBER = [255, 176, 32];
const FILL = 60; // alpha of 255
const CONTOUR = 255;
const FILM_PIXELS_PER_LINE = 600; // a contour of one pixel would disappear when a large film is shown small

export function fromBase64(data, type) {
  return new Blob([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], { type });
}

/** One byte a pixel, 1 = infection, from the mask's PNG; fails if it does not match the film's measurements. */
export async function readMask(film) {
  const { width, height, infection_fraction: share } = film.result;
  const bitmap = await createImageBitmap(film.mask, { colorSpaceConversion: "none" });
  if (bitmap.width !== width || bitmap.height !== height) throw new Failure("The mask's size differs from the film's.");
  const context = element("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const mask = new Uint8Array(width * height);
  let count = 0;
  for (let pixel = 0; pixel < mask.length; pixel += 1) count += mask[pixel] = data[4 * pixel] > 127 ? 1 : 0;
  // Some browsers change the pixels that a page reads, against fingerprinting: never show such a mask.
  if (Math.abs(count / mask.length - share) > 0.001) {
    throw new Failure("The mask does not match the infection share. Check whether this browser blocks reading canvas pixels.");
  }
  return mask;
}

/** Paints the overlay on `canvas`: alpha above 0 on exactly the mask's pixels, opaque along the mask's inner edge. */
export function paint(canvas, mask, { width, height }) {
  const line = Math.max(1, Math.round(Math.max(width, height) / FILM_PIXELS_PER_LINE));
  const depth = depths(mask, width, height);
  const image = new ImageData(width, height);
  for (let pixel = 0; pixel < mask.length; pixel += 1) {
    if (!mask[pixel]) continue;
    image.data.set(AMBER, 4 * pixel);
    image.data[4 * pixel + 3] = depth[pixel] <= line ? CONTOUR : FILL;
  }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** City-block distance of each pixel to the outside of the mask or of the film: 0 outside, 1 along the edge. */
function depths(mask, width, height) {
  const depth = new Uint16Array(mask.length);
  for (let y = 0, pixel = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, pixel += 1) {
      if (mask[pixel]) depth[pixel] = 1 + Math.min(x ? depth[pixel - 1] : 0, y ? depth[pixel - width] : 0);
    }
  }
  for (let y = height - 1, pixel = mask.length - 1; y >= 0; y -= 1) {
    for (let x = width - 1; x >= 0; x -= 1, pixel -= 1) {
      const right = x < width - 1 ? depth[pixel + 1] : 0;
      const below = y < height - 1 ? depth[pixel + width] : 0;
      if (mask[pixel]) depth[pixel] = Math.min(depth[pixel], 1 + right, 1 + below);
    }
  }
  return depth;
}
