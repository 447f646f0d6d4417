// Tables that stay readable on a phone: each cell knows the name of its column.

import { h } from "./dom.js";

/** `columns` are names, or `[name, "number"]`; `rows` are lists of cells. */
export function table(caption, columns, rows) {
  const heads = columns.map((column) => (Array.isArray(column) ? column : [column, null]));
  const head = h("tr", {}, ...heads.map(([name, kind]) => h("th", { scope: "col", class: kind }, name || h("span", { class: "spoken" }, "Actions"))));
  const cell = (content, place) => h("td", { class: heads[place][1], dataset: { label: heads[place][0] } }, content);
  return h(
    "table",
    { class: "cards" },
    h("caption", { class: "spoken" }, caption),
    h("thead", {}, head),
    h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map(cell)))),
  );
}

export const panel = (title, ...content) => h("section", { class: "panel" }, h("h2", {}, title), ...content);

export function tiles(pairs) {
  return h("dl", { class: "tiles" }, ...pairs.map(([name, value]) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value))));
}

/** What the administrator's pages show to others. */
export function keepOut(error, signIn) {
  if (error.status !== 401 && error.status !== 403) return null;
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "This page is for the administrator"),
    h("p", {}, "Sign in with the admin key of this gateway. Where none is set, open the console on the machine that it runs on."),
    h("div", { class: "actions centred" }, h("button", { class: "button primary", type: "button", onclick: signIn }, "Sign in")),
  );
}
