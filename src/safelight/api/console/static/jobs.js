// The caller's jobs, newest first, kept up to date by the gateway's event stream.

import { ApiError, events, get } from "./api.js";

const LISTED = "request,pictures";
const WHOLE = "request,pictures,ledger";

const PAGE = 100;
const REST_MS = 1000; // between two looks at the newest jobs, however many events come
const ONE_BY_ONE = 4; // so many changed jobs are read singly; more are read as a page
const RECONNECT_MS = [500, 1000, 2000];
const MOST_A_SECOND = 100; // events; where more come, looking from time to time is cheaper for both sides
const LOOK_MS = 2000;
const LOOKS = 15; // before the stream is tried again

const later = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const either = (...signals) => AbortSignal.any(signals);

/** Whether more events come than a page can use. */
class Flood {
  #since = performance.now();
  #count = 0;
  #controller = new AbortController();
  over = false;

  get signal() {
    return this.#controller.signal;
  }

  counts() {
    const now = performance.now();
    if (now - this.#since > 1000) [this.#since, this.#count] = [now, 0];
    this.over ||= ++this.#count > MOST_A_SECOND;
    return this.over;
  }

  /** Let go of the connection. */
  stop() {
    this.#controller.abort();
  }
}

export const ended = (job) => job.status === "completed" || job.status === "failed";
export const cancelled = (job) => job.error?.error?.code === "job_cancelled";
export const state = (job) => (cancelled(job) ? "cancelled" : job.status);

/** Tells `change` (the list is another) and `job` (with the id of the one that moved). */
export class Jobs extends EventTarget {
  #filter = {};
  #jobs = new Map();
  #order = [];
  #cursor = null;
  #loading = null;
  #stale = new Set();
  #looking = null;
  #stream = null;
  #last = null;

  complete = false;
  problem = null;

  /** All that is known, newest first. */
  get list() {
    return this.#order;
  }

  find(id) {
    return this.#jobs.get(id);
  }

  /** Begin anew under other filters, as the listing of the API takes them. */
  async show(filter) {
    this.#filter = filter;
    this.#jobs.clear();
    this.#order = [];
    this.#cursor = null;
    this.#loading = null;
    this.complete = false;
    await this.more();
  }

  /** Read the next page, if there is one. */
  more() {
    if (this.complete) return Promise.resolve();
    this.#loading ??= this.#page().finally(() => (this.#loading = null));
    return this.#loading;
  }

  async #page() {
    const filter = this.#filter;
    try {
      const page = await this.#read({ limit: PAGE, cursor: this.#cursor });
      if (filter !== this.#filter) return;
      this.#merge(page.data);
      this.#cursor = page.next_cursor;
      this.complete = page.next_cursor === null;
      this.problem = null;
    } catch (error) {
      this.problem = error;
    }
    this.dispatchEvent(new Event("change"));
  }

  #read(query) {
    return get("/v1/async/jobs", { ...this.#filter, expand: LISTED, ...query });
  }

  #merge(found) {
    let grown = false;
    for (const job of found) {
      const known = this.#jobs.get(job.id);
      if (known && ended(known) && !ended(job)) continue; // an older answer that came late
      grown ||= !known;
      this.#jobs.set(job.id, {
        ...job,
        request: job.meta.request ?? known?.request,
        pictures: job.meta.pictures ?? known?.pictures,
        ledger: job.meta.ledger ?? known?.ledger,
        previews: ended(job) ? {} : (known?.previews ?? {}),
        progress: job.meta.progress ?? known?.progress,
      });
      if (known) this.dispatchEvent(new CustomEvent("job", { detail: job.id }));
    }
    if (grown) this.#sort();
  }

  #sort() {
    this.#order = [...this.#jobs.values()].map((job) => job.id);
    const created = new Map(this.#order.map((id) => [id, this.#jobs.get(id).created_at]));
    this.#order.sort((one, other) => (created.get(one) < created.get(other) ? 1 : created.get(one) > created.get(other) ? -1 : 0));
  }

  /** Take in a job that was just submitted, before any event tells of it. */
  add(job, request) {
    job.meta.request = { operation: job.meta.request_type, model: job.meta.model, ...request };
    this.#merge([job]);
    this.dispatchEvent(new Event("change"));
  }

  remove(id) {
    this.#jobs.delete(id);
    this.#order = this.#order.filter((each) => each !== id);
    this.dispatchEvent(new Event("change"));
  }

  /** Read one job now. Throws `ApiError`. */
  async refresh(id) {
    const job = await get(`/v1/async/jobs/${id}`, { expand: WHOLE });
    this.#merge([job]);
    return this.#jobs.get(id);
  }

  /** Listen until `signal` says stop; between broken connections, and where too much happens, look at the newest. */
  async follow(signal) {
    for (let broken = 0; !signal.aborted; broken++) {
      const flood = new Flood();
      try {
        for await (const event of events("/v1/async/events", { signal: either(signal, flood.signal), after: this.#last })) {
          broken = 0;
          this.#last = event.id ?? this.#last;
          this.#heard(event);
          if (flood.counts()) break;
        }
      } catch (error) {
        if (signal.aborted || (error instanceof ApiError && error.status === 401)) return;
      }
      flood.stop();
      if (flood.over) this.#last = null; // what came meanwhile is looked at, not told again
      for (let looks = flood.over ? LOOKS : 1; looks > 0 && !signal.aborted; looks--) {
        await later(flood.over ? LOOK_MS : RECONNECT_MS[Math.min(broken, RECONNECT_MS.length - 1)]);
        if (!signal.aborted) this.#look();
      }
    }
  }

  #heard({ event, data }) {
    const id = data.job_id ?? data.id;
    const job = this.#jobs.get(id);
    if (event === "job" && (!job || data.status === "completed" || data.status === "failed")) {
      this.#stale.add(id);
      this.#look();
    }
    if (!job || ended(job)) return;
    if (event === "job") job.status = ended(data) ? job.status : data.status;
    if (event === "progress") job.progress = data.progress;
    if (event === "partial_image") job.previews = { ...job.previews, [data.index]: data.url };
    if (event === "attempt") job.meta.attempts = Math.max(job.meta.attempts, data.number ?? 0);
    this.dispatchEvent(new CustomEvent("job", { detail: id }));
  }

  /** Take in the newest page. Where it does not reach what is known, that is let go: there would be a gap. */
  #renew(page) {
    if (this.#jobs.size && !page.data.some((job) => this.#jobs.has(job.id)) && page.data.length) {
      this.#jobs.clear();
      this.#filter = { ...this.#filter }; // pages that are still on their way are of no use
      this.#cursor = page.next_cursor;
      this.complete = page.next_cursor === null;
    }
    this.#merge(page.data);
  }

  /** Read what has moved, at most once a second: what it costs the gateway does not grow with its load. */
  #look() {
    this.#looking ??= new Promise((resolve) => setTimeout(resolve, this.#stream ? REST_MS : 0)).then(async () => {
      this.#stream = true;
      const moved = [...this.#stale];
      this.#stale.clear();
      this.#looking = null;
      try {
        const known = moved.filter((id) => this.#jobs.has(id));
        if (known.length === moved.length && moved.length <= ONE_BY_ONE && moved.length > 0) {
          await Promise.allSettled(known.map((id) => this.refresh(id)));
        } else {
          this.#renew(await this.#read({ limit: PAGE }));
        }
        this.dispatchEvent(new Event("change"));
      } catch {
        for (const id of moved) this.#stale.add(id);
      }
    });
  }
}
