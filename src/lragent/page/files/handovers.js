// Requests that read what another agent wrote: their time to first token, and what reading the
// prompt again would take at the rate of the requests that did read theirs.

import { label } from "./agents.js";
import { $, count, element, seconds, setChildren, setText } from "./dom.js";

export function rateOf(requests) {
  let tokens = 0;
  let time = 0;
  for (const request of requests) {
    const computed = request.prompt_tokens - request.cached_tokens;
    if (request.ttft_s !== null && computed > request.prompt_tokens / 2) {
      tokens += computed;
      time += request.ttft_s;
    }
  }
  return time > 0 ? tokens / time : null;
}

export function showHandovers(requests) {
  const rate = rateOf(requests);
  const rows = requests
    .filter((each) => each.ttft_s !== null && each.cached_tokens && each.pages.length)
    .filter((each) => each.pages[0].users[0] !== each.adapter)
    .reverse()
    .map((each) => {
      const again = rate === null ? null : each.prompt_tokens / rate;
      const times = again === null ? "–" : `${seconds(again)}, ${(again / each.ttft_s).toFixed(1)} times as long`;
      const cells = [
        `${label(each.pages[0].users[0])} → ${label(each.adapter)}`,
        count.format(each.prompt_tokens),
        count.format(each.cached_tokens),
        seconds(each.ttft_s),
        times,
      ];
      return element("tr", {}, ...cells.map((text) => element("td", {}, text)));
    });
  setChildren($("#handovers tbody"), rows);
  setText(
    $("#rate"),
    rate === null
      ? "No request has read a prompt of its own yet."
      : `Reading again is an estimate: the latest prompts that were computed took ${count.format(
          Math.round(rate),
        )} tokens a second to their first token.`,
  );
}
