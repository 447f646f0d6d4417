// What is switched on, how it fares, what it can do and what it costs.

import { get } from "./api.js";
import { h } from "./dom.js";
import { OPERATIONS, whole } from "./format.js";
import { livePage } from "./live.js";
import { switches } from "./queue.js";
import { panel, table } from "./table.js";

export function providersPage({ signal }) {
  return livePage({ title: "Providers", every: 0, signal, read: () => get("/api/providers"), draw: drawn });
}

function drawn({ data }, again) {
  const others = data.some((provider) => provider.provider !== "builtin");
  return [...data.map((provider) => one(provider, again)), others ? null : firstStep()];
}

function one(provider, again) {
  const tags = [
    h("span", { class: health(provider)[1] }, health(provider)[0]),
    h("span", { class: "tag" }, `${whole(provider.slots ?? 0)} slots`),
    provider.repeatable ? h("span", { class: "tag" }, "a repeat costs nothing") : null,
    ...provider.keys.map((key) => h("span", { class: key.usable ? "tag" : "tag bad" }, `key ${key.name}${key.usable ? "" : key.refused ? ", refused" : ", over its limit"}`)),
  ];
  const rows = provider.models.map((model) => [
    h("span", {}, model.id.slice(provider.provider.length + 1), model.life === "live" ? null : h("span", { class: "soft small" }, ` ${model.life}`)),
    model.operations.map((each) => OPERATIONS[each]).join(", "),
    price(model.price, provider.repeatable),
  ]);
  return panel(
    provider.provider,
    h("div", { class: "head" }, h("div", { class: "tags" }, ...tags), switches(provider, again)),
    h("details", {}, h("summary", {}, `${whole(rows.length)} known models`), table(`Models of ${provider.provider}`, ["Model", "Does", "Price in US dollars"], rows)),
  );
}

function health(provider) {
  if (provider.switch !== "on") return [provider.switch, "tag warm"];
  if (provider.left_alone.length) return [`${provider.left_alone.length} models left alone`, "tag bad"];
  if (provider.keys.length && provider.keys.every((key) => !key.usable)) return ["no usable key", "tag bad"];
  return ["on", "tag good"];
}

function price(list, free) {
  if (!list) return free ? "none" : "not known";
  const parts = [];
  if (list.per_image) {
    const amounts = list.per_image.map((each) => Number(each.usd));
    const [least, most] = [Math.min(...amounts), Math.max(...amounts)];
    parts.push(`${least === most ? least : `${least} to ${most}`} a picture`);
  }
  if (list.per_megapixel) parts.push(`${list.per_megapixel} a megapixel`);
  if (list.per_input_image) parts.push(`${list.per_input_image} for each input`);
  if (list.per_million_tokens) parts.push(`${Object.entries(list.per_million_tokens).map(([kind, usd]) => `${kind.replace("_", " ")} ${usd}`).join(", ")} a million tokens`);
  if (list.reported) parts.push("told with each answer");
  return parts.join("; ");
}

function firstStep() {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "Add a provider"),
    h("p", {}, "The built-in one draws without a key. For pictures made by a model, set the usual variable of a provider and start the gateway again."),
    h("pre", { tabindex: "0" }, "OPENAI_API_KEY=sk-… safelight serve"),
    h("p", { class: "small" }, "safelight doctor tells the variable of each of them."),
  );
}
