// The contact sheet: every picture of the caller, as it develops. Only what is in sight is in the document.

import { call, linked } from "./api.js";
import { button, choice, fault, h, icon, toast } from "./dom.js";
import { OPERATIONS, STATES, shortened, span } from "./format.js";
import { ended, state } from "./jobs.js";
import { laidOut, within } from "./layout.js";
import { models } from "./models.js";

const IDEAS = ["a lighthouse in a storm, seen from the sea", "red kite over dunes at dawn", "a quiet harbour under snow, at night"];
const SQUARE = 1;

export function sheetPage({ jobs, signal, open }) {
  const sheet = new Sheet(jobs, open);
  const filters = filterBar((filter) => sheet.show(filter));
  const page = h(
    "div",
    { class: "sheet-page" },
    h("h1", { class: "spoken", tabindex: "-1" }, "Contact sheet"),
    composer(jobs),
    filters,
    sheet.element,
  );
  jobs.addEventListener("change", () => sheet.changed(), { signal });
  jobs.addEventListener("job", (event) => sheet.moved(event.detail), { signal });
  window.addEventListener("scroll", () => sheet.scrolled(), { signal, passive: true });
  const size = new ResizeObserver(() => sheet.changed());
  size.observe(sheet.element);
  signal.addEventListener("abort", () => size.disconnect());
  sheet.show({});
  return page;
}

/** One line, one button: the shortest way to a picture. */
function composer(jobs) {
  const prompt = h("input", { id: "quick-prompt", name: "prompt", autocomplete: "off", placeholder: "Describe a picture …", maxlength: 4000 });
  const model = h("select", { "aria-label": "Model", name: "model" });
  const develop = button("Develop", { class: "primary", type: "submit" });
  const form = h(
    "form",
    { class: "composer" },
    h("label", { class: "spoken", for: "quick-prompt" }, "Describe a picture"),
    prompt,
    model,
    develop,
  );
  models().then((found) => found.fill(model, "image_generation"), (error) => toast(error.message, { bad: true }));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!prompt.value.trim()) return prompt.focus();
    develop.disabled = true;
    const request = { model: model.value, prompt: prompt.value.trim(), response_format: "url" };
    try {
      jobs.add(await call("POST", "/v1/async/images/generations", { json: request }), request);
      localStorage.setItem("safelight.model", model.value);
    } catch (error) {
      toast(error.message, { bad: true });
    } finally {
      develop.disabled = false;
    }
  });
  return form;
}

function filterBar(changed) {
  const status = choice([["", "Every state"], ...["pending", "processing", "completed", "failed"].map((each) => [each, STATES[each]])], { "aria-label": "State" });
  const type = choice([["", "Every kind"], ...Object.entries(OPERATIONS)], { "aria-label": "Kind" });
  const model = h("select", { "aria-label": "Model" }, h("option", { value: "" }, "Every model"));
  models().then((found) => found.fill(model), () => {});
  const since = choice([["", "Any time"], ["3600", "Last hour"], ["86400", "Last day"], ["604800", "Last week"]], { "aria-label": "Time" });
  const clear = button("Clear", { class: "quiet", hidden: true });
  const tell = () => {
    const after = since.value && new Date(Date.now() - since.value * 1000).toISOString();
    clear.hidden = ![status, type, model, since].some((each) => each.value);
    changed({ status: status.value, type: type.value, model: model.value, created_after: after });
  };
  for (const each of [status, type, model, since]) each.addEventListener("change", tell);
  clear.addEventListener("click", () => {
    for (const each of [status, type, model, since]) each.value = "";
    tell();
    status.focus();
  });
  return h("div", { class: "filters", role: "group", "aria-label": "Filters" }, status, type, model, since, clear);
}

class Sheet {
  #jobs;
  #open;
  #rows = [];
  #height = 0;
  #shown = new Map();
  #frames = [];
  #places = new Map();
  #current = null;
  #filtered = false;
  #due = false;

  constructor(jobs, open) {
    this.#jobs = jobs;
    this.#open = open;
    this.board = h("ul", { class: "board", role: "list", "aria-label": "Pictures, newest first", onkeydown: (event) => this.#key(event) });
    this.rest = h("div", { class: "sheet-rest" });
    this.element = h("section", { class: "sheet", "aria-busy": "true" }, this.board, this.rest);
  }

  show(filter) {
    this.#filtered = Object.values(filter).some(Boolean);
    this.element.setAttribute("aria-busy", "true");
    window.scrollTo(0, 0);
    this.#jobs.show(filter);
  }

  changed() {
    this.element.setAttribute("aria-busy", "false");
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#lay();
    });
  }

