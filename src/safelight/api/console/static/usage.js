// What was made and what it cost, over time.

import { get } from "./api.js";
import { stackedBars } from "./chart.js";
import { choice, h } from "./dom.js";
import { money, whole } from "./format.js";
import { livePage } from "./live.js";
import { panel, table, tiles } from "./table.js";

const BY = { model: "Model", provider: "Provider", key: "Key" };
const DAY_MS = 86_400_000;

export function usagePage({ signal }) {
  const by = choice(Object.entries(BY), { "aria-label": "Broken down by", value: "model" });
  const span = choice([["7", "7 days"], ["30", "30 days"], ["90", "90 days"]], { "aria-label": "Over", value: "30" });
  let look = () => {};
  for (const each of [by, span]) each.addEventListener("change", () => look());
  return livePage({
    title: "Usage",
    every: 0,
    signal,
    tools: [h("div", { class: "filters" }, by, span)],
    read: async () => {
      const since = isoDay(Date.now() - (span.value - 1) * DAY_MS);
      const columns = by.value === "model" ? "day,provider,model" : `day,${by.value}`;
      return { ...(await get("/api/usage", { since, by: columns })), by: by.value, since };
    },
    draw: (found, again) => {
      look = again;
      return drawn(found);
    },
  });
}

function drawn({ data, by, since, until }) {
  if (!data.length) return firstStep();
  const days = daysBetween(since, until);
  const nameOf = (row) => (by === "model" ? `${row.provider}/${row.model}` : (row[by] ?? "no key"));
  const total = (name, member) => data.filter((row) => nameOf(row) === name).reduce((all, row) => all + (row[member] ?? 0), 0);
  // One order for all charts, so that a colour means the same in each.
  const names = [...new Set(data.map(nameOf))].sort((one, other) => total(other, "cost_usd") - total(one, "cost_usd") || total(other, "jobs") - total(one, "jobs"));
  const place = new Map(days.map((day, index) => [day, index]));
  const series = (member) =>
    names.map((name) => {
      const values = days.map(() => 0);
      for (const row of data) if (nameOf(row) === name) values[place.get(row.day)] += row[member] ?? 0;
      return { name, values };
    });
  const sum = (member) => data.reduce((total, row) => total + (row[member] ?? 0), 0);
  const seconds = (name) => (total(name, "jobs") ? `${(total(name, "seconds") / total(name, "jobs")).toFixed(1)} s` : "–");
  const dollars = (usd) => (usd ? money(usd) : "$0");
  return [
    tiles([
      ["Cost", dollars(sum("cost_usd"))],
      ["Jobs", whole(sum("jobs"))],
      ["Pictures", whole(sum("images"))],
      ["Failed", whole(sum("failed"))],
      ["Calls without a known price", whole(sum("unpriced"))],
    ]),
    h(
      "div",
      { class: "charts" },
      stackedBars({ title: "Cost in US dollars", days, series: series("cost_usd"), format: dollars }),
      stackedBars({ title: "Jobs", days, series: series("jobs"), format: whole }),
      stackedBars({ title: "Failed jobs", days, series: series("failed"), format: whole }),
      stackedBars({ title: "Hours at work", days, series: series("seconds").map((each) => ({ ...each, values: each.values.map((value) => value / 3600) })), format: (hours) => (hours < 10 ? hours.toFixed(2) : hours.toFixed(0)) }),
    ),
    panel(
      `By ${by}`,
      table(`Usage by ${by}`, [BY[by], ["Jobs", "number"], ["Failed", "number"], ["Pictures", "number"], ["Seconds a job", "number"], ["Cost", "number"]], names.map((name) => [name, whole(total(name, "jobs")), whole(total(name, "failed")), whole(total(name, "images")), seconds(name), dollars(total(name, "cost_usd"))])),
    ),
  ];
}

const isoDay = (time) => new Date(time).toISOString().slice(0, 10);

function daysBetween(first, last) {
  const days = [];
  for (let time = Date.parse(first); time <= Date.parse(last); time += DAY_MS) days.push(isoDay(time));
  return days;
}

function firstStep() {
  return h("div", { class: "empty" }, h("h2", {}, "Nothing was made in this time"), h("p", {}, "Jobs appear here as soon as they have called a provider."), h("div", { class: "actions centred" }, h("a", { class: "button primary", href: "#/studio" }, "To the studio")));
}
