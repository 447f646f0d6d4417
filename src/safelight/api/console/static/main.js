// The frame of the console: pages by address, the sign-in, the theme.

import { session } from "./api.js";
import { button, h, icon, toast } from "./dom.js";
import { Jobs } from "./jobs.js";
import { keysPage } from "./keys.js";
import { providersPage } from "./providers.js";
import { queuePage } from "./queue.js";
import { sheetPage } from "./sheet.js";
import { signIn } from "./sign_in.js";
import { studioPage } from "./studio.js";
import { usagePage } from "./usage.js";
import { openViewer } from "./viewer.js";
import { webhooksPage } from "./webhooks.js";

const PAGES = [
  { path: "", name: "Contact sheet", short: "Sheet", drawing: "sheet", page: sheetPage },
  { path: "studio", name: "Studio", drawing: "studio", page: studioPage },
  { path: "queue", name: "Queue", drawing: "queue", page: queuePage },
  { path: "usage", name: "Usage", drawing: "usage", page: usagePage },
  { path: "keys", name: "Keys", drawing: "keys", page: keysPage, further: true },
  { path: "webhooks", name: "Webhooks", drawing: "webhooks", page: webhooksPage, further: true },
  { path: "providers", name: "Providers", drawing: "providers", page: providersPage, further: true },
];

const jobs = new Jobs();
const main = document.getElementById("main");
let shown = { path: null, leave: new AbortController() };
let viewer = null;
let following = null;

const go = (to) => {
  if (location.hash === to) route();
  else location.hash = to;
};

/** Show what the address says. */
function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [place, id, index] = path.split("/");
  if (place === "jobs" && id) {
    if (shown.path === null) show(PAGES[0], new URLSearchParams());
    return view(id, Number(index ?? 0));
  }
  viewer?.close();
  const page = PAGES.find((each) => each.path === place) ?? PAGES[0];
  const asked = `${page.path}?${query ?? ""}`;
  if (asked !== shown.asked) show(page, new URLSearchParams(query), asked);
}

function show(page, query, asked = `${page.path}?`) {
  shown.leave.abort();
  const first = shown.path === null;
  shown = { path: page.path, asked, leave: new AbortController() };
  const open = (id, index) => go(`#/jobs/${id}/${index}`);
  main.replaceChildren(page.page({ jobs, query, signal: shown.leave.signal, open, go }));
  document.title = page.path ? `${page.name} · Safelight` : "Safelight";
  for (const link of document.querySelectorAll("#pages a")) {
    if (link.dataset.path === page.path) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!first) (main.querySelector("h1") ?? main).focus();
  window.scrollTo(0, 0);
}

function view(id, index) {
  const before = viewer;
  viewer = openViewer({
    jobs,
    id,
    index,
    go,
    closed: (frame) => {
      if (viewer?.open) return;
      viewer = null;
      if (location.hash.startsWith("#/jobs/")) history.pushState(null, "", shown.path ? `#/${shown.asked}` : "#/");
      document.querySelector(`a[href="#/jobs/${CSS.escape(frame)}"]`)?.focus({ preventScroll: true });
    },
  });
  before?.close();
}

/** Hear of the caller's jobs while the page is looked at, and only then. */
function follow() {
  following?.abort();
  following = null;
  if (document.hidden) return;
  following = new AbortController();
  jobs.follow(following.signal);
}

function navigation() {
  const link = ({ path, name, short, drawing }) => h("a", { href: `#/${path}`, dataset: { path }, "aria-label": short ? name : null }, icon(drawing), short ?? name);
  const further = PAGES.filter((page) => page.further);
  const menu = h("div", { class: "further", id: "further" }, ...further.map(link));
  const more = button("More", { drawing: "more", class: "more", "aria-expanded": "false", "aria-controls": "further" });
  more.classList.remove("button");
  const open = (is) => {
    menu.classList.toggle("open", is);
    more.setAttribute("aria-expanded", is);
  };
  more.addEventListener("click", () => open(more.getAttribute("aria-expanded") === "false"));
  menu.addEventListener("click", () => open(false));
  document.addEventListener("keydown", (event) => event.key === "Escape" && open(false));
  return [...PAGES.filter((page) => !page.further).map(link), menu, further.length ? more : null].filter(Boolean);
}

const THEMES = { auto: "dark", dark: "light", light: "auto" };

function tools() {
  const theme = button("", { class: "quiet square" });
  const apply = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    localStorage.setItem("safelight.theme", name);
    theme.replaceChildren(icon(name), h("span", { class: "spoken" }, `Theme: ${name}`));
    theme.title = `Theme: ${name}`;
  };
  theme.addEventListener("click", () => apply(THEMES[localStorage.getItem("safelight.theme")]));
  apply(localStorage.getItem("safelight.theme") in THEMES ? localStorage.getItem("safelight.theme") : "auto");
  const person = button("", { class: "quiet", drawing: "person" });
  const label = h("span", {});
  person.append(label);
  const tell = () => (label.textContent = session.key ? "Sign out" : "Sign in");
  person.addEventListener("click", () => (session.key ? (session.key = null) : signIn()));
  document.addEventListener("session", tell);
  tell();
  return [theme, person];
}

document.getElementById("pages").append(...navigation());
document.getElementById("tools").append(...tools());
document.addEventListener("session", () => {
  toast(session.key ? "Signed in" : "Signed out");
  shown.asked = null;
  follow();
  route();
});
document.addEventListener("unauthorized", () => signIn());
document.addEventListener("visibilitychange", follow);
window.addEventListener("hashchange", route);
follow();
route();