  #lay() {
    this.#frames = this.#jobs.list.flatMap((id) => framesOf(this.#jobs.find(id)));
    this.#places = new Map(this.#frames.map((frame, place) => [frame.key, place]));
    const { rows, height } = laidOut(this.#frames, this.board.clientWidth);
    this.#rows = rows;
    this.#height = height;
    this.board.style.height = `${height}px`;
    this.board.hidden = !this.#frames.length;
    if (!this.#places.has(this.#current)) this.#current = this.#frames[0]?.key ?? null;
    this.rest.replaceChildren(this.#below());
    this.scrolled();
  }

  #below() {
    const { problem, complete } = this.#jobs;
    if (problem) return fault(problem);
    if (this.#frames.length) return h("p", { class: "small soft" }, complete ? "" : "Loading more …");
    if (!complete) return h("p", { class: "small soft" }, "Loading …");
    return this.#filtered ? nothingFound() : firstStep();
  }

  /** Put into the document what is in sight, with a margin, and take out the rest. */
  scrolled() {
    const top = this.board.getBoundingClientRect().top;
    const sight = window.innerHeight;
    const [first, last] = within(this.#rows, -top - sight, -top + 2 * sight);
    const wanted = new Map();
    for (const row of this.#rows.slice(first, last)) for (const cell of row.cells) wanted.set(cell.frame.key, { ...cell, row });
    if (!wanted.has(this.#current) && this.#shown.get(this.#current)?.contains(document.activeElement)) {
      const row = this.#rows.find(({ cells }) => cells.some(({ frame }) => frame.key === this.#current));
      if (row) wanted.set(this.#current, { ...row.cells.find(({ frame }) => frame.key === this.#current), row });
    }
    for (const [key, element] of this.#shown) {
      if (!wanted.has(key)) {
        element.remove();
        this.#shown.delete(key);
      }
    }
    let before = null;
    for (const [key, cell] of wanted) {
      const element = this.#shown.get(key) ?? this.#frame(key);
      this.#shown.set(key, element);
      paint(element, cell.frame, this.#jobs.find(cell.frame.id));
      place(element, cell, this.#places.get(key), this.#frames.length);
      element.firstChild.tabIndex = key === this.#current ? 0 : -1;
      const next = before ? before.nextSibling : this.board.firstChild;
      if (next !== element) this.board.insertBefore(element, next);
      before = element;
    }
    if (!this.#jobs.complete && !this.#jobs.problem && this.#frames.length && top + this.#height < 3 * sight) this.#jobs.more();
  }

  #frame(key) {
    const link = h("a", { class: "frame-link", onfocus: () => this.#take(key) }, h("span", { class: "film" }));
    link.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      this.#open(key.split("/")[0], Number(key.split("/")[1]));
    });
    return h("li", { class: "frame" }, link, h("div", { class: "caption", "aria-hidden": "true" }));
  }

  #take(key) {
    const before = this.#shown.get(this.#current);
    if (before) before.firstChild.tabIndex = -1;
    this.#current = key;
    this.#shown.get(key).firstChild.tabIndex = 0;
  }

  moved(id) {
    const job = this.#jobs.find(id);
    for (const frame of framesOf(job)) {
      const element = this.#shown.get(frame.key);
      if (element) paint(element, frame, job);
    }
  }

  #key(event) {
    const place = this.#places.get(this.#current);
    const row = this.#rows.findIndex(({ cells }) => cells.some(({ frame }) => frame.key === this.#current));
    const column = this.#rows[row]?.cells.findIndex(({ frame }) => frame.key === this.#current);
    const beside = (step) => this.#rows[row + step]?.cells.at(Math.min(column, (this.#rows[row + step]?.cells.length ?? 1) - 1))?.frame.key;
    const goals = {
      ArrowRight: () => this.#frames[place + 1]?.key,
      ArrowLeft: () => this.#frames[place - 1]?.key,
      ArrowDown: () => beside(1),
      ArrowUp: () => beside(-1),
      Home: () => this.#frames[0]?.key,
      End: () => this.#frames.at(-1)?.key,
    };
    const goal = goals[event.key]?.();
    if (!goal || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.focus(goal);
  }

  /** Bring a frame into sight and go to it. */
  focus(key) {
    const row = this.#rows.find(({ cells }) => cells.some(({ frame }) => frame.key === key));
    if (!row) return;
    const top = this.board.getBoundingClientRect().top + row.top;
    if (top < 70) window.scrollBy(0, top - 80);
    else if (top + row.height + 40 > window.innerHeight) window.scrollBy(0, top + row.height + 60 - window.innerHeight);
    this.scrolled();
    this.#shown.get(key)?.firstChild.focus({ preventScroll: true });
  }
}

/** A frame for each picture there is, or is to be. */
function framesOf(job) {
  if (!job) return [];
  const pictures = job.result?.data ?? Array.from({ length: ended(job) ? 1 : Math.max(1, job.request?.n ?? 1) }, () => null);
  return pictures.map((picture, index) => ({ key: `${job.id}/${index}`, id: job.id, index, ratio: ratioOf(job, index) }));
}

function ratioOf(job, index) {
  const made = job.pictures?.[index];
  if (made) return bounded(made.width / made.height);
  const asked = /^(\d+)[x:](\d+)$/.exec(job.request?.size ?? job.request?.aspect_ratio ?? "");
  return asked ? bounded(asked[1] / asked[2]) : SQUARE;
}

const bounded = (ratio) => Math.min(3, Math.max(0.4, ratio));

function place(element, { left, width, row }, index, count) {
  Object.assign(element.style, { transform: `translate(${left}px, ${row.top}px)`, width: `${width}px` });
  element.firstChild.style.height = `${row.height}px`;
  element.setAttribute("aria-posinset", index + 1);
  element.setAttribute("aria-setsize", count);
}

/** Show a frame as its job now is; changes nothing where nothing has changed. */
function paint(element, frame, job) {
  const [link, caption] = element.children;
  const url = job.result?.data?.[frame.index]?.url ?? job.previews?.[frame.index] ?? null;
  const looks = [state(job), url, job.progress, job.meta.attempts, job.request?.prompt].join("|");
  if (element.dataset.looks === looks) return;
  const was = element.dataset.state;
  Object.assign(element.dataset, { looks, state: state(job) });
  const prompt = job.request?.prompt ?? OPERATIONS[job.meta.request_type];
  link.href = `#/jobs/${job.id}/${frame.index}`;
  link.setAttribute("aria-label", `${shortened(prompt)}. ${STATES[state(job)]}, ${job.meta.model}`);
  if (url) show(link, url, { developing: was === "processing" || was === "pending" });
  else link.replaceChildren(blank(job));
  link.classList.toggle("partial", Boolean(url) && !ended(job));
  link.style.setProperty("--progress", job.progress ?? 0);
  caption.replaceChildren(
    h("span", { class: "edge" }, job.meta.model.split("/").at(-1)),
    h("span", { class: ended(job) ? "edge" : "edge live" }, captionOf(job)),
  );
}

function captionOf(job) {
  if (job.status === "pending" && job.meta.queue_position) return `${job.meta.queue_position} before`;
  if (!ended(job)) return job.progress ? `${Math.round(job.progress * 100)} %` : STATES[job.status];
  if (job.status === "failed") return STATES[state(job)];
  return span(job.result?.extra_fields?.latency / 1000);
}

function show(link, url, { developing }) {
  const held = link.querySelector("img");
  if (held?.dataset.url === url) return;
  const image = h("img", { src: linked(url), alt: "", decoding: "async", dataset: { url }, class: developing ? "developing" : null });
  image.addEventListener("error", () => link.replaceChildren(h("span", { class: "film" }, h("span", { class: "note" }, icon("image"), "The picture is gone"))));
  if (held) image.addEventListener("load", () => held.remove(), { once: true });
  link.replaceChildren(...(held ? [held] : []), image);
}

function blank(job) {
  if (job.status === "failed") {
    const words = state(job) === "cancelled" ? STATES.cancelled : (job.error?.error?.message ?? STATES.failed);
    return h("span", { class: "film failed" }, h("span", { class: "note" }, icon(state(job) === "cancelled" ? "stop" : "alert"), shortened(words, 90)));
  }
  return h("span", { class: `film ${job.status}` }, h("span", { class: "bar" }), h("span", { class: "note" }, shortened(job.request?.prompt ?? "", 80)));
}

function firstStep() {
  const ideas = IDEAS.map((idea) =>
    button(idea, {
      onclick: () => {
        document.getElementById("quick-prompt").value = idea;
        document.querySelector(".composer").requestSubmit();
      },
    }),
  );
  return h(
    "div",
    { class: "empty" },
    h("img", { src: "console/lamp.svg", alt: "", width: 56, height: 56 }),
    h("h2", {}, "Nothing on the sheet yet"),
    h("p", {}, "Describe a picture above, or take one of these. The built-in model draws it here, without a key and without a network."),
    h("div", { class: "actions centred" }, ...ideas),
  );
}

function nothingFound() {
  return h("div", { class: "empty" }, h("h2", {}, "No picture fits these filters"), h("p", {}, "Take a filter away to see more."));
}
