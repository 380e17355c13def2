/**
 * From a photograph's pixels to a network's input, as Pillow and NumPy do it, to the bit:
 *
 *     square = photo.convert("RGB").crop(box)
 *     small = np.asarray(square.resize((width, height), Image.Resampling.LANCZOS), np.float32) / 255
 *     input = (small - mean) / std
 *
 * A canvas would resize too, but each browser in its own way, and the network's answer would change with it.
 */

/** Return the largest central part of a photograph that has the input's proportions: `{left, top, width, height}`. */
export function centralPart(photo, input) {
  const scale = Math.min(photo.width / input.width, photo.height / input.height);
  const width = Math.max(1, Math.round(scale * input.width));
  const height = Math.max(1, Math.round(scale * input.height));
  return { left: (photo.width - width) >> 1, top: (photo.height - height) >> 1, width, height };
}

/**
 * Resample RGBA pixels to `channels` planes of `size`, each value 0 to 255; alpha is left out.
 *
 * @returns {Uint8Array[]} One plane a channel: red, green and blue, or the grey of ITU-R BT.601.
 */
export function resample(rgba, photo, size, channels) {
  return Array.from({ length: channels }, (_, channel) => {
    const plane = channels === 1 ? grey(rgba) : colorOf(rgba, channel);
    const narrow = squeeze(plane, photo.width, photo.height, size.width);
    const turned = squeeze(transpose(narrow, size.width, photo.height), photo.height, size.width, size.height);
    return transpose(turned, size.height, size.width);
  });
}

/** Return planes as `Float32Array` [C, H, W]: `(value / 255 - mean) / std`, each step rounded to float32. */
export function normalize(planes, preprocessing) {
  const { mean, std } = preprocessing ?? { mean: planes.map(() => 0), std: planes.map(() => 1) };
  const round = Math.fround;
  const size = planes[0].length;
  const input = new Float32Array(planes.length * size);
  planes.forEach((plane, channel) => {
    const [shift, scale] = [round(mean[channel]), round(std[channel])];
    plane.forEach((value, index) => {
      input[channel * size + index] = round(round(value / 255) - shift) / scale;
    });
  });
  return input;
}

function colorOf(rgba, channel) {
  const plane = new Uint8Array(rgba.length / 4);
  for (let index = 0; index < plane.length; index++) plane[index] = rgba[4 * index + channel];
  return plane;
}

function grey(rgba) {
  const plane = new Uint8Array(rgba.length / 4);
  for (let index = 0; index < plane.length; index++) {
    const at = 4 * index;
    plane[index] = (19595 * rgba[at] + 38470 * rgba[at + 1] + 7471 * rgba[at + 2] + 0x8000) >> 16;
  }
  return plane;
}

function transpose(plane, width, height) {
  const turned = new Uint8Array(plane.length);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) turned[x * height + y] = plane[y * width + x];
  return turned;
}

const PRECISION = 2 ** 22; // Pillow's weights are whole numbers

/** Resample each row of a plane to `size` values: Lanczos with three lobes, wide enough to leave out no pixel. */
function squeeze(plane, width, height, size) {
  const result = new Uint8ClampedArray(size * height);
  const stretch = width / size;
  const filter = Math.max(stretch, 1);
  for (let x = 0; x < size; x++) {
    const center = (x + 0.5) * stretch;
    const first = Math.max(Math.trunc(center - 3 * filter + 0.5), 0);
    const past = Math.min(Math.trunc(center + 3 * filter + 0.5), width);
    const weights = Array.from({ length: past - first }, (_, tap) => lanczos((tap + first - center + 0.5) / filter));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const whole = weights.map((weight) => Math.trunc((weight / total) * PRECISION + (weight < 0 ? -0.5 : 0.5)));
    for (let y = 0; y < height; y++) {
      const start = y * width + first;
      let sum = PRECISION / 2;
      for (let tap = 0; tap < whole.length; tap++) sum += whole[tap] * plane[start + tap];
      result[y * size + x] = Math.floor(sum / PRECISION);
    }
  }
  return new Uint8Array(result.buffer);
}

function lanczos(x) {
  return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}
