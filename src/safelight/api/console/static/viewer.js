// One job in full: its picture large, and beside it everything that is known.

import { call, linked, picture, session } from "./api.js";
import { button, confirmed, copy, fault, h, icon, toast } from "./dom.js";
import { OPERATIONS, STATES, bytes, money, moment, seconds, span } from "./format.js";
import { ended, state } from "./jobs.js";
import { models } from "./models.js";
import { asCurl, asPython, parameters, submitPath } from "./recipes.js";

const SHOWN_APART = new Set(["prompt", "model", "negative_prompt"]);

/** Open the view over the page; `closed` is called when it goes, `go` leads to a page or another picture. */
export function openViewer({ jobs, id, index, closed, go }) {
  const stage = h("div", { class: "stage" });
  const facts = h("div", { class: "facts" });
  const title = h("h2", { id: "viewer-title", tabindex: "-1" });
  const close = button("Close", { drawing: "close", hideLabel: true, class: "quiet", onclick: () => dialog.close() });
  const bar = h("div", { class: "viewer-bar" }, title, close);
  const dialog = h("dialog", { class: "viewer", "aria-labelledby": "viewer-title" }, stage, h("div", { class: "side" }, bar, facts));
  const listening = new AbortController();

  const neighbour = (step) => {
    const places = jobs.list.flatMap((each) => (jobs.find(each).result?.data ?? [null]).map((_, place) => [each, place]));
    return places[places.findIndex(([each, place]) => each === id && place === index) + step];
  };
  const turn = (step) => {
    const next = neighbour(step);
    if (next) go(`#/jobs/${next[0]}/${next[1]}`);
  };
  const show = () => {
    const job = jobs.find(id);
    if (!job) return;
    title.textContent = OPERATIONS[job.meta.request_type];
    stage.replaceChildren(large(job, index), ...turning(neighbour, turn));
    const open = new Set([...facts.querySelectorAll("details[open]")].map((each) => each.dataset.name));
    const focused = facts.contains(document.activeElement) ? document.activeElement.dataset.act : null;
    facts.replaceChildren(...everything(job, index, { jobs, dialog, go }));
    for (const each of facts.querySelectorAll("details")) each.open ||= open.has(each.dataset.name);
    if (focused) (facts.querySelector(`[data-act="${focused}"]:not(:disabled)`) ?? close).focus();
  };
  jobs.addEventListener("job", (event) => event.detail === id && show(), { signal: listening.signal });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.closest("input, textarea, select")) return;
    if (event.key === "ArrowRight") turn(1);
    if (event.key === "ArrowLeft") turn(-1);
  });
  dialog.addEventListener("close", () => {
    listening.abort();
    dialog.remove();
    closed(`${id}/${index}`);
  });
  document.body.append(dialog);
  dialog.showModal();
  title.focus();
  show();
  jobs.refresh(id).catch((error) => {
    if (!jobs.find(id)) facts.replaceChildren(fault(error));
  });
  return dialog;
}

function turning(neighbour, turn) {
  return [
    ["left", -1, "Previous picture"],
    ["right", 1, "Next picture"],
  ].map(([drawing, step, label]) =>
    button(label, { drawing, hideLabel: true, class: `turn ${drawing}`, disabled: !neighbour(step), onclick: () => turn(step) }),
  );
}

function large(job, index) {
  const url = job.result?.data?.[index]?.url ?? job.previews?.[index];
  if (url) return h("img", { src: linked(url), alt: job.request?.prompt ?? "The picture", class: ended(job) ? null : "partial" });
  if (job.status === "failed") return h("p", { class: "note" }, icon(state(job) === "cancelled" ? "stop" : "alert"), STATES[state(job)]);
  return h("div", { class: `film ${job.status}`, style: { "--progress": job.progress ?? 0 } }, h("span", { class: "bar" }), h("p", { class: "note" }, STATES[job.status]));
}

