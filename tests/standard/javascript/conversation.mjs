// What a page shows of recorded runs of the Claude CLI: reads { name: events } and prints { name: parts }.
import { readFileSync } from "node:fs";
import { Conversation } from "./built/conversation.mjs";

const shown = {};
for (const [name, events] of Object.entries(JSON.parse(readFileSync(process.argv[2], "utf8")))) {
  const conversation = new Conversation();
  for (const event of events) {
    const before = conversation.parts;
    conversation.add(event);
    const changed = conversation.parts.filter((part) => !before.includes(part));
    if (changed.length > 1) throw new Error(`${name}: one event has changed ${changed.length} parts`);
  }
  shown[name] = conversation.parts;
}
console.log(JSON.stringify(shown));
