// Draw on a picture what is to be made anew: by mouse, finger, pen or keyboard.

import { button, h } from "./dom.js";

const STEP = 0.02; // of the width, for one press of an arrow key
const RUBY = "#ff3b1f";

/** Works on a picture's own pixels, however large it is shown. */
export class MaskEditor {
  #strokes = [];
  #erasing = false;
  #point = { x: 0.5, y: 0.5 };
  #pen = false;

  constructor(image) {
    this.image = image;
    const size = { width: image.naturalWidth, height: image.naturalHeight };
    this.film = h("canvas", {
      ...size,
      class: "ruby",
      tabindex: "0",
      role: "application",
      "aria-label": "Mask. Arrow keys move the brush, the space bar puts it down and lifts it, plus and minus change its size, Backspace takes the last stroke back.",
      onpointerdown: (event) => this.#down(event),
      onpointermove: (event) => this.#move(event),
      onpointerup: () => this.#up(),
      onpointercancel: () => this.#up(),
      onkeydown: (event) => this.#key(event),
    });
    this.cursor = h("span", { class: "brush", "aria-hidden": "true" });
    this.said = h("span", { class: "spoken", role: "status" });
    this.width = h("input", { type: "range", min: 2, max: 40, value: 12, "aria-label": "Brush size, in percent of the width" });
    this.width.addEventListener("input", () => this.#aim());
    this.brush = button("Paint", { "aria-pressed": "true", onclick: () => this.#take(false) });
    this.eraser = button("Erase", { "aria-pressed": "false", onclick: () => this.#take(true) });
    this.undo = button("Undo", { onclick: () => this.#back() });
    this.clear = button("Clear", { onclick: () => this.#wipe() });
    image.classList.add("under");
    image.alt = "The picture to edit";
    const stack = h("div", { class: "stack-canvas" }, image, this.film, this.cursor);
    const tools = h("div", { class: "mask-tools", role: "group", "aria-label": "Mask tools" }, this.brush, this.eraser, h("span", { class: "sized" }, this.width), this.undo, this.clear);
    this.element = h("div", { class: "mask-editor" }, stack, tools, this.said);
    this.#draw();
  }

  /** Whether anything is marked. */
  get marked() {
    return this.#strokes.some((stroke) => !stroke.erasing);
  }

  /** The mask as the API takes it: a PNG of the picture's size, transparent where it is to be made anew. */
  async file() {
    const { width, height } = this.film;
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(this.film, 0, 0);
    return new File([await canvas.convertToBlob({ type: "image/png" })], "mask.png", { type: "image/png" });
  }

  #take(erasing) {
    this.#erasing = erasing;
    this.brush.setAttribute("aria-pressed", !erasing);
    this.eraser.setAttribute("aria-pressed", erasing);
  }

  #at(event) {
    const box = this.film.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  }

  #down(event) {
    if (event.button) return;
    event.preventDefault();
    this.film.focus({ preventScroll: true });
    this.film.setPointerCapture(event.pointerId);
    this.#point = this.#at(event);
    this.#begin();
  }

  #move(event) {
    this.#point = this.#at(event);
    this.#aim();
    if (this.#pen) this.#extend();
  }

  #up() {
    this.#pen = false;
    this.#changed();
  }

  #begin() {
    this.#strokes.push({ erasing: this.#erasing, size: this.width.value / 100, points: [this.#point] });
    this.#pen = true;
    this.#paint(this.#strokes.at(-1), 0);
  }

  #extend() {
    const stroke = this.#strokes.at(-1);
    stroke.points.push(this.#point);
    this.#paint(stroke, stroke.points.length - 2);
  }

  #key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (step) {
      const within = (value) => Math.min(1, Math.max(0, value));
      const ratio = this.film.width / this.film.height;
      this.#point = { x: within(this.#point.x + step[0] * STEP), y: within(this.#point.y + step[1] * STEP * ratio) };
      if (this.#pen) this.#extend();
    } else if (event.key === " ") {
      if (this.#pen) this.#up();
      else this.#begin();
      this.said.textContent = this.#pen ? "Brush down" : "Brush up";
    } else if (event.key === "+" || event.key === "-") {
      this.width.value = Number(this.width.value) + (event.key === "+" ? 2 : -2);
      this.said.textContent = `Brush ${this.width.value} percent`;
    } else if (event.key === "Backspace") this.#back();
    else return;
    event.preventDefault();
    this.#aim();
  }

  #aim() {
    const across = (this.width.value / 100) * this.film.clientWidth;
    Object.assign(this.cursor.style, { left: `${this.#point.x * 100}%`, top: `${this.#point.y * 100}%`, width: `${across}px`, height: `${across}px` });
  }

  #back() {
    this.#strokes.pop();
    this.#draw();
  }

  #wipe() {
    this.#strokes = [];
    this.#draw();
  }

  #draw() {
    this.film.getContext("2d").clearRect(0, 0, this.film.width, this.film.height);
    for (const stroke of this.#strokes) this.#paint(stroke, 0);
    this.#changed();
  }

  #changed() {
    this.undo.disabled = this.clear.disabled = !this.#strokes.length;
    this.element.dispatchEvent(new Event("change"));
  }

  #paint({ erasing, size, points }, from) {
    const { width, height } = this.film;
    const context = this.film.getContext("2d");
    context.globalCompositeOperation = erasing ? "destination-out" : "source-over";
    Object.assign(context, { strokeStyle: RUBY, lineCap: "round", lineJoin: "round", lineWidth: size * width });
    context.beginPath();
    const start = points[Math.max(0, from)];
    context.moveTo(start.x * width, start.y * height);
    for (const point of points.slice(Math.max(0, from))) context.lineTo(point.x * width, point.y * height);
    context.stroke();
  }
}