function everything(job, index, { jobs, dialog, go }) {
  const { request } = job;
  return [
    stateLine(job),
    job.error && h("div", { class: "fault" }, h("strong", {}, `${job.error.error.code ?? job.status_code}. `), job.error.error.message),
    request?.prompt && h("p", { class: "prompt" }, request.prompt),
    request?.negative_prompt && h("p", { class: "small soft" }, `Without: ${request.negative_prompt}`),
    actions(job, index, { jobs, dialog, go }),
    request && parts("Parameters", parametersOf(request), { open: true }),
    parts("Receipt", receipt(job, index), { open: ended(job) }),
    job.ledger?.length ? h("details", { dataset: { name: "attempts" }, open: job.ledger.length > 1 || job.status === "failed" }, h("summary", {}, `Attempts (${job.ledger.length})`), attemptList(job.ledger)) : null,
    request && use(request),
  ].filter(Boolean);
}

function stateLine(job) {
  const took = seconds(job.created_at, job.completed_at);
  const progress = !ended(job) && job.progress ? ` ${Math.round(job.progress * 100)} %` : "";
  return h("p", { class: "state-line" }, h("span", { class: `state ${job.status}` }, STATES[state(job)] + progress), took === null ? null : h("span", { class: "soft" }, span(took)));
}

function parametersOf(request) {
  const rows = [["Model", request.model]];
  for (const [name, value] of Object.entries(parameters(request))) {
    if (!SHOWN_APART.has(name)) rows.push([name, typeof value === "object" ? JSON.stringify(value) : String(value)]);
  }
  if (request.images?.length) rows.push(["images", thumbnails(request.images)]);
  if (request.mask) rows.push(["mask", thumbnails([request.mask])]);
  return rows;
}

const thumbnails = (images) =>
  h("span", { class: "thumbs" }, ...images.map((image) => h("a", { href: linked(image.url), target: "_blank", rel: "noopener" }, h("img", { src: linked(image.url), alt: `Input, ${image.width} × ${image.height}`, height: 44 }))));

function receipt(job, index) {
  const made = job.pictures?.[index];
  return [
    ["Cost", ended(job) ? money(job.meta.cost_usd) : "–"],
    ["Charged", ended(job) ? job.meta.charged : "–"],
    ["Made by", [job.meta.provider, job.result?.model].filter(Boolean).join(" · ")],
    made && ["Picture", `${made.width} × ${made.height}, ${made.content_type.split("/")[1].toUpperCase()}, ${bytes(made.size_bytes)}`],
    made && ["SHA-256", h("code", { class: "hash" }, made.sha256)],
    ["Submitted", moment(job.created_at)],
    job.completed_at && ["Ended", moment(job.completed_at)],
    job.expires_at && ["Kept until", moment(job.expires_at)],
    ["Job", h("code", { class: "hash" }, job.id)],
    ["Request", h("code", { class: "hash" }, job.request_id)],
  ].filter(Boolean);
}

function parts(name, rows, { open = false } = {}) {
  const list = rows.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value)));
  return h("details", { open, dataset: { name } }, h("summary", {}, name), h("dl", {}, ...list));
}

function attemptList(ledger) {
  const line = (attempt) => {
    const took = attempt.duration_s ?? null;
    const result = { succeeded: "completed", failed: "failed", unknown: "failed" }[attempt.state] ?? "processing";
    return h(
      "li",
      {},
      h("span", { class: `state ${result}` }, attempt.state),
      h("span", {}, `${attempt.provider}/${attempt.model}`, attempt.key ? h("span", { class: "soft" }, ` key ${attempt.key}`) : null),
      h("span", { class: "soft" }, [took === null ? null : span(took), attempt.charged ? `charged: ${attempt.charged}` : null].filter(Boolean).join(" · ")),
      attempt.error ? h("span", { class: "why" }, attempt.error) : null,
    );
  };
  return h("ol", { class: "attempts" }, ...ledger.map(line));
}

