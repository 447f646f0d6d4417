// Pages that read a state again and again, while they are looked at.

import { fault, h } from "./dom.js";
import { signIn } from "./sign_in.js";
import { keepOut } from "./table.js";

/** A page whose content `draw` makes of what `read` gives, every `every` milliseconds; 0 reads once. */
export function livePage({ title, lead, every, read, draw, signal, tools = [] }) {
  const body = h("div", { "aria-busy": "true" });
  const page = h("div", {}, h("div", { class: "head" }, h("h1", { tabindex: "-1" }, title), ...tools), lead ? h("p", { class: "soft lead" }, lead) : null, body);
  let timer = null;
  const again = async () => {
    clearTimeout(timer);
    try {
      const content = await draw(await read(), again);
      if (signal.aborted) return;
      const focused = body.contains(document.activeElement) ? document.activeElement.dataset.act : null;
      body.replaceChildren(...[content].flat(Infinity).filter(Boolean));
      if (focused) body.querySelector(`[data-act="${CSS.escape(focused)}"]`)?.focus();
    } catch (error) {
      body.replaceChildren(keepOut(error, signIn) ?? fault(error));
    }
    body.setAttribute("aria-busy", "false");
    if (every && !signal.aborted) timer = setTimeout(() => (document.hidden ? null : again()), every);
  };
  document.addEventListener("visibilitychange", () => !document.hidden && every && again(), { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  again();
  return page;
}
