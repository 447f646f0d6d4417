// Stacked bars over days, as SVG. Each bar can be reached by keyboard and says its numbers.

import { h, s } from "./dom.js";

const SIZE = { width: 520, height: 210, left: 52, right: 6, top: 8, bottom: 24 };
const SERIES = 6;
const TICKS = 4;

/** `days` are names along the bottom; `series` are `{name, values}`, one value for each day, in the order of their
 * colours; `format` writes a value. */
export function stackedBars({ title, days, series, format }) {
  const shown = folded(series);
  const totals = days.map((_, place) => shown.reduce((sum, each) => sum + each.values[place], 0));
  const top = niceTop(Math.max(...totals, 0));
  const { width, height, left, right, bottom } = SIZE;
  const across = (width - left - right) / Math.max(1, days.length);
  const y = (value) => SIZE.top + (height - SIZE.top - bottom) * (1 - value / top);
  const grid = Array.from({ length: TICKS + 1 }, (_, tick) => (top / TICKS) * tick).map((value) => [
    s("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
    s("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, format(value)),
  ]);
  const every = Math.ceil(days.length / 8);
  const bars = days.map((day, place) => {
    let base = 0;
    const said = shown.filter((each) => each.values[place]).map((each) => `${each.name} ${format(each.values[place])}`);
    const parts = shown.map((each, index) => {
      const value = each.values[place];
      const part = s("rect", { class: `series-${index + 1}`, x: left + place * across + across * 0.12, width: across * 0.76, y: y(base + value), height: Math.max(0, y(base) - y(base + value)), rx: 1 });
      base += value;
      return value ? part : null;
    });
    const label = `${day}: ${totals[place] ? format(totals[place]) : "nothing"}${said.length > 1 ? ` (${said.join(", ")})` : ""}`;
    const name = place % every === 0 ? s("text", { x: left + (place + 0.5) * across, y: height - 6, "text-anchor": "middle" }, day.slice(5)) : null;
    const area = s("rect", { x: left + place * across, width: across, y: SIZE.top, height: height - SIZE.top - bottom, fill: "transparent" });
    return [s("g", { class: "bar", tabindex: totals[place] ? 0 : null, role: "img", "aria-label": label }, s("title", {}, label), area, ...parts), name];
  });
  const legend = shown.length > 1 ? h("div", { class: "legend" }, ...shown.map((each, index) => h("span", {}, h("i", { class: `series-${index + 1}` }), each.name))) : null;
  const drawing = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title }, ...grid.flat(), ...bars.flat());
  return h("section", { class: "panel chart" }, h("h2", {}, title), drawing, legend);
}

/** The first series, and all others as one. */
function folded(series) {
  if (series.length <= SERIES) return series;
  const rest = series.slice(SERIES - 1);
  return [...series.slice(0, SERIES - 1), { name: "others", values: rest[0].values.map((_, place) => rest.reduce((total, each) => total + each.values[place], 0)) }];
}

/** A round number at or above the largest value, easy to divide by four. */
function niceTop(most) {
  if (most <= 0) return 4;
  const scale = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 8, 10].map((step) => step * scale).find((each) => each >= most) ?? most;
}
