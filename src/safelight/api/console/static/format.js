// How numbers, times and names read.

export function money(usd) {
  if (usd === null || usd === undefined) return "unknown";
  if (usd === 0) return "free";
  const digits = usd < 0.01 ? 4 : usd < 1 ? 3 : 2;
  return `$${usd.toFixed(digits)}`;
}

/** A length of time, given in seconds. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.round((seconds % 86400) / 3600)} h`;
}

export function seconds(from, to) {
  return from && to ? (Date.parse(to) - Date.parse(from)) / 1000 : null;
}

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export function moment(text) {
  return text ? clock.format(new Date(text)) : "–";
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  if (count < 1_000_000) return `${(count / 1000).toFixed(0)} kB`;
  return `${(count / 1_000_000).toFixed(1)} MB`;
}

export function whole(count) {
  return count.toLocaleString();
}

export function shortened(text, most = 120) {
  return text.length > most ? `${text.slice(0, most - 1).trimEnd()}…` : text;
}

export const OPERATIONS = {
  image_generation: "Generation",
  image_edit: "Edit",
  image_variation: "Variation",
};

export const STATES = {
  pending: "Waiting",
  processing: "Developing",
  completed: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
};
