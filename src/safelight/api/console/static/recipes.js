// A job as a command: what to paste into a terminal or a program to make it again.

import { address } from "./api.js";

const PLACEHOLDER = "$SAFELIGHT_KEY";

/** The members of a request that a client would send, without what only the console knows. */
export function parameters(request) {
  const { operation: _, images: __, mask: ___, extra, ...rest } = request;
  return Object.fromEntries(Object.entries({ ...extra, ...rest }).filter(([, value]) => value !== null && value !== undefined));
}

const PATHS = { image_generation: "generations", image_edit: "edits", image_variation: "variations" };

export const submitPath = (operation) => `/v1/async/images/${PATHS[operation]}`;

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

export function asCurl(request, { withKey }) {
  const { operation } = request;
  const lines = [`curl -s ${quoted(address(submitPath(operation)).href)}`];
  if (withKey) lines.push(`-H "Authorization: Bearer ${PLACEHOLDER}"`);
  if (operation === "image_generation") {
    lines.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(parameters(request)))}`);
  } else {
    for (const [name, value] of Object.entries(parameters(request))) lines.push(`-F ${quoted(`${name}=${asText(value)}`)}`);
    for (const [place] of (request.images ?? []).entries()) lines.push(`-F 'image[]=@input-${place + 1}.png'`);
    if (request.mask) lines.push("-F 'mask=@mask.png'");
  }
  return lines.join(" \\\n  ");
}

export function asPython(request, { withKey }) {
  const { operation } = request;
  const given = parameters(request);
  const own = new Set(["model", "prompt", "n", "size", "quality", "style", "response_format", "background", "moderation", "output_format", "output_compression", "user", "input_fidelity"]);
  const [usual, extra] = [[], []];
  for (const [name, value] of Object.entries(given)) (own.has(name) ? usual : extra).push([name, value]);
  const names = { image_generation: "generate", image_edit: "edit", image_variation: "create_variation" };
  const members = usual.map(([name, value]) => `    ${name}=${literal(value)},`);
  if (operation === "image_edit") members.push(`    image=[${(request.images ?? []).map((_, place) => `open("input-${place + 1}.png", "rb")`).join(", ")}],`);
  if (operation === "image_variation") members.push('    image=open("input-1.png", "rb"),');
  if (request.mask) members.push('    mask=open("mask.png", "rb"),');
  if (extra.length) members.push(`    extra_body={${extra.map(([name, value]) => `${literal(name)}: ${literal(value)}`).join(", ")}},`);
  return [
    ...(withKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(address("/v1").href)}, api_key=${withKey ? 'os.environ["SAFELIGHT_KEY"]' : '"none"'})`,
    `result = client.images.${names[operation]}(`,
    ...members,
    ")",
    "print(result.data[0].url)",
    "",
  ].join("\n");
}

/** A value as Python writes it. JSON's texts are Python's too. */
function literal(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${literal(name)}: ${literal(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}

const asText = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
