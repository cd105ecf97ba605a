// Follows a server until the page is closed.

import { showAgents, showModels, showSums } from "./agents.js";
import { showCache, showHits } from "./cache.js";
import { $, setText } from "./dom.js";
import { events, KeyNeeded, models, NotThere, reports } from "./feed.js";
import { showHandovers } from "./handovers.js";
import { showRequests } from "./requests.js";

const AGAIN_MS = 1000;
const MODELS_MS = 2000;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

let known = [];
let asked = 0;
let latest = new Map();

async function showReports(list) {
  if (Date.now() - asked > MODELS_MS) {
    known = await models();
    asked = Date.now();
    showModels(known);
  }
  showAgents(known, list.flatMap((report) => report.groups));
  showCache(list);
  showHits(list);
}

async function followEvents() {
  latest = new Map();
  for await (const seen of events()) {
    await showReports([seen.report]);
    for (const section of ["#handovers", "#requests"]) $(section).hidden = false;
    const changed = new Map(seen.requests.map((each) => [each.id, each]));
    latest = new Map(seen.ids.map((id) => [id, changed.get(id) ?? latest.get(id)]));
    showRequests(seen.requests, seen.ids, seen.page_size);
    showSums(seen.agents);
    showHandovers([...latest.values()]);
    setText($("#status"), `Live: ${seen.running} running, ${seen.waiting} waiting`);
  }
}

async function followReports() {
  $("#left-out").hidden = false;
  for (;;) {
    await showReports(await reports());
    setText($("#status"), "Live, once a second");
    await pause(AGAIN_MS);
  }
}

async function follow() {
  try {
    await followEvents();
  } catch (error) {
    if (!(error instanceof NotThere)) throw error;
    await followReports();
  }
}

function askForKey() {
  const form = $("#key-form");
  setText($("#status"), "Waiting for the key");
  form.hidden = false;
  $("#key").focus();
  return new Promise((done) => {
    form.addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        sessionStorage.setItem("lragent-key", $("#key").value);
        form.hidden = true;
        done();
      },
      { once: true },
    );
  });
}

for (;;) {
  try {
    await follow();
    setText($("#status"), "The server has stopped; trying again");
  } catch (error) {
    if (error instanceof KeyNeeded) {
      await askForKey();
      continue;
    }
    const why = error instanceof NotThere ? "sharing is not switched on here" : error.message;
    setText($("#status"), `Not connected (${why}); trying again`);
  }
  await pause(AGAIN_MS);
}
