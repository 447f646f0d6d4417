// The studio: make, edit or vary a picture with all that the chosen model can do.

import { call, get, linked, picture } from "./api.js";
import { button, fault, field, h, icon, toast } from "./dom.js";
import { OPERATIONS, STATES, money } from "./format.js";
import { ended, state } from "./jobs.js";
import { fieldsOf, said } from "./fields.js";
import { MaskEditor } from "./mask.js";
import { models } from "./models.js";
import { submitPath } from "./recipes.js";
import { fileName } from "./viewer.js";

const VERBS = { image_generation: "Generate", image_edit: "Edit", image_variation: "Vary" };
const ESTIMATE_AFTER_MS = 250;
const RECENT = 24;

export function studioPage({ jobs, query, signal, open, go }) {
  const studio = new Studio({ jobs, open, go, operation: query.get("operation") in OPERATIONS ? query.get("operation") : "image_generation" });
  jobs.addEventListener("job", (event) => studio.moved(event.detail), { signal });
  jobs.addEventListener("change", () => studio.recent(), { signal });
  if (!jobs.list.length) jobs.show({});
  const job = query.get("job");
  if (job) studio.take(job, Number(query.get("index") ?? 0));
  return studio.element;
}

class Studio {
  #jobs;
  #open;
  #go;
  #operation;
  #models = null;
  #input = null; // {file, image, editor}
  #made = null;
  #estimating = null;

