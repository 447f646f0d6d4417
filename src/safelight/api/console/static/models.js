// What the gateway can do, from `/v1/models`; read once a sign-in.

import { get } from "./api.js";
import { h } from "./dom.js";

const LAST = "safelight.model";

let known = null;

document.addEventListener("session", () => (known = null));

export function models() {
  known ??= get("/v1/models").then(
    (answer) => new Models(answer.data),
    (error) => {
      known = null;
      throw error;
    },
  );
  return known;
}

class Models {
  constructor(list) {
    this.list = list.filter((model) => model.safelight.life !== "retired");
  }

  find(id) {
    return this.list.find((model) => model.id === id);
  }

  /** Whether a model does an operation; of one that we do not know, the provider decides. */
  does(id, operation) {
    const model = this.find(id);
    return !model || (model.safelight.operations ?? []).includes(operation);
  }

  /** Put those that can do `operation` into a `select`, by provider; the one used last is chosen. */
  fill(select, operation, wanted = localStorage.getItem(LAST)) {
    const fitting = this.list.filter((model) => !operation || this.does(model.id, operation));
    const providers = Map.groupBy ? Map.groupBy(fitting, groupOf) : grouped(fitting);
    for (const [name, members] of providers) {
      select.append(h("optgroup", { label: name }, ...members.map((model) => h("option", { value: model.id }, model.id.slice(model.owned_by.length + 1)))));
    }
    const first = fitting.find((model) => !rehearses(model)) ?? fitting[0];
    if (operation) select.value = fitting.some((model) => model.id === wanted) ? wanted : (first?.id ?? "");
  }
}

const rehearses = (model) => /^builtin\/(fail|slow|handle)-/.test(model.id);
const groupOf = (model) => (rehearses(model) ? "builtin, for tests" : model.owned_by);

function grouped(list) {
  const groups = new Map();
  for (const model of list) groups.set(groupOf(model), [...(groups.get(groupOf(model)) ?? []), model]);
  return groups;
}