function use(request) {
  const withKey = Boolean(session.key);
  const copying = (name, text) =>
    button(name, {
      onclick: async () => {
        await copy(text);
        toast(`Copied ${name.replace("Copy ", "")}`);
      },
    });
  return h("div", { class: "actions" }, copying("Copy as curl", asCurl(request, { withKey })), copying("Copy as Python", asPython(request, { withKey })));
}

function actions(job, index, { jobs, dialog, go }) {
  const made = job.result?.data?.[index];
  const leave = (to) => {
    dialog.close();
    if (to) go(to);
  };
  const act = (label, drawing, work, props = {}) =>
    button(label, {
      drawing,
      ...props,
      dataset: { act: label },
      onclick: async (event) => {
        const pressed = event.currentTarget;
        pressed.disabled = true;
        try {
          await work();
        } catch (error) {
          toast(error.message, { bad: true });
        } finally {
          pressed.disabled = false;
        }
      },
    });
  const found = [];
  if (!ended(job)) {
    found.push(act(job.meta.cancelled ? "Cancelling …" : "Cancel", "stop", async () => {
      await call("DELETE", `/v1/async/jobs/${job.id}`);
      await jobs.refresh(job.id);
    }, { disabled: job.meta.cancelled === true }));
    return h("div", { class: "actions" }, ...found);
  }
  if (made) {
    const name = fileName(job, index);
    found.push(h("a", { class: "button", href: linked(made.url), download: name }, icon("download"), "Download"));
    found.push(act("Edit", "studio", async () => leave(`#/studio?operation=image_edit&job=${job.id}&index=${index}`)));
    found.push(act("Vary", "vary", async () => {
      await vary(job, made.url, name, jobs);
      leave("#/");
    }));
  }
  if (job.request) {
    found.push(act("Run again", "again", async () => {
      await again(job, jobs);
      leave("#/");
    }));
  }
  found.push(act("Delete", "bin", async () => {
    if (!(await confirmed({ title: "Delete this job?", text: "Its pictures go with it, now and for good.", action: "Delete" }))) return;
    await call("DELETE", `/v1/async/jobs/${job.id}`);
    leave();
    jobs.remove(job.id);
  }, { class: "danger" }));
  return h("div", { class: "actions" }, ...found);
}

export function fileName(job, index) {
  const kind = job.pictures?.[index]?.content_type?.split("/")[1] ?? "png";
  const words = (job.request?.prompt ?? "picture").toLowerCase().match(/[a-z0-9]+/g) ?? ["picture"];
  return `${words.slice(0, 6).join("-")}-${job.id.slice(0, 8)}${index ? `-${index + 1}` : ""}.${kind === "jpeg" ? "jpg" : kind}`;
}

async function vary(job, url, name, jobs) {
  const asked = job.request?.model ?? job.meta.model;
  const model = (await models()).does(asked, "image_variation") ? asked : "builtin/sketch";
  const form = new FormData();
  form.set("model", model);
  form.set("response_format", "url");
  form.set("image", await picture(url, name));
  jobs.add(await call("POST", submitPath("image_variation"), { form }), { model });
  toast(`Varying with ${model}`);
}

async function again(job, jobs) {
  const { request } = job;
  const given = { ...parameters(request), response_format: "url" };
  if (request.operation === "image_generation" && !request.images?.length) {
    jobs.add(await call("POST", submitPath(request.operation), { json: given }), given);
    return;
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(given)) form.set(name, typeof value === "object" ? JSON.stringify(value) : value);
  for (const [place, image] of request.images.entries()) form.append(request.operation === "image_edit" ? "image[]" : "image", await picture(image.url, `input-${place + 1}`));
  if (request.mask) form.set("mask", await picture(request.mask.url, "mask.png"));
  jobs.add(await call("POST", submitPath(request.operation), { form }), given);
}
