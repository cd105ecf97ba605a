// What the server tells: a stream of events, or its reports where there is no such stream.

// The same place on lragent serve and on vLLM, behind any prefix that a proxy adds.
const root = location.pathname.replace(/lragent\/[^/]*$/, "");

export class KeyNeeded extends Error {}
export class NotThere extends Error {}

async function get(path, signal) {
  const key = sessionStorage.getItem("lragent-key");
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(root + path, { headers, signal, cache: "no-store" });
  if (answer.status === 401) throw new KeyNeeded();
  if (answer.status === 404) throw new NotThere();
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer;
}

export const models = async () => (await (await get("v1/models")).json()).data;
export const reports = async () => (await (await get("v1/lragent/stats")).json()).engines;

// EventSource sends no key, so the stream is read by hand.
export async function* events() {
  const answer = await get("v1/lragent/events");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) yield JSON.parse(part.replace(/^data: /, ""));
  }
}
