// A card for each request, with its pages and its text as it comes.

import { colour, label } from "./agents.js";
import { because } from "./cache.js";
import { $, count, element, seconds, setChildren, setText } from "./dom.js";

const cards = new Map();

function state(request) {
  if (request.finish_reason) return { stop: "done", length: "done" }[request.finish_reason] ?? request.finish_reason;
  if (request.cached_tokens === null) return "waiting";
  return request.ttft_s === null ? "reading" : "writing";
}

// Runs of equal pages, cut where what was read ends and what was computed begins.
export function runs(request, pageSize) {
  const reused = Math.floor((request.cached_tokens ?? 0) / pageSize);
  const cut = [];
  let at = 0;
  for (const run of request.pages) {
    const read = Math.min(run.count, Math.max(0, reused - at));
    if (read) cut.push({ ...run, at, count: read, read: true });
    if (run.count > read) cut.push({ ...run, at: at + read, count: run.count - read, read: false });
    at += run.count;
  }
  return cut;
}

function pageBar(request, parts, pageSize) {
  const shown = parts.map((part) =>
    element(
      "span",
      { class: part.read ? "read" : "", "--count": part.count, "--colour": colour(part.users[0]) },
      label(part.users[0]),
    ),
  );
  const all = Math.ceil((request.prompt_tokens + request.generated_tokens) / pageSize);
  const rest = all - parts.reduce((total, part) => total + part.count, 0);
  if (rest > 0) shown.push(element("span", { class: "rest", "--count": rest }));
  return shown;
}

function rowsOf(parts) {
  return parts.map((part) => {
    const last = part.at + part.count;
    const numbers = part.count > 1 ? `${part.at + 1}–${last}` : `${last}`;
    const readers = part.users.slice(1).map(label).join(", ") || "nobody";
    const slots = part.slots.join(", ") || "none";
    const cells = [numbers, label(part.users[0]), readers, slots];
    return element("tr", {}, ...cells.map((text) => element("td", {}, text)));
  });
}

function makeCard(request) {
  const title = element("h3", { id: `request-${request.id}` });
  const heads = ["Pages", "Written by", "Read by", "Valid slots"];
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  const body = element("tbody");
  const card = element(
    "article",
    { "aria-labelledby": title.id, "--colour": colour(request.adapter) },
    title,
    element("p", { class: "facts" }),
    element("div", { class: "bar pages", "aria-hidden": "true" }),
    element(
      "details",
      {},
      element("summary", {}, "Pages"),
      element("table", {}, element("thead", {}, head), body),
    ),
    element("pre", { tabindex: "0", "aria-label": "Answer" }),
  );
  return card;
}

function fill(card, request, pageSize) {
  const parts = runs(request, pageSize);
  setText($("h3", card), `${label(request.adapter)}: ${state(request)}`);
  const facts = [`${count.format(request.prompt_tokens)} prompt tokens`];
  if (request.cached_tokens !== null) facts.push(`${count.format(request.cached_tokens)} reused`);
  if (request.ttft_s !== null) facts.push(`first token after ${seconds(request.ttft_s)}`);
  facts.push(`${count.format(request.generated_tokens)} generated`);
  if (request.not_shared) facts.push(`reused nothing: ${because(request.not_shared)}`);
  setText($(".facts", card), facts.join(" · "));
  setChildren($(".pages", card), pageBar(request, parts, pageSize));
  setChildren($("tbody", card), rowsOf(parts));
  const text = $("pre", card);
  const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 20;
  setText(text, request.text ?? "");
  text.hidden = request.text === null;
  if (atEnd) text.scrollTop = text.scrollHeight;
}

export function showRequests(changed, ids, pageSize) {
  setText($("#page-size"), String(pageSize));
  for (const request of changed) {
    if (!cards.has(request.id)) {
      cards.set(request.id, makeCard(request));
      $("#cards").prepend(cards.get(request.id));
    }
    fill(cards.get(request.id), request, pageSize);
  }
  for (const [id, card] of cards) {
    if (!ids.includes(id)) {
      card.remove();
      cards.delete(id);
    }
  }
}
