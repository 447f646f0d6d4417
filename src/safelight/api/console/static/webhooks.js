// Who is told of a job's end: endpoints, what they were sent, and sending it again.

import { call, get } from "./api.js";
import { button, confirmed, copy, fault, field, h, toast } from "./dom.js";
import { moment, whole } from "./format.js";
import { livePage } from "./live.js";
import { panel, table } from "./table.js";

const EVENTS = ["async_job.completed", "async_job.failed", "async_job.cancelled", "async_job.started"];
const SHOWN = 20;

export function webhooksPage({ signal }) {
  const add = button("New endpoint", { class: "primary" });
  let look = () => {};
  add.addEventListener("click", () => edit(null, () => look()));
  return livePage({
    title: "Webhooks",
    every: 0,
    signal,
    tools: [add],
    read: async () => {
      const { endpoints } = await get("/api/webhooks", { limit: 100 });
      const sent = await Promise.all(endpoints.map((endpoint) => get(`/api/webhooks/${endpoint.id}/deliveries`, { limit: SHOWN })));
      return endpoints.map((endpoint, place) => ({ ...endpoint, deliveries: sent[place].deliveries }));
    },
    draw: (endpoints, again) => {
      look = again;
      return endpoints.length ? endpoints.map((endpoint) => one(endpoint, again)) : firstStep(() => edit(null, again));
    },
  });
}

function one(endpoint, again) {
  const base = `/api/webhooks/${endpoint.id}`;
  const act = (label, work, props = {}) =>
    button(label, {
      "aria-label": `${label} ${endpoint.name}`,
      dataset: { act: `${label} ${endpoint.name}` },
      ...props,
      onclick: async () => {
        try {
          await work();
        } catch (error) {
          toast(error.message, { bad: true });
        }
      },
    });
  const test = act("Send a test", async () => {
    const answer = await call("POST", `${base}/test`, { json: {} });
    if (answer.delivered) toast(`Delivered: the receiver answered ${answer.receiver_status_code}`);
    else toast(`Not delivered: ${answer.error}`, { bad: true });
    await again();
  });
  const rotate = act("Rotate the secret", async () => {
    if (!(await confirmed({ title: "Make a new secret?", text: "The new one is shown once. Deliveries are signed with both for a day, so that the receiver can be changed in between.", action: "Rotate" }))) return;
    const { secret } = await call("POST", `${base}/rotate-secret`, { json: { overlap_seconds: 86400 } });
    showSecret(endpoint.name, secret);
    await again();
  });
  const paused = endpoint.paused_at ? act("Resume", async () => (await call("POST", `${base}/resume`), again())) : null;
  const remove = act("Delete", async () => {
    if (!(await confirmed({ title: `Delete ${endpoint.name}?`, text: "What it has not been told yet is dropped.", action: "Delete" }))) return;
    await call("DELETE", base);
    await again();
  }, { class: "danger" });
  return panel(
    endpoint.name,
    h("p", { class: "mono" }, endpoint.url),
    h(
      "div",
      { class: "head" },
      h("div", { class: "tags" }, state(endpoint), ...endpoint.events.map((event) => h("span", { class: "tag" }, event)), endpoint.pending_deliveries ? h("span", { class: "tag warm" }, `${whole(endpoint.pending_deliveries)} on the way`) : null),
      h("div", { class: "actions" }, test, paused, act("Change", async () => edit(endpoint, again)), rotate, remove),
    ),
    endpoint.deliveries.length ? table(`Deliveries to ${endpoint.name}`, ["When", "Event", "Try", "Outcome", "Job", ""], endpoint.deliveries.map((each) => delivery(each, act, again))) : h("p", { class: "soft" }, "Nothing was sent yet."),
  );
}

function state(endpoint) {
  if (endpoint.disabled) return h("span", { class: "tag" }, "off");
  if (endpoint.paused_at) return h("span", { class: "tag bad", title: endpoint.pause_reason }, `paused: ${endpoint.pause_reason ?? "it kept failing"}`);
  if (endpoint.consecutive_failures) return h("span", { class: "tag warm" }, `${whole(endpoint.consecutive_failures)} failures in a row`);
  return h("span", { class: "tag good" }, "on");
}

