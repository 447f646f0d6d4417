// What waits and what runs, by provider; pausing and draining.

import { call, get } from "./api.js";
import { button, confirmed, h, toast } from "./dom.js";
import { moment, span, whole } from "./format.js";
import { livePage } from "./live.js";
import { panel, table, tiles } from "./table.js";

const EVERY_MS = 2000;
const SWITCHED = { on: ["on", "tag good"], paused: ["paused", "tag warm"], draining: ["draining", "tag warm"] };

export function queuePage({ signal }) {
  return livePage({ title: "Queue", every: EVERY_MS, signal, read: () => get("/api/queue"), draw: drawn });
}

function drawn({ data }, again) {
  const total = (name) => data.reduce((sum, lane) => sum + lane[name], 0);
  const oldest = Math.max(0, ...data.map((lane) => lane.oldest_pending_s ?? 0));
  const alone = data.flatMap((lane) => lane.left_alone.map((each) => [`${lane.provider}/${each.model}`, each.until]));
  const keys = data.flatMap((lane) => lane.keys.filter((key) => !key.usable).map((key) => [lane.provider, key]));
  return [
    tiles([
      ["Waiting", whole(total("pending"))],
      ["Developing", whole(total("processing"))],
      ["Oldest waiting", total("pending") ? span(oldest) : "–"],
      ["Models left alone", whole(alone.length)],
    ]),
    panel("Providers", table("The queue by provider", ["Provider", "", ["Waiting", "number"], ["Oldest", "number"], ["Developing", "number"], "Slots", ""], data.map((lane) => row(lane, again)))),
    alone.length ? panel("Left alone, because they fail again and again", table("Models left alone", ["Model", "One call goes to see at"], alone.map(([name, until]) => [name, moment(until)]))) : null,
    keys.length ? panel("Keys that may not be used now", table("Keys", ["Provider", "Key", "Why"], keys.map(([provider, key]) => [provider, key.name, key.refused ? "The provider refused it" : `Over its limit for ${key.cooling.map((each) => each.model).join(", ")}`]))) : null,
  ];
}

function row(lane, again) {
  const [word, look] = SWITCHED[lane.switch];
  const taken = lane.slots ? Math.min(1, lane.processing / lane.slots) : 0;
  const meter = h("span", { class: "meter", "aria-hidden": "true" }, h("span", { style: { width: `${taken * 100}%` } }));
  return [
    h("strong", {}, lane.provider),
    h("span", { class: look }, word),
    h("span", {}, whole(lane.pending), lane.waiting.length > 1 ? h("span", { class: "soft small" }, ` ${lane.waiting.map((each) => `${whole(each.count)} ${each.priority}, ${span(each.oldest_s)}`).join("; ")}`) : null),
    lane.oldest_pending_s === null ? "–" : span(lane.oldest_pending_s),
    whole(lane.processing),
    lane.slots === null ? "not in the settings" : h("span", {}, `${whole(lane.processing)} of ${whole(lane.slots)}`, meter),
    lane.slots === null ? null : switches(lane, again),
  ];
}

export function switches(lane, again) {
  const act = (label, action, { ask } = {}) =>
    button(label, {
      "aria-label": `${label} ${lane.provider}`,
      dataset: { act: `${action} ${lane.provider}` },
      onclick: async () => {
        if (ask && !(await confirmed({ title: `${label} ${lane.provider}?`, text: ask, action: label }))) return;
        try {
          await call("POST", `/api/providers/${encodeURIComponent(lane.provider)}/${action}`);
          await again();
        } catch (error) {
          toast(error.message, { bad: true });
        }
      },
    });
  if (lane.switch !== "on") return h("div", { class: "actions" }, act("Resume", "resume"));
  return h(
    "div",
    { class: "actions" },
    act("Pause", "pause", { ask: "Nothing new starts there until it is resumed; its jobs wait. What runs goes on." }),
    act("Drain", "drain", { ask: "Nothing new starts there until it is resumed; jobs with fallbacks take them, the others wait." }),
  );
}
