// Bytes by kind, pages, tokens and reasons, from the reports of one or more engines.

import { $, bytes, count, element, percent, setChildren } from "./dom.js";

const REASONS = {
  policy: "another agent has read it, and this one shares with nobody",
  digest: "agents of another group have read it",
  salt: "only another tenant has sent it",
  evicted: "its pages were evicted or unloaded",
  shorter_than_page: "it does not fill one page",
  not_seen: "nobody has sent it before",
};

export const because = (reason) => REASONS[reason] ?? reason;

const sum = (reports, part, name) =>
  reports.reduce((total, report) => total + (report[part][name] ?? 0), 0);

function bar(title, total, most, parts) {
  const shares = parts.map(([name, value]) =>
    element("span", { class: name, "--share": `${most ? (100 * value) / most : 0}%` }),
  );
  return [
    element("div", {}, `${title}: ${bytes(total)}`),
    element("div", { class: "bar", "aria-hidden": "true" }, ...shares),
  ];
}

export function showCache(reports) {
  const base = sum(reports, "bytes", "base");
  const lr = sum(reports, "bytes", "lr");
  const valid = sum(reports, "bytes", "lr_valid");
  const alone = "isolated" in reports[0].bytes ? sum(reports, "bytes", "isolated") : null;
  const most = Math.max(base + lr, alone ?? 0);
  const shown = bar("In the cache", base + lr, most, [
    ["base", base],
    ["lr", valid],
    ["lr-empty", Math.max(0, lr - valid)],
  ]);
  if (alone !== null) shown.push(...bar("The same under isolated", alone, most, [["alone", alone]]));
  setChildren($("#bytes"), shown);

  const prompt = sum(reports, "tokens", "prompt");
  const reused = sum(reports, "tokens", "reused");
  const pages = (name) => count.format(sum(reports, "pages", name));
  const rows = [
    ["Keys and base values", bytes(base)],
    ["LR slots", `${bytes(lr)}, of which ${bytes(valid)} valid`],
    ["Pages", `${pages("cached")} can be found, ${pages("leased")} in use, of ${pages("total")}`],
    ["Prompt tokens", count.format(prompt)],
    ["of which reused", `${count.format(reused)} (${percent(reused, prompt)})`],
    ["run again though cached", count.format(sum(reports, "tokens", "recomputed"))],
  ];
  setChildren(
    $("#numbers"),
    rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
  showReasons(reports);
}

function showReasons(reports) {
  const totals = {};
  for (const report of reports) {
    for (const [reason, times] of Object.entries(report.not_shared)) {
      totals[reason] = (totals[reason] ?? 0) + times;
    }
  }
  const items = Object.entries(totals).map(([reason, times]) =>
    element("li", {}, `${because(reason)}: ${count.format(times)}`),
  );
  const shown = items.length ? [element("h3", {}, "Prompts that reused nothing")] : [];
  setChildren($("#reasons"), [...shown, element("ul", {}, ...items)]);
}

let before = null;

// A line for each report in which more tokens were reused than in the one before it.
export function showHits(reports) {
  const reused = sum(reports, "tokens", "reused");
  if (before !== null && reused > before) {
    const time = new Date().toLocaleTimeString("en-GB");
    const text = `${time}  ${count.format(reused - before)} tokens reused`;
    const log = $("#hits ol");
    log.prepend(element("li", {}, text));
    while (log.children.length > 50) log.lastChild.remove();
  }
  before = reused;
}