function delivery(each, act, again) {
  const good = each.outcome === "delivered" || each.outcome === "success";
  const again_ = act("Send again", async () => {
    await call("POST", `/api/webhooks/deliveries/${each.id}/redeliver`);
    toast("Queued once more");
    await again();
  });
  again_.dataset.act = `again ${each.id}`;
  return [
    moment(each.created_at),
    each.event,
    String(each.attempt_no),
    h("span", { class: `state ${good ? "completed" : "failed"}` }, [each.outcome, each.status_code ?? each.error].filter(Boolean).join(", ")),
    each.async_job_id ? h("a", { href: `#/jobs/${each.async_job_id}/0` }, each.async_job_id.slice(0, 8)) : "test",
    again_,
  ];
}

function edit(endpoint, done) {
  const name = h("input", { name: "name", required: true, maxlength: 64, autocomplete: "off", value: endpoint?.name ?? "" });
  const url = h("input", { name: "url", type: "url", required: true, placeholder: "https://shop.example/hook", value: endpoint?.url ?? "" });
  const chosen = new Set(endpoint?.events ?? EVENTS.slice(0, 2));
  const events = EVENTS.map((event) => h("label", {}, h("input", { type: "checkbox", name: "events", value: event, checked: chosen.has(event) }), event));
  const priv = h("input", { type: "checkbox", name: "allow_private_network", checked: endpoint?.allow_private_network === true });
  const problem = h("div", {});
  const form = h(
    "form",
    {},
    h("h2", { id: "endpoint-title" }, endpoint ? `Change ${endpoint.name}` : "New endpoint"),
    field("Name", name, "Submits name it: x-bf-async-webhook: NAME."),
    field("Address", url),
    h("fieldset", { class: "plain-set" }, h("legend", { class: "label" }, "Tell it of"), h("div", { class: "checks" }, ...events)),
    h("div", { class: "checks" }, h("label", {}, priv, "It is on a private network")),
    problem,
    h("div", { class: "actions" }, h("button", { class: "button primary" }, endpoint ? "Save" : "Make it"), h("button", { class: "button", type: "button", onclick: () => dialog.close() }, "Not now")),
  );
  const dialog = h("dialog", { "aria-labelledby": "endpoint-title" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const kept = endpoint ? changeable(endpoint) : {};
    const said = { ...kept, name: name.value, url: url.value, events: events.map((label) => label.firstChild).filter((box) => box.checked).map((box) => box.value), allow_private_network: priv.checked };
    try {
      const answer = endpoint ? await call("PUT", `/api/webhooks/${endpoint.id}`, { json: said }) : await call("POST", "/api/webhooks", { json: said });
      dialog.close();
      if (answer.secret) showSecret(said.name, answer.secret);
      await done();
    } catch (error) {
      problem.replaceChildren(fault(error));
    }
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** What a change must say again, as it replaces the whole. */
function changeable(endpoint) {
  const told = ["id", "consecutive_failures", "pending_deliveries", "last_success_at", "last_failure_at", "paused_at", "former_secret_until", "pause_reason", "config_hash", "created_at", "updated_at", "deliveries"];
  return Object.fromEntries(Object.entries(endpoint).filter(([name]) => !told.includes(name)));
}

/** Show what is never shown again. */
export function showSecret(name, secret, what = "secret") {
  const copied = button("Copy", { onclick: async () => (await copy(secret), toast("Copied")) });
  const dialog = h(
    "dialog",
    { "aria-labelledby": "secret-title" },
    h(
      "form",
      { method: "dialog" },
      h("h2", { id: "secret-title" }, `The ${what} of ${name}`),
      h("p", { class: "soft" }, "It is shown this once. Keep it where it is needed."),
      h("div", { class: "secret" }, h("code", {}, secret), copied),
      h("div", { class: "actions" }, h("button", { class: "button primary" }, "I have it")),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function firstStep(make) {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "Nobody is told yet"),
    h("p", {}, "An endpoint is an address of yours that hears when a job has ended, signed as Standard Webhooks says. Make one, then name it in a submit:"),
    h("pre", { tabindex: "0" }, "curl … -H 'x-bf-async-webhook: orders'"),
    h("div", { class: "actions centred" }, button("Make an endpoint", { class: "primary", onclick: make })),
  );
}
