// Makes elements. Text is always text: nothing here reads HTML.

/** An element; `on…` members of `props` are listeners, `dataset` and `style` are copied, the rest are attributes. */
export function h(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** The same for drawings. */
export function s(tag, props = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset" || name === "style") Object.assign(element[name], value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const DRAWINGS = {
  sheet: ["M3 5h18v14H3z", "M3 12h18", "M9 5v14", "M15 5v14"],
  studio: ["M4 20l4-1L19 8l-3-3L5 16z", "M14 7l3 3"],
  queue: ["M4 6h16", "M4 12h11", "M4 18h6"],
  usage: ["M4 20V10", "M10 20V4", "M16 20v-7", "M21 20H3"],
  keys: ["M15 9a4 4 0 1 0-4 4l1.5-.2L14 14h2v2h2v2h3v-3l-6-6z"],
  webhooks: ["M12 7a3 3 0 1 0-4 2.8L5.5 15", "M8 17h8", "M14.5 9l3 5.2", "M5 17a1 1 0 1 0 .1 0z", "M19 17a1 1 0 1 0 .1 0z"],
  providers: ["M5 4h14v6H5z", "M5 14h14v6H5z", "M8 7h.01", "M8 17h.01"],
  more: ["M4 7h16", "M4 12h16", "M4 17h16"],
  close: ["M6 6l12 12", "M18 6L6 18"],
  left: ["M15 5l-7 7 7 7"],
  right: ["M9 5l7 7-7 7"],
  light: ["M12 8a4 4 0 1 0 .01 0z", "M12 2v2", "M12 20v2", "M2 12h2", "M20 12h2", "M5 5l1.4 1.4", "M17.6 17.6L19 19", "M5 19l1.4-1.4", "M17.6 6.4L19 5"],
  dark: ["M20 14.5A8 8 0 0 1 9.5 4a8 8 0 1 0 10.5 10.5z"],
  auto: ["M12 3a9 9 0 1 0 .01 0z", "M12 3v18", "M12 8h6", "M12 12h8", "M12 16h6"],
  person: ["M12 4a4 4 0 1 0 .01 0z", "M4 21c1-5 4-7 8-7s7 2 8 7"],
  again: ["M4 12a8 8 0 1 0 3-6.2", "M4 4v4h4"],
  vary: ["M4 8c4-6 6 6 10 0s4 4 6 0", "M4 16c4-6 6 6 10 0s4 4 6 0"],
  download: ["M12 4v11", "M7 11l5 5 5-5", "M4 20h16"],
  bin: ["M5 7h14", "M9 7V4h6v3", "M7 7l1 13h8l1-13"],
  stop: ["M6 6h12v12H6z"],
  image: ["M3 5h18v14H3z", "M3 16l5-5 4 4 3-3 6 5", "M15.5 9h.01"],
  alert: ["M12 4L2.5 20h19z", "M12 10v4", "M12 17h.01"],
};

/** A small drawing beside a word; says nothing by itself. */
export function icon(name) {
  const paths = DRAWINGS[name].map((d) => s("path", { d }));
  return s("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, ...paths);
}

/** A button; with `icon` and no text visible, `label` names it. */
export function button(label, { drawing, hideLabel = false, ...props } = {}) {
  const kind = ["button", props.class, hideLabel ? "square" : ""].filter(Boolean).join(" ");
  const text = hideLabel ? h("span", { class: "spoken" }, label) : label;
  return h("button", { type: "button", title: hideLabel ? label : null, ...props, class: kind }, drawing ? icon(drawing) : null, text);
}

/** A field under its name. `control` gets an id, and the hint as its description. */
export function field(label, control, hint) {
  control.id ||= `field-${(field.count = (field.count ?? 0) + 1)}`;
  const below = hint ? h("p", { class: "hint", id: `${control.id}-hint` }, hint) : null;
  if (below) control.setAttribute("aria-describedby", below.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, below);
}

/** A choice out of `options`: texts, or pairs of value and text. */
export function choice(options, { value, ...props } = {}) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  const element = h("select", props, ...pairs.map(([each, text]) => h("option", { value: each }, text)));
  if (value !== undefined) element.value = value;
  return element;
}

/** Tell in passing; read aloud too. */
export function toast(text, { bad = false } = {}) {
  const element = h("div", { class: bad ? "toast bad" : "toast" }, text);
  document.getElementById("toasts").append(element);
  setTimeout(() => element.remove(), bad ? 9000 : 4500);
}

/** A fault, in the words of the gateway. */
export function fault(error) {
  return h("div", { class: "fault", role: "alert" }, h("strong", {}, "That did not work. "), error.message);
}

/** Ask before something that cannot be undone; gives whether it was agreed to. */
export function confirmed({ title, text, action }) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-labelledby": "confirm-title" },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "confirm-title" }, title),
        h("p", { class: "soft" }, text),
        h("div", { class: "actions" }, h("button", { class: "button danger", value: "yes" }, action), h("button", { class: "button", value: "" }, "Keep it")),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Put text on the clipboard, also where the page is not a secure context. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h("textarea", { class: "spoken", value: text });
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
