// The form's fields, as far as the chosen model can do them.

import { choice, field, h } from "./dom.js";

const SHAPES = [
  ["Square", 1, 1],
  ["Landscape", 3, 2],
  ["Portrait", 2, 3],
  ["Wide", 16, 9],
  ["Tall", 9, 16],
];
const COMFORTABLE_PIXELS = 1024 * 1024;
const WORDS = {
  background: ["auto", "transparent", "opaque"],
  moderation: ["auto", "low"],
  input_fidelity: ["low", "high"],
};
const NUMBERS = {
  output_compression: { label: "Compression", min: 0, max: 100, hint: "0 to 100, for JPEG and WebP." },
  seed: { label: "Seed", min: 0, hint: "The same seed and request give the same picture, where the model can." },
  num_inference_steps: { label: "Steps", min: 1, max: 200 },
  partial_images: { label: "Previews on the way", min: 0, max: 3 },
};
const LABELS = {
  quality: "Quality",
  style: "Style",
  background: "Background",
  moderation: "Moderation",
  input_fidelity: "Keep to the input",
  aspect_ratio: "Aspect ratio",
  resolution: "Resolution",
  output_format: "Format",
};
const FIRST = ["size", "aspect_ratio", "quality", "output_format"];

/** Fields of a model: those used most, and the others. Each control's name is the API's. */
export function fieldsOf(model, operation) {
  const facts = model?.safelight ?? {};
  const able = new Set(facts.fields ?? []);
  const made = new Map();
  if (able.has("size")) made.set("size", sizeField(facts));
  if (able.has("aspect_ratio")) made.set("aspect_ratio", words("aspect_ratio", facts.aspect_ratios));
  if (able.has("quality")) made.set("quality", words("quality", facts.qualities));
  if (able.has("output_format")) made.set("output_format", words("output_format", facts.formats));
  for (const name of ["background", "moderation", "style", "resolution", "input_fidelity"]) {
    if (able.has(name) && !(name === "input_fidelity" && operation !== "image_edit")) made.set(name, words(name, WORDS[name]));
  }
  for (const [name, { label, hint, ...limits }] of Object.entries(NUMBERS)) {
    if (able.has(name)) made.set(name, field(label, h("input", { name, type: "number", step: 1, inputmode: "numeric", ...limits }), hint));
  }
  if (able.has("negative_prompt")) made.set("negative_prompt", field("Without", h("input", { name: "negative_prompt" }), "What the picture must not show."));
  const most = facts.max_n ?? 10;
  if (most > 1) made.set("n", field("Pictures", h("input", { name: "n", type: "number", min: 1, max: 10, value: 1, step: 1, inputmode: "numeric" })));
  const first = [...FIRST, "n"].filter((name) => made.has(name)).map((name) => made.get(name));
  const others = [...made].filter(([name]) => !FIRST.includes(name) && name !== "n").map(([, each]) => each);
  return { first, others };
}

function words(name, known) {
  const label = LABELS[name];
  if (!known?.length) return field(label, h("input", { name }));
  return field(label, choice([["", "Auto"], ...known.filter((each) => each !== "auto").map((each) => [each, each])], { name }));
}

function sizeField(facts) {
  const listed = (facts.sizes ?? []).filter((size) => size !== "auto");
  const sizes = listed.length ? listed.sort(byPixels) : facts.pixel_rule ? shapes(facts.pixel_rule) : [];
  if (!sizes.length) return field("Size", h("input", { name: "size", placeholder: "1024x1024", pattern: "[0-9]+x[0-9]+|auto|[0-9]+K" }));
  return field("Size", choice([["", "Auto"], ...sizes.map((size) => [size, named(size)])], { name: "size" }));
}

/** Sizes of the usual shapes that a rule allows. */
function shapes({ multiple_of = 1, min_side = 1, max_side = Infinity, min_pixels = 0, max_pixels = Infinity, max_ratio = Infinity }) {
  const step = Math.max(multiple_of, 16);
  const pixels = Math.min(max_pixels, Math.max(min_pixels, COMFORTABLE_PIXELS));
  const whole = (side) => Math.round(side / step) * step;
  const sizes = SHAPES.filter(([, wide, high]) => Math.max(wide / high, high / wide) <= max_ratio).map(([, wide, high]) => [whole(Math.sqrt((pixels * wide) / high)), whole(Math.sqrt((pixels * high) / wide))]);
  const allowed = sizes.filter(([width, height]) => Math.min(width, height) >= min_side && Math.max(width, height) <= max_side && width * height <= max_pixels && width * height >= min_pixels);
  return allowed.map(([width, height]) => `${width}x${height}`);
}

const byPixels = (one, other) => area(one) - area(other);
const area = (size) => size.split("x").reduce((product, side) => product * side, 1);

function named(size) {
  const [width, height] = size.split("x").map(Number);
  if (!height) return size;
  const ratio = width / height;
  const [name] = SHAPES.reduce((best, each) => (Math.abs(Math.log(ratio * (each[2] / each[1]))) < Math.abs(Math.log(ratio * (best[2] / best[1]))) ? each : best));
  return `${name} · ${width} × ${height}`;
}

/** What the fields say, without what was left to the model. Numbers are numbers. */
export function said(form) {
  const found = {};
  for (const control of form.elements) {
    if (!control.name || control.type === "file" || control.type === "radio" || control.value === "") continue;
    found[control.name] = control.type === "number" ? Number(control.value) : control.value;
  }
  return found;
}
