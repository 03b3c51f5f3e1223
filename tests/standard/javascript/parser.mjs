// The parser of the client against npm `eventsource-parser` and against the specification's own words.
// argv: the seed and the number of streams. Prints what was compared, as JSON.
import assert from "node:assert/strict";
import { createParser } from "eventsource-parser";
import { SseParser } from "./built/sse.mjs";

let state = Number(process.argv[2]);
const random = (below) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
};
const pick = (list) => list[random(list.length)];

/** What `pieces` of a stream hold, by our parser. */
function ours(pieces) {
  const found = [];
  const parser = new SseParser((message) => found.push(message));
  for (const piece of pieces) parser.push(piece);
  return found;
}

/** The same by the other parser. It leaves the mark of byte order to the decoder, and a last CR waits for what follows. */
function theirs(text) {
  const found = [];
  const parser = createParser({ onEvent: ({ id, event, data }) => found.push({ id, event: event ?? "message", data }) });
  parser.feed(`${text.startsWith("\ufeff") ? text.slice(1) : text}${text.endsWith("\r") ? "more" : ""}`);
  return found;
}

/** The same, word by word as the specification has it: split into lines first, then read field by field. */
function specified(text) {
  const found = [];
  let [id, event, data] = [undefined, "", ""];
  const lines = text.replace(/^\ufeff/, "").split(/\r\n|\r|\n/);
  lines.pop(); // what no line end has followed
  for (const line of lines) {
    if (line === "") {
      if (data !== "") found.push({ id, event: event || "message", data: data.slice(0, -1) });
      [id, event, data] = [undefined, "", ""];
      continue;
    }
    const [, name, value] = /^([^:]*)(?::? ?([^]*))$/.exec(line.includes(":") ? line : `${line}:`);
    if (name === "data") data += `${value}\n`;
    if (name === "event") event = value;
    if (name === "id" && !value.includes("\0")) id = value;
  }
  return found;
}

const ENDS = ["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "\n\r", "\n\r\n"];
const NAMES = ["data", "data", "data", "event", "id", "retry", "", "datum", "dat", "data ", "ID", "\u2028", "even"];
const VALUES = ["", " ", "  two", "x", "{\"a\": 1}", "a:b", "\u2028", "\u2029 \u0085", "\0", "é", "日本", "😀", "\ufeff", "12"];
function stream() {
  let text = pick(["", "", "", "\ufeff", "\ufeff\ufeff"]);
  for (let lines = random(8); lines >= 0; lines--) {
    text += `${pick(NAMES)}${pick([":", ":", ": ", ": ", ""])}${pick(VALUES)}${pick(ENDS)}`;
  }
  return text + pick(["", "", "data: cut off", "\n", "\r"]);
}

/** Texts as a streaming decoder makes them from bytes that are cut into these parts. */
function decoded(parts) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return [...parts.map((part) => decoder.decode(part, { stream: true })), decoder.decode()];
}

const fixed = [
  "", "\n", "\r", "\r\n", "data", "data\n\n", "data:\n\n", "data: \n\n", "data:  \n\n", "data:a\ndata:\ndata:b\n\n",
  "data: a\r\rdata: b\n\rdata: c\r\n\r\n", "\ufeffdata: a\n\n", "\ufeff\ufeffdata: a\n\ndata: b\n\n", ": heartbeat\n\n",
  "data: a\n: between\ndata: b\n\n", "id: 1\n\ndata: a\n\n", "id\ndata: a\n\n", "id: a\0b\ndata: a\n\n", "event\ndata: a\n\n",
  "data: a\u2028b\u2029c\u0085d\n\n", "retry: 5\ndata: a\n\n", "data: a\n", "data: a\n\r", "data: a\r\n\r", "\n\n\ndata: a\n\n\n\n",
  "id: 1\nevent: status\ndata: {\"type\":\"status\"}\n\nid: 2\nevent: done\ndata: {\"type\":\"done\"}\n\n",
  "test: data\ndata:data: x\n\n", "data: 😀😀\r\n\r\n", "event: a\nevent:\ndata: b\n\n",
];
let splits = 0;
let streams = 0;
const count = Number(process.argv[3]);
for (let number = 0; number < fixed.length + count; number++) {
  const text = fixed[number] ?? stream();
  const whole = specified(text);
  assert.deepEqual(ours([text]), whole, JSON.stringify(text));
  assert.deepEqual(theirs(text), whole, JSON.stringify(text));
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at <= bytes.length; at++) {
    assert.deepEqual(ours(decoded([bytes.slice(0, at), bytes.slice(at)])), whole, JSON.stringify([text, at]));
    splits++;
  }
  for (let at = 0; at <= text.length && text.length <= 40; at++) { // three pieces of the text itself, also within a pair
    for (let next = at; next <= text.length; next++) {
      assert.deepEqual(ours([text.slice(0, at), text.slice(at, next), text.slice(next)]), whole, JSON.stringify([text, at, next]));
      splits++;
    }
  }
  assert.deepEqual(ours([...text]), whole);
  streams++;
}

// A line of 10 MB costs the same however it comes: nothing is looked at again for each piece.
const long = `data: ${"y".repeat(10_000_000)}\n\n`;
const took = (size) => {
  const pieces = [];
  for (let at = 0; at < long.length; at += size) pieces.push(long.slice(at, at + size));
  const before = process.cpuUsage();
  const [message] = ours(pieces);
  assert.equal(message.data.length, 10_000_000);
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
};
took(64 * 1024);
console.log(JSON.stringify({ streams, splits, long_ms: { whole: took(long.length), pieces_of_100: took(100) } }));
