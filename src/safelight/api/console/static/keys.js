// Virtual keys: who may call, for how much, and what they have used.

import { call, get } from "./api.js";
import { button, confirmed, fault, field, h, toast } from "./dom.js";
import { moment, money, whole } from "./format.js";
import { livePage } from "./live.js";
import { panel, table } from "./table.js";
import { showSecret } from "./webhooks.js";

export function keysPage({ signal }) {
  let look = () => {};
  const add = button("New key", { class: "primary", onclick: () => edit(() => look()) });
  return livePage({
    title: "Keys",
    every: 0,
    signal,
    tools: [add],
    read: () => get("/api/virtual-keys", { limit: 500 }),
    draw: ({ virtual_keys }, again) => {
      look = again;
      return virtual_keys.length ? panel("Virtual keys", table("Virtual keys", ["Name", "State", "May use", "Counted", "Ends", ""], virtual_keys.map((key) => row(key, again)))) : firstStep(() => edit(again));
    },
  });
}

function row(key, again) {
  const path = `/api/virtual-keys/${encodeURIComponent(key.id)}`;
  const act = (label, work, props = {}) =>
    button(label, {
      "aria-label": `${label} ${key.name}`,
      dataset: { act: `${label} ${key.name}` },
      ...props,
      onclick: async () => {
        try {
          await work();
          await again();
        } catch (error) {
          toast(error.message, { bad: true });
        }
      },
    });
  const rotate = act("Rotate", async () => {
    if (!(await confirmed({ title: `Give ${key.name} a new reading?`, text: "The new one is shown once. The present one holds for another hour.", action: "Rotate" }))) return;
    const answer = await call("POST", `${path}/rotate`, { json: { overlap_seconds: 3600 } });
    showSecret(key.name, answer.key, "key");
  });
  const revoke = act("Revoke", async () => {
    if (!(await confirmed({ title: `Revoke ${key.name}?`, text: "Whoever holds it is refused from now on. Its jobs go on.", action: "Revoke" }))) return;
    await call("POST", `${path}/revoke`);
  }, { class: "danger" });
  const expired = key.expires_at && Date.parse(key.expires_at) < Date.now();
  const state = !key.active ? ["revoked", "tag"] : expired ? ["expired", "tag bad"] : ["active", "tag good"];
  return [
    h("span", {}, h("strong", {}, key.name), key.description ? h("span", { class: "soft small" }, ` ${key.description}`) : null),
    h("span", { class: state[1] }, state[0]),
    key.providers.map(written).join("; ") || "nothing",
    h("span", {}, ...(key.counted.length ? key.counted.map(counted) : ["no limit"])),
    key.expires_at ? moment(key.expires_at) : "never",
    key.active ? h("div", { class: "actions" }, rotate, revoke) : null,
  ];
}

function written({ provider, models }) {
  if (provider === "*" && models.includes("*")) return "everything";
  return `${provider === "*" ? "any provider" : provider}: ${models.includes("*") ? "all models" : models.join(", ") || "nothing"}`;
}

function counted(reading) {
  const write = reading.unit === "usd" ? (amount) => (amount ? money(amount) : "$0") : whole;
  const share = reading.limit ? Math.min(1, (reading.used + reading.held) / reading.limit) : 0;
  return h("span", { class: "counted" }, `${write(reading.used)} of ${write(reading.limit)} ${reading.unit === "usd" ? "" : reading.unit} in ${reading.period}`, h("span", { class: "meter", "aria-hidden": "true" }, h("span", { style: { width: `${share * 100}%` } })));
}

function edit(done) {
  const name = h("input", { required: true, maxlength: 64, autocomplete: "off" });
  const models = h("input", { value: "*", autocomplete: "off" });
  const budget = h("input", { type: "number", min: 0.01, step: 0.01, inputmode: "decimal" });
  const period = h("input", { value: "1M", pattern: "[1-9][0-9]{0,3}[mhdwMY]" });
  const problem = h("div", {});
  const form = h(
    "form",
    {},
    h("h2", { id: "new-key-title" }, "New key"),
    field("Name", name, "Who or what will use it."),
    field("Models", models, "provider/model, commas between; * is all."),
    h("div", { class: "pairs" }, field("Budget in US dollars", budget, "Nothing: no limit."), field("In", period, "1h, 1d, 1w, 1M, 1Y")),
    problem,
    h("div", { class: "actions" }, h("button", { class: "button primary" }, "Make it"), h("button", { class: "button", type: "button", onclick: () => dialog.close() }, "Not now")),
  );
  const dialog = h("dialog", { "aria-labelledby": "new-key-title" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const said = { name: name.value, providers: rules(models.value), budgets: budget.value ? [{ limit_usd: Number(budget.value), period: period.value }] : [] };
    try {
      const answer = await call("POST", "/api/virtual-keys", { json: said });
      dialog.close();
      showSecret(said.name, answer.key, "key");
      await done();
    } catch (error) {
      problem.replaceChildren(fault(error));
    }
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** `openai/gpt-image-2, builtin/*` as rules, one for each provider. */
function rules(text) {
  const found = new Map();
  for (const word of text.split(",").map((each) => each.trim()).filter(Boolean)) {
    const [provider, ...rest] = word.split("/");
    found.set(provider, [...(found.get(provider) ?? []), rest.join("/") || "*"]);
  }
  return [...found].map(([provider, models]) => ({ provider, models }));
}

function firstStep(make) {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "No virtual key yet"),
    h("p", {}, "A virtual key lets somebody call this gateway: what they may use, how much they may spend. Each sees its own jobs alone. Make one, and ask everybody for theirs with auth.required: true."),
    h("div", { class: "actions centred" }, button("Make a key", { class: "primary", onclick: make })),
  );
}
