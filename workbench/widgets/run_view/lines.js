// The lines of a run's output: what is kept of them, and which of them a view shows.

const RING = 20000;
const MOST = 16 * 1024 * 1024; // characters kept, whatever the number of lines
const WIDEST = 8192; // characters: what is longer goes on in the next row
const CHANNELS = ["stdout", "stderr", "claude", "status"];

// Lines of output, the oldest forgotten first. `forgotten` counts what was forgotten: a row's place is its `number` minus it.
class Lines {
  constructor() {
    this.clear();
  }
  clear() {
    this.rows = [];
    this.chars = 0;
    this.forgotten = 0;
    this.heard = 0;
    this.missed = 0;
    this.seen = 0;
    this.first = 0;
    this.withdrawn = null;
    this.open = new Map(); // the unfinished line of each channel
    this.generation = (this.generation ?? 0) + 1;
  }
  add(event) {
    if (event.s <= this.seen) return;
    if (this.heard > 0) this.missed += event.s - this.seen - 1;
    else this.first = event.s;
    this.seen = event.s;
    this.heard += 1;
    if (event.r && event.r !== this.withdrawn) this.withdraw(event.r);
    if (event.x !== undefined) this.print(event);
    for (const [kind, text, body] of event.p ?? []) {
      this.open.delete(event.c);
      if (kind !== "end") this.push({ channel: event.c, kind, at: event.t, text, body });
    }
    while (this.rows.length > RING * 1.25 || this.chars > MOST) this.forget();
  }
  print(event) {
    const pieces = event.x.split(/\r?\n/);
    pieces.forEach((piece, index) => {
      const last = this.rows.length - 1;
      let row = index === 0 ? this.open.get(event.c) : undefined;
      if (row !== this.rows[last] || row?.message !== event.m) row = undefined; // another has spoken since
      if (!row && piece === "" && index === pieces.length - 1) return;
      for (let rest = piece; ; ) {
        row ??= this.push({ channel: event.c, kind: "", at: event.t, text: "", message: event.m });
        const room = WIDEST - row.text.length;
        row.text += rest.slice(0, room);
        this.chars += Math.min(room, rest.length);
        rest = rest.slice(room);
        if (!rest) break;
        row = undefined;
      }
      if (index < pieces.length - 1) this.open.delete(event.c);
      else this.open.set(event.c, row);
    });
  }
  push(row) {
    row.number = this.forgotten + this.rows.length;
    this.rows.push(row);
    this.chars += row.text.length + (row.body?.length ?? 0);
    return row;
  }
  // The model's answer broke off and begins anew: what it said first stays readable, but struck out.
  withdraw(message) {
    this.withdrawn = message;
    for (const row of this.rows) if (row.message === message) row.withdrawn = true;
  }
  forget() {
    const excess = Math.max(this.rows.length - RING, Math.ceil(this.rows.length / 8));
    for (const row of this.rows.splice(0, excess)) this.chars -= row.text.length + (row.body?.length ?? 0);
    this.forgotten += excess;
  }
}

// The rows that a view shows of the lines: those that pass its filter, with the bodies that are unfolded.
class Shown {
  constructor(lines) {
    this.lines = lines;
    this.hidden = new Set();
    this.wanted = "";
    this.unfolded = new Set();
    this.rebuild();
  }
  rebuild() {
    this.rows = [];
    this.next = this.lines.forgotten; // the number of the first line that was not looked at
    this.generation = this.lines.generation;
    this.update();
  }
  // Take in what came, drop what is forgotten; returns how many rows were dropped.
  update() {
    const { lines } = this;
    if (this.generation !== lines.generation) {
      this.unfolded.clear();
      this.rebuild();
      return 0;
    }
    let gone = 0;
    while (gone < this.rows.length && this.rows[gone].number < lines.forgotten) gone += 1;
    if (gone) this.rows.splice(0, gone);
    for (let number = Math.max(this.next, lines.forgotten); number < lines.forgotten + lines.rows.length; number += 1) {
      const row = lines.rows[number - lines.forgotten];
      const last = this.rows[this.rows.length - 1];
      if (last !== row && this.passes(row)) this.take(row);
    }
    // The last line may still grow, and then pass: it is looked at again.
    this.next = Math.max(lines.forgotten, lines.forgotten + lines.rows.length - 1);
    return gone;
  }
  passes(row) {
    if (this.hidden.has(CHANNELS.includes(row.channel) ? row.channel : "status") && row.channel !== "error") return false;
    return !this.wanted || `${row.text}\n${row.body ?? ""}`.toLowerCase().includes(this.wanted);
  }
  take(row) {
    if (this.rows.length && this.rows[this.rows.length - 1].number === row.number) return;
    this.rows.push(row);
    if (!this.unfolded.has(row)) return;
    for (const text of row.body.split("\n")) this.rows.push({ channel: row.channel, kind: "body", text, number: row.number });
  }
  fold(row) {
    this.unfolded.has(row) ? this.unfolded.delete(row) : this.unfolded.add(row);
    this.rebuild();
  }
}