  constructor({ jobs, open, go, operation }) {
    this.#jobs = jobs;
    this.#open = open;
    this.#go = go;
    this.#operation = operation;
    this.model = h("select", { name: "model" });
    this.prompt = h("textarea", { name: "prompt", rows: 5, maxlength: 131072, placeholder: "A lighthouse in a storm, seen from the sea" });
    this.own = h("div", { class: "own-fields" });
    this.cost = h("output", { class: "estimate", "aria-live": "polite" });
    this.submit = h("button", { class: "button primary wide" }, "Develop");
    this.problem = h("div", {});
    this.promptField = field("Prompt", this.prompt);
    this.form = h(
      "form",
      { class: "studio-form" },
      this.#tabs(),
      field("Model", this.model),
      this.promptField,
      this.own,
      this.problem,
      h("div", { class: "send" }, this.cost, this.submit),
    );
    this.easel = h("section", { class: "easel", "aria-label": "Picture" });
    this.strip = h("section", { class: "strip", "aria-label": "Recent pictures", hidden: true });
    this.element = h("div", { class: "studio" }, h("h1", { class: "spoken", tabindex: "-1" }, "Studio"), this.form, h("div", { class: "bench" }, this.easel, this.strip));
    this.form.addEventListener("submit", (event) => this.#send(event));
    this.form.addEventListener("input", () => this.#estimate());
    this.model.addEventListener("change", () => this.#fields());
    models().then(
      (found) => {
        this.#models = found;
        this.#turn(this.#operation);
      },
      (error) => this.problem.replaceChildren(fault(error)),
    );
  }

  #tabs() {
    const tab = ([operation, name]) => {
      const radio = h("input", { type: "radio", name: "operation", value: operation, checked: operation === this.#operation });
      radio.addEventListener("change", () => this.#turn(operation));
      return h("label", {}, radio, h("span", {}, name));
    };
    return h("fieldset", { class: "segments" }, h("legend", { class: "spoken" }, "What to do"), ...Object.entries(VERBS).map(tab));
  }

  /** Go over to another operation; what was written stays. */
  #turn(operation) {
    const wanted = this.model.value || undefined;
    this.#operation = operation;
    this.form.elements.operation.value = operation;
    this.model.replaceChildren();
    this.#models?.fill(this.model, operation, wanted);
    this.promptField.hidden = operation === "image_variation";
    this.prompt.required = operation !== "image_variation";
    this.#fields();
    this.#show();
  }

  #fields() {
    const held = said(this.form);
    const { first, others } = fieldsOf(this.#models?.find(this.model.value), this.#operation);
    const further = others.length ? h("details", {}, h("summary", {}, "More settings"), h("div", { class: "pairs" }, ...others)) : null;
    this.own.replaceChildren(h("div", { class: "pairs" }, ...first), further ?? "");
    for (const control of this.own.querySelectorAll("[name]")) {
      const value = held[control.name];
      if (value !== undefined && !(control.tagName === "SELECT" && ![...control.options].some((each) => each.value === String(value)))) control.value = value;
    }
    this.#estimate();
  }

  #request() {
    const request = said(this.form);
    delete request.operation;
    if (this.#operation === "image_variation") delete request.prompt;
    if (request.n === 1) delete request.n;
    return { ...request, response_format: "url" };
  }

  #estimate() {
    clearTimeout(this.#estimating);
    this.#estimating = setTimeout(async () => {
      const { prompt: _, response_format: __, ...facts } = this.#request();
      if (!facts.model) return;
      const images = this.#operation === "image_generation" ? 0 : 1;
      try {
        const { cost_usd } = await get("/v1/estimate", { operation: this.#operation, model: facts.model, n: facts.n, size: facts.size, quality: facts.quality, resolution: facts.resolution, aspect_ratio: facts.aspect_ratio, input_images: images });
        this.cost.textContent = cost_usd === null ? "The price of this model is not known" : cost_usd === 0 ? "Free" : `About ${money(cost_usd)}`;
      } catch {
        this.cost.textContent = "";
      }
    }, ESTIMATE_AFTER_MS);
  }

  /** Take a picture of a job as the input. */
  async take(id, index) {
    try {
      const job = this.#jobs.find(id) ?? (await this.#jobs.refresh(id));
      const name = fileName(job, index);
      await this.#load(await picture(job.result.data[index].url, name));
      if (job.request?.prompt && !this.prompt.value && this.#operation === "image_edit") this.prompt.placeholder = `What should be where you paint? Before: ${job.request.prompt}`;
    } catch (error) {
      toast(error.message, { bad: true });
    }
  }

  async #load(file) {
    const image = h("img", { alt: "" });
    image.src = URL.createObjectURL(file);
    try {
      await image.decode();
    } catch {
      return toast("This file is no picture that the browser can show", { bad: true });
    }
    this.#input = { file, image, editor: new MaskEditor(image) };
    this.#made = null;
    this.#show();
  }

  #show() {
    const takes = this.#operation !== "image_generation";
    if (this.#made) this.easel.replaceChildren(this.#result());
    else if (!takes) this.easel.replaceChildren(waiting("Your picture develops here."));
    else if (!this.#input) this.easel.replaceChildren(this.#drop());
    else this.easel.replaceChildren(this.#input_view());
    this.recent();
  }

  #input_view() {
    const { image, editor } = this.#input;
    const other = button("Another picture", { drawing: "image", class: "quiet", onclick: () => this.#away() });
    if (this.#operation === "image_edit") {
      editor.element.querySelector(".stack-canvas").prepend(image);
      return h("div", { class: "input" }, h("p", { class: "hint" }, "Paint over what is to be made anew. Nothing painted: the whole picture may change."), editor.element, other);
    }
    const plain = h("img", { src: image.src, alt: "The picture to vary" });
    return h("div", { class: "input" }, h("div", { class: "held" }, plain), other);
  }

  #away() {
    this.#input = null;
    this.#made = null;
    this.#show();
  }

  #drop() {
    const file = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp", class: "spoken", id: "studio-file" });
    file.addEventListener("change", () => file.files[0] && this.#load(file.files[0]));
    const zone = h("div", { class: "drop" }, icon("image"), h("p", {}, h("label", { for: "studio-file", class: "button" }, "Choose a picture"), file), h("p", { class: "soft small" }, "or drop one here, or take one from below"));
    zone.addEventListener("dragover", (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      const dropped = event.dataTransfer.files[0];
      if (dropped) this.#load(dropped);
    });
    return zone;
  }

  /** Offer the newest pictures as inputs. */
  recent() {
    const takes = this.#operation !== "image_generation" && !this.#input;
    this.strip.hidden = !takes;
    if (!takes) return;
    const pictures = this.#jobs.list.flatMap((id) => (this.#jobs.find(id).result?.data ?? []).map((each, index) => [this.#jobs.find(id), each, index])).slice(0, RECENT);
    this.strip.hidden = !pictures.length;
    this.strip.replaceChildren(
      h("h2", { class: "small soft" }, "From the contact sheet"),
      h(
        "div",
        { class: "strip-pictures" },
        ...pictures.map(([job, made, index]) =>
          h("button", { type: "button", class: "pick", "aria-label": `Use: ${job.request?.prompt ?? "picture"}`, onclick: () => this.take(job.id, index) }, h("img", { src: linked(made.url), alt: "", loading: "lazy", height: 96 })),
        ),
      ),
    );
  }

  async #send(event) {
    event.preventDefault();
    const request = this.#request();
    if (this.#operation !== "image_generation" && !this.#input) {
      this.problem.replaceChildren(fault(new Error("Choose the picture first.")));
      return;
    }
    this.problem.replaceChildren();
    this.submit.disabled = true;
    try {
      const job = await call("POST", submitPath(this.#operation), this.#operation === "image_generation" ? { json: request } : { form: await this.#formOf(request) });
      localStorage.setItem("safelight.model", request.model);
      this.#made = job.id;
      this.#jobs.add(job, request);
      this.#show();
    } catch (error) {
      this.problem.replaceChildren(fault(error));
    } finally {
      this.submit.disabled = false;
    }
  }

  async #formOf(request) {
    const form = new FormData();
    for (const [name, value] of Object.entries(request)) form.set(name, value);
    const { file, editor } = this.#input;
    form.set(this.#operation === "image_edit" ? "image[]" : "image", file);
    if (this.#operation === "image_edit" && editor.marked) form.set("mask", await editor.file());
    return form;
  }

  moved(id) {
    if (id === this.#made) this.#show();
  }

  #result() {
    const job = this.#jobs.find(this.#made);
    if (!job) return waiting("");
    const pictures = job.result?.data ?? [];
    const shown = pictures.length
      ? h("div", { class: pictures.length > 1 ? "made several" : "made" }, ...pictures.map((each, index) => h("a", { href: `#/jobs/${job.id}/${index}`, "aria-label": "In full" }, h("img", { src: linked(each.url), alt: job.request?.prompt ?? "The result", class: "developing" }))))
      : h("div", { class: `made film ${job.status}`, style: { "--progress": job.progress ?? 0 } }, job.previews?.[0] ? h("img", { src: linked(job.previews[0]), alt: "Preview", class: "partial" }) : h("span", { class: "bar" }), h("p", { class: "note", role: "status" }, job.status === "failed" ? (job.error?.error?.message ?? STATES.failed) : STATES[state(job)]));
    const next = [];
    if (!ended(job)) next.push(button("Cancel", { drawing: "stop", onclick: () => this.#cancel(job) }));
    if (pictures.length) {
      next.push(button("Edit this", { drawing: "studio", onclick: () => this.#go_on("image_edit", job) }));
      next.push(button("Vary this", { drawing: "vary", onclick: () => this.#go_on("image_variation", job) }));
      next.push(button("In full", { drawing: "image", onclick: () => this.#open(job.id, 0) }));
    }
    if (this.#input && ended(job)) next.push(button("Back to the input", { drawing: "left", class: "quiet", onclick: () => this.#back() }));
    return h("div", { class: "input" }, shown, h("div", { class: "actions centred" }, ...next));
  }

  #back() {
    this.#made = null;
    this.#show();
  }

  async #cancel(job) {
    try {
      await call("DELETE", `/v1/async/jobs/${job.id}`);
      await this.#jobs.refresh(job.id);
    } catch (error) {
      toast(error.message, { bad: true });
    }
  }

  async #go_on(operation, job) {
    this.#turn(operation);
    await this.take(job.id, 0);
  }
}

function waiting(text) {
  return h("div", { class: "made film resting" }, h("p", { class: "note" }, text));
}
