// The rows of a run's output that a page has. The kernel has all of them: it sends the newest as they come, and of the
// others what is asked for.

const CHANNELS = ["stdout", "stderr", "claude", "status"];
const HELD = 20000; // rows, of those that were sent or asked for last
const MOST = 16 * 1024 * 1024; // characters, whatever the number of rows
const decoder = new TextDecoder();

// A row's `number` is its place in all output. `total` counts all rows, of which the first `forgotten` are no longer kept.
class Lines {
  constructor(send) {
    this.send = send;
    this.asked = Math.floor(Math.random() * 2 ** 40); // every page of a widget hears the answers of all
    this.clear();
  }
  clear() {
    this.rows = new Map();
    this.chars = 0;
    this.total = 0;
    this.forgotten = 0;
    this.alarms = false;
    this.heard = 0;
    this.missed = 0;
    this.seen = 0;
    this.first = 0;
    this.waiting = new Map(); // what becomes of the answer to a question
    this.generation = (this.generation ?? 0) + 1;
  }
  // Take in the newest rows, and which events they are from.
  tail({ first, last, events, total, ...known }, rows) {
    if (first > this.seen) {
      if (this.heard > 0) this.missed += first - this.seen - 1;
      else this.first = first;
      this.heard += events;
    } else this.heard += Math.max(0, last - this.seen);
    this.seen = Math.max(this.seen, last);
    this.total = total;
    this.know(known);
    this.hold(rows);
  }
  // Ask the kernel, or where it has ended the page itself; returns the question's number, with which it can be forgotten.
  ask(question, answered, connected = true) {
    this.asked += 1;
    const { asked } = this;
    this.waiting.set(asked, answered);
    if (connected) this.send({ ...question, ask: asked });
    else setTimeout(() => this.waiting.delete(asked) && answered(...heldAnswer(this, question)));
    return asked;
  }
  forgo(ask) {
    this.waiting.delete(ask);
  }
  // Whether a message was the answer to a question of this page.
  answer(message, buffers) {
    const answered = this.waiting.get(message.ask);
    if (!answered) return false;
    this.waiting.delete(message.ask);
    const text = buffers.length ? decoder.decode(buffers[0]) : "";
    if (message.type === "rows") {
      const rows = JSON.parse(text);
      this.know(message);
      this.hold(rows);
      answered(message, rows.map(([number]) => number));
    } else answered(message, text);
    return true;
  }
  know({ forgotten, alarms }) {
    this.forgotten = Math.max(this.forgotten, forgotten);
    this.alarms = alarms;
  }
  hold(rows) {
    for (const [number, channel, kind, at, text, folded, withdrawn] of rows) {
      this.drop(number);
      this.rows.set(number, { number, channel, kind, at, text, folded, withdrawn });
      this.chars += text.length;
      this.total = Math.max(this.total, number + 1);
    }
    for (const number of this.rows.keys()) {
      if (this.rows.size <= HELD && this.chars <= MOST) break;
      this.drop(number);
    }
  }
  drop(number) {
    const row = this.rows.get(number);
    if (!row) return;
    this.rows.delete(number);
    this.chars -= row.text.length;
  }
  // A row that is looked at; it is held longer than others.
  look(number) {
    const row = this.rows.get(number);
    if (row) {
      this.rows.delete(number);
      this.rows.set(number, row);
    }
    return row;
  }
}
