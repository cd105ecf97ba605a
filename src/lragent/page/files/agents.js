// The names that requests use, and their colours: a name keeps the one it got first.

import { $, count, element, percent, seconds, setChildren, setText } from "./dom.js";

const COLOURS = 8;
const places = new Map();
let baseModel = "base model";

export function colour(name) {
  if (name === null) return "var(--agent-0)";
  if (!places.has(name)) places.set(name, 1 + (places.size % (COLOURS - 1)));
  return `var(--agent-${places.get(name)})`;
}

export const label = (name) => name ?? baseModel;

export function showModels(models) {
  const base = models.find((each) => !each.parent);
  if (base) baseModel = base.id;
  setText($("#model"), `· ${baseModel}`);
}

export function showAgents(models, groups) {
  const adapters = models.filter((each) => each.parent).map((each) => each.id);
  const memberOf = (name) => groups.find((group) => Object.hasOwn(group.members, name))?.members[name];
  const chips = [null, ...adapters].map((name) => {
    const slot = name === null ? null : memberOf(name)?.slot;
    const chip = element("li", { class: "agent", "--colour": colour(name) }, label(name));
    if (slot != null) chip.append(` · slot ${slot}`);
    return chip;
  });
  setChildren($("#agents"), chips);
  const texts = groups.map((group) => {
    const members = Object.keys(group.members);
    if (group.include_base_model) members.push("the base model");
    return `${members.join(", ")} share under ${group.policy}.`;
  });
  setText($("#policy"), texts.join(" ") || "Nothing is shared: isolated.");
}

export function showSums(sums) {
  const rows = Object.entries(sums).map(([name, sum]) => {
    const cells = [
      name,
      count.format(sum.requests),
      count.format(sum.prompt_tokens),
      percent(sum.reused_tokens, sum.prompt_tokens),
      seconds(sum.ttft_s),
    ];
    return element("tr", {}, ...cells.map((text) => element("td", {}, text)));
  });
  $("#sums").hidden = !rows.length;
  setChildren($("#sums tbody"), rows);
}
