/** NumPy's .npy files of ordinary arrays: little-endian, row-major. */

import { readFile, writeFile } from "node:fs/promises";

const TYPES = {
  "<f4": Float32Array,
  "<f8": Float64Array,
  "<i8": BigInt64Array,
  "<i4": Int32Array,
  "|u1": Uint8Array,
};

/** Read a file as `{data, dims}`. */
export async function readNpy(path) {
  const bytes = await readFile(path);
  if (bytes.toString("latin1", 0, 6) !== "\x93NUMPY") throw new Error(`${path} is no .npy file`);
  const tooShort = new Error(`${path} is cut short`);
  if (bytes.length < 12) throw tooShort;
  const [size, start] = bytes[6] === 1 ? [bytes.readUInt16LE(8), 10] : [bytes.readUInt32LE(8), 12];
  if (bytes.length < start + size) throw tooShort;
  const header = bytes.toString("latin1", start, start + size);
  const [, descr] = /'descr': '([^']*)'/.exec(header) ?? [];
  const [, shape] = /'shape': \(([^)]*)\)/.exec(header) ?? [];
  const Type = TYPES[descr];
  if (Type === undefined || shape === undefined || !header.includes("'fortran_order': False")) {
    throw new Error(`${path} holds no row-major array of ${Object.keys(TYPES).join(", ")}: ${header.trim()}`);
  }
  const dims = shape.split(",").filter((text) => text.trim()).map(Number);
  const body = bytes.subarray(start + size);
  const count = dims.reduce((product, length) => product * length, 1);
  const surplus = body.length - count * Type.BYTES_PER_ELEMENT;
  if (surplus < 0) throw tooShort;
  if (surplus > 0) throw new Error(`${path} is ${surplus} bytes longer than its array`);
  return { data: new Type(Uint8Array.from(body).buffer), dims };
}

/** Write `{data, dims}` as a file. */
export async function writeNpy(path, { data, dims }) {
  const [descr] = Object.entries(TYPES).find(([, Type]) => data instanceof Type);
  const shape = `(${dims.join(", ")}${dims.length === 1 ? "," : ""})`;
  const header = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${shape}, }`;
  const padded = `${header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11)}\n`;
  const start = Buffer.from("\x93NUMPY\x01\x00\0\0", "latin1");
  start.writeUInt16LE(padded.length, 8);
  const body = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  await writeFile(path, Buffer.concat([start, Buffer.from(padded, "latin1"), body]));
}
