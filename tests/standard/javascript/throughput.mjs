// Throughput of the client's parser beside npm `eventsource-parser`, on the same text in the same process.
// Prints megabytes a second of both, by case.
import { createParser } from "eventsource-parser";
import { SseParser } from "./built/sse.mjs";

const ROUNDS = 15;
const event = (seq, size) =>
  `id: ${seq}\nevent: stream\ndata: ${JSON.stringify({
    type: "stream", run_id: "6f9619ff-8b86-4d01-b42d-00c04fc964ff", seq, at_ms: 1764480000000 + seq, elapsed_ms: seq,
    channel: "claude", text: "x".repeat(size), message_id: "msg_1#0",
  })}\n\n`;
const events = (count, size) => Array.from({ length: count }, (_, index) => event(index + 1, size));
/** Text as a decoder gives it, in pieces of one size: flat strings, not ropes. */
const flat = (text) => new TextDecoder().decode(new TextEncoder().encode(text));
const cut = (text, size) => Array.from({ length: Math.ceil(text.length / size) }, (_, at) => flat(text.slice(at * size, (at + 1) * size)));

const cases = {
  "words, in pieces of 16 KiB": cut(events(40_000, 20).join(""), 16 * 1024),
  "words, each event alone": events(40_000, 20).map(flat),
  "output of 4 kB, in pieces of 64 KiB": cut(events(3_000, 4_000).join(""), 64 * 1024),
  "with CR LF": cut(events(20_000, 20).join("").replaceAll("\n", "\r\n"), 16 * 1024),
  "a line of 10 MB": cut(`data: ${"y".repeat(10_000_000)}\n\n`, 16 * 1024),
};
const ours = (pieces) => {
  let count = 0;
  const parser = new SseParser(() => count++);
  for (const piece of pieces) parser.push(piece);
  return count;
};
const theirs = (pieces) => {
  let count = 0;
  const parser = createParser({ onEvent: () => count++ });
  for (const piece of pieces) parser.feed(piece);
  return count;
};
const timed = (parse, pieces) => {
  const before = process.cpuUsage();
  parse(pieces);
  const { user, system } = process.cpuUsage(before);
  return user + system;
};

const figures = {};
for (const [name, pieces] of Object.entries(cases)) {
  const size = pieces.reduce((sum, piece) => sum + piece.length, 0);
  if (ours(pieces) !== theirs(pieces)) throw new Error(name);
  const best = { ours: Infinity, theirs: Infinity };
  for (let round = 0; round < ROUNDS; round++) {
    for (const [who, parse] of round % 2 ? [["ours", ours], ["theirs", theirs]] : [["theirs", theirs], ["ours", ours]]) {
      best[who] = Math.min(best[who], timed(parse, pieces));
    }
  }
  const rate = (us) => Math.round(size / us);
  figures[name] = { ours: rate(best.ours), theirs: rate(best.theirs), ratio: Number((best.theirs / best.ours).toFixed(2)) };
}
console.log(JSON.stringify(figures));
