// Asks for a key. It stays in this tab and goes nowhere but to the gateway.

import { get, session } from "./api.js";
import { h } from "./dom.js";

let open = null;

export function signIn() {
  if (open) return;
  const key = h("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true, placeholder: "sk-bf-…" });
  const problem = h("p", { class: "fault", role: "alert", hidden: true });
  const submit = h("button", { class: "button primary" }, "Sign in");
  const form = h(
    "form",
    {},
    h("h2", { id: "sign-in-title" }, "Sign in"),
    h("p", { class: "soft" }, "With a virtual key you see its jobs; with the admin key, everything."),
    h("div", {}, h("label", { for: "key" }, "Key"), key, h("p", { class: "hint" }, "Kept in this tab until it is closed.")),
    problem,
    h("div", { class: "actions" }, submit, h("button", { class: "button", type: "button", onclick: () => open.close() }, "Not now")),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      await get("/v1/async/jobs", { limit: 1 }, { headers: { authorization: `Bearer ${key.value.trim()}` } });
      session.key = key.value.trim();
      open.close();
    } catch (error) {
      problem.textContent = error.status === 401 ? "The gateway does not know this key." : error.message;
      problem.hidden = false;
      key.focus();
    } finally {
      submit.disabled = false;
    }
  });
  open = h("dialog", { "aria-labelledby": "sign-in-title" }, form);
  open.addEventListener("close", () => {
    open.remove();
    open = null;
  });
  document.body.append(open);
  open.showModal();
  key.focus();
}
