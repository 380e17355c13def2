/**
 * The colour map. An attribution has a sign, so the map diverges: orange raises the score, blue lowers it, by the
 * method's rule, where the picture gets brighter. Zero is dark and strength is brightness, so what matters stands out
 * of what does not, over a photograph, without colour vision and in print too; and orange and blue stay apart in every
 * common kind of colour blindness.
 *
 *     value[y, x] = sum over channels of attribution[c, y, x]
 *     limit       = the ceil(0.99 n)-th smallest of the n |value|; the greatest one if that is 0
 *     strength    = min(|value| / limit, 1), 0 if all are 0
 *     colour      = zero + strength * (end - zero), channel by channel, rounded to the nearest level
 *
 * where `end` is orange for positive values and blue for the others.
 */

export const ZERO = [17, 19, 24];
export const RAISES = [255, 146, 64];
export const LOWERS = [84, 178, 255];

/** The share of the pixels that the brightest colour does not yet reach. */
const SHARE = 0.99;

/** Return an attribution [C, H, W] as RGBA pixels [H, W, 4]. */
export function paint(attribution, channels) {
  const values = sumOverChannels(attribution, channels);
  const limit = limitOf(values);
  const pixels = new Uint8ClampedArray(4 * values.length);
  values.forEach((value, index) => {
    const strength = limit > 0 ? Math.min(Math.abs(value) / limit, 1) : 0;
    const end = value > 0 ? RAISES : LOWERS;
    for (let color = 0; color < 3; color++) {
      pixels[4 * index + color] = Math.round(ZERO[color] + strength * (end[color] - ZERO[color]));
    }
    pixels[4 * index + 3] = 255;
  });
  return pixels;
}

function sumOverChannels(attribution, channels) {
  const size = attribution.length / channels;
  const values = new Float64Array(size);
  attribution.forEach((value, index) => {
    values[index % size] += value;
  });
  return values;
}

function limitOf(values) {
  const sorted = values.map(Math.abs).sort();
  return sorted[Math.ceil(SHARE * sorted.length) - 1] || sorted.at(-1);
}
