// Draws a run. Keeps the last RING lines, paints only those in sight, and writes guest text only through textContent.

const RING = 20000;
const MOST = 16 * 1024 * 1024; // characters kept, whatever the number of lines
const WIDEST = 8192; // characters: what is longer goes on in the next row
const ROW = 18; // pixels
const ASK = 500; // milliseconds, then twice as long each time
const SOON = 250; // milliseconds between looks for matches while output comes
const CHANNELS = ["stdout", "stderr", "claude", "status"];
const KINDS = { waiting: "", running: "busy", done: "good", error: "bad", lost: "bad" };
const decoder = new TextDecoder();

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

export default widget("run", {
  start(model) {
    const lines = new Lines();
    const painters = new Set();
    // Asks for a snapshot, again and again until one comes: the first question may wait for a cell that blocks.
    let asked = 0;
    let waiting = 0;
    const ask = (pause = ASK) => {
      asked += 1;
      model.send({ type: "snapshot", ask: asked });
      clearTimeout(waiting);
      if (pause < 100 * ASK) waiting = setTimeout(ask, pause, pause * 2);
    };
    const heard = (message, buffers) => {
      if (message.type !== "events") return;
      if (message.reset && message.ask && message.ask !== asked) return; // an old question's answer
      if (message.reset) {
        lines.clear();
        clearTimeout(waiting);
        waiting = 0;
      }
      const events = JSON.parse(decoder.decode(buffers[0]));
      if (lines.heard > 0 && events[0]?.s > lines.seen + 1 && !waiting) ask(); // a snapshot will fill the gap
      for (const event of events) lines.add(event);
      for (const paint of painters) paint();
    };
    ask();
    return { lines, painters, heard };
  },
  draw({ model, root, body, own, needs, connected }) {
    const { lines, painters } = own;
    const head = header({ model, root, needs, connected, lines });
    const list = output({ lines, painters, root });
    const time = waterfall({ model });
    const proof = proofs({ model });
    body.append(head.node, list.node, time.node, proof.node);
    const drawAll = () => [head, time, proof].forEach((part) => part.draw());
    model.on("change", drawAll);
    const ticking = setInterval(() => [head, time].forEach((part) => part.tick()), 100);
    root.addEventListener("wb-lost", drawAll);
    drawAll();
    return () => {
      clearInterval(ticking);
      model.off("change", drawAll);
      list.end();
    };
  },
});

const ended = (model) => ["done", "error", "lost"].includes(model.get("condition"));

// What time it is in the run: between two messages it goes on at the run's pace, unless nobody is there to tell.
function clockOf(model, connected) {
  let at = performance.now();
  model.on("change:elapsed_ms change:pace", () => {
    at = performance.now();
  });
  return () => model.get("elapsed_ms") + (connected() ? (performance.now() - at) * model.get("pace") : 0);
}

function header({ model, root, needs, connected, lines }) {
  const node = element("div", "wb-bar");
  const condition = badge("");
  condition.classList.add("wb-condition");
  condition.setAttribute("role", "status");
  const start = badge("", "empty");
  const again = badge("", "warn");
  const text = element("span", "wb-grow wb-cut wb-message");
  const figures = element("span", "wb-figure wb-quiet wb-count");
  const clock = element("span", "wb-figure wb-clock");
  const stop = needs(button("cancel", "Cancel the run", () => model.send({ type: "cancel" }), "wb-danger wb-cancel"));
  node.append(condition, start, again, text, figures, clock, stop);
  const now = clockOf(model, connected);
  let sample = { at: performance.now(), heard: lines.heard };
  let rate = 0;

  const draw = () => {
    const known = connected() || ended(model);
    const word = known ? model.get("condition") : "disconnected";
    root.dataset.condition = model.get("condition");
    condition.textContent = word === "lost" ? "stream lost" : word;
    condition.dataset.kind = known ? KINDS[word] : "warn";
    start.textContent = model.get("start");
    start.hidden = !model.get("start");
    const resumed = model.get("reconnects");
    again.textContent = model.get("reconnecting") ? "reconnecting …" : `reconnected ${resumed} ×`;
    again.hidden = !model.get("reconnecting") && !resumed;
    const code = model.get("exit_code");
    const message = ended(model)
      ? [model.get("code"), model.get("code") && model.get("message"), code != null && `exit code ${code}`, model.get("usage")]
      : [model.get("phase"), model.get("message")];
    text.textContent = visible(message.filter(Boolean).join(" · ")) || (model.get("run_id") ? "" : "not accepted yet");
    text.title = `${text.textContent}\nrun ${model.get("run_id")}`;
    stop.hidden = ended(model) || !model.get("can_cancel");
    stop.disabled = !connected() || model.get("cancelling");
    stop.textContent = model.get("cancelling") ? "cancelling …" : "cancel";
    tick();
  };
  const tick = () => {
    clock.textContent = lasting(now());
    const at = performance.now();
    if (at - sample.at > 1000) {
      rate = ((lines.heard - sample.heard) / (at - sample.at)) * 1000;
      sample = { at, heard: lines.heard };
    }
    const bytes = Object.values(model.get("sizes")).reduce((sum, size) => sum + size, 0);
    const count = model.get("event_count").toLocaleString("en");
    const speed = ended(model) || !connected() ? "" : ` · ${Math.round(Math.max(0, rate)).toLocaleString("en")}/s`;
    figures.textContent = `${count} events${speed} · ${sized(bytes)}`;
    root.dataset.heard = lines.heard;
    root.dataset.first = lines.first;
    root.dataset.seen = lines.seen;
    root.dataset.missed = lines.missed;
  };
  return { node, draw, tick };
}

function output({ lines, painters, root }) {
  const node = element("div", "wb-output");
  const bar = element("div", "wb-bar wb-quietly", "", { role: "toolbar", "aria-label": "Output" });
  const view = element("div", "wb-lines", "", { role: "log", "aria-label": "Output", "aria-live": "off", tabindex: 0 });
  const space = element("div", "wb-space");
  const nothing = placeholder("empty", "No output yet");
  view.append(space, nothing);
  node.append(bar, view);

  const shown = new Shown(lines);
  const pool = [];
  let following = true;
  let cursor = null; // the row that keys act on
  let painting = 0;
  let wanted = ""; // what is searched for
  let hits = [];
  let lookedAt = 0;
  let late = 0;

  const follow = button("follow", "Follow the newest output", () => setFollowing(!following), "wb-follow");
  const chips = CHANNELS.map((channel) =>
    button(channel, `Show ${channel}`, (event) => {
      shown.hidden.has(channel) ? shown.hidden.delete(channel) : shown.hidden.add(channel);
      event.currentTarget.setAttribute("aria-pressed", String(!shown.hidden.has(channel)));
      refilter();
    }),
  );
  for (const chip of chips) chip.setAttribute("aria-pressed", "true");
  const filter = element("input", "wb-field wb-filter", "", { type: "search", placeholder: "filter", "aria-label": "Show only lines with" });
  const search = element("input", "wb-field wb-search", "", { type: "search", placeholder: "search", "aria-label": "Search in the output" });
  const found = element("span", "wb-figure wb-quiet wb-found", "", { role: "status" });
  const before = button("↑", "Previous match", () => step(-1));
  const after = button("↓", "Next match", () => step(1));
  const failure = button("to error", "Jump to the next error", () => toError(), "wb-to-error");
  const copy = button("copy", "Copy the lines that are shown", () => copied(), "wb-copy");
  bar.append(follow, ...chips, filter, element("span", "wb-grow"), search, before, after, found, failure, copy);

  const setFollowing = (value) => {
    following = value;
    follow.textContent = value ? "following" : "paused";
    follow.setAttribute("aria-pressed", String(value));
    soon();
  };
  const refilter = () => {
    shown.wanted = filter.value.toLowerCase();
    shown.rebuild();
    look();
    soon();
  };
  const matches = (row) => {
    const folded = row.body && !shown.unfolded.has(row) ? row.body : "";
    return visible(`${row.text}\n${folded}`).toLowerCase().includes(wanted);
  };
  const look = () => {
    lookedAt = performance.now();
    hits = wanted ? shown.rows.filter(matches) : [];
    const at = hits.indexOf(cursor);
    found.textContent = wanted ? `${at < 0 ? "–" : at + 1}/${hits.length}` : "";
    before.disabled = after.disabled = hits.length === 0;
  };
  const choose = (row) => {
    cursor = row;
    const index = shown.rows.indexOf(row);
    if (index < 0) return;
    setFollowing(false);
    const top = index * ROW;
    if (top < view.scrollTop || top > view.scrollTop + view.clientHeight - 2 * ROW) {
      view.scrollTop = Math.max(0, top - view.clientHeight / 2);
    }
    soon();
  };
  // The next of some rows after the cursor, or before it, round and round.
  const next = (rows, by) => {
    const at = rows.indexOf(cursor);
    if (at >= 0) return rows[(at + by + rows.length) % rows.length];
    const here = cursor ? shown.rows.indexOf(cursor) : by > 0 ? Math.floor(view.scrollTop / ROW) - 1 : shown.rows.length;
    const places = rows.map((row) => shown.rows.indexOf(row));
    const ahead = by > 0 ? places.findIndex((place) => place > here) : places.findLastIndex((place) => place < here);
    return rows[ahead < 0 ? (by > 0 ? 0 : rows.length - 1) : ahead];
  };
  const step = (by) => {
    look();
    if (hits.length) choose(next(hits, by));
    look();
  };
  const toError = () => {
    const worst = shown.rows.filter((row) => row.kind !== "body" && (row.channel === "error" || row.kind === "failure"));
    const rows = worst.length ? worst : shown.rows.filter((row) => row.channel === "stderr");
    if (rows.length) choose(next(rows, 1));
  };
  const copied = async () => {
    await navigator.clipboard.writeText(shown.rows.map((row) => row.text).join("\n"));
    copy.textContent = `copied ${shown.rows.length} lines`;
    setTimeout(() => {
      copy.textContent = "copy";
    }, 2000);
  };

  const paint = () => {
    painting = 0;
    const gone = shown.update();
    if (gone && !following) view.scrollTop -= gone * ROW;
    if (wanted && performance.now() - lookedAt > SOON) look();
    else if (wanted && !late) late = setTimeout(() => { late = 0; soon(); }, SOON);
    const total = shown.rows.length;
    space.style.height = `${total * ROW}px`;
    nothing.hidden = total > 0;
    nothing.textContent = lines.rows.length ? "No line passes the filter" : "No output yet";
    if (following) view.scrollTop = view.scrollHeight;
    const room = Math.ceil(view.clientHeight / ROW) + 1;
    const first = Math.max(0, Math.min(Math.floor(view.scrollTop / ROW), total - 1));
    while (pool.length < room) {
      const row = element("div", "wb-row");
      const line = { row, at: element("span", "wb-at"), fold: element("span", "wb-fold"), said: element("span", "wb-said") };
      row.append(line.at, line.fold, line.said);
      row.addEventListener("click", () => line.shows && touch(line.shows));
      space.append(row);
      pool.push(line);
    }
    pool.forEach((line, index) => drawRow(line, index < room ? shown.rows[first + index] : undefined, first + index));
    failure.disabled = !shown.rows.some((row) => row.channel === "error" || row.channel === "stderr" || row.kind === "failure");
    root.dataset.rows = total;
  };
  const drawRow = (line, row, index) => {
    line.shows = row;
    line.row.hidden = !row;
    if (!row) return;
    line.row.style.transform = `translateY(${index * ROW}px)`;
    line.row.dataset.channel = row.channel;
    line.row.dataset.kind = row.kind;
    line.row.toggleAttribute("data-withdrawn", Boolean(row.withdrawn));
    line.row.toggleAttribute("data-cursor", row === cursor);
    line.at.textContent = row.at === undefined ? "" : (row.at / 1000).toFixed(3);
    line.fold.textContent = row.body ? (shown.unfolded.has(row) ? "▾" : "▸") : "";
    const text = visible(row.text);
    if (wanted && text.toLowerCase().includes(wanted)) line.said.replaceChildren(...marked(text, wanted));
    else if (line.said.textContent !== text || line.said.childElementCount) line.said.textContent = text;
  };
  const touch = (row) => {
    cursor = row;
    if (row.body) {
      setFollowing(false);
      shown.fold(row);
    }
    soon();
  };
  const soon = () => {
    if (!painting) painting = requestAnimationFrame(paint);
  };

  view.addEventListener("keydown", (event) => {
    userScrolled = true;
    const at = cursor ? shown.rows.indexOf(cursor) : -1;
    const to = { ArrowDown: at + 1, ArrowUp: at < 0 ? shown.rows.length - 1 : at - 1, Home: 0, End: shown.rows.length - 1 }[event.key];
    if (to !== undefined && shown.rows[to]) choose(shown.rows[to]);
    else if ((event.key === "Enter" || event.key === " ") && cursor) touch(cursor);
    else return;
    event.preventDefault();
    if (event.key === "End") setFollowing(true);
  });
  view.addEventListener("scroll", () => {
    const atEnd = view.scrollTop + view.clientHeight >= view.scrollHeight - ROW;
    if (!atEnd && following && userScrolled) setFollowing(false);
    userScrolled = false;
    soon();
  });
  let userScrolled = false;
  for (const kind of ["wheel", "pointerdown", "touchmove"]) {
    view.addEventListener(kind, () => { userScrolled = true; }, { passive: true });
  }
  filter.addEventListener("input", refilter);
  search.addEventListener("input", () => {
    wanted = search.value.toLowerCase();
    look();
    if (hits.length && !hits.includes(cursor)) step(1);
    soon();
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
  });
  const resized = new ResizeObserver(soon);
  resized.observe(view);
  painters.add(soon);
  look();
  setFollowing(true);
  return {
    node,
    end() {
      cancelAnimationFrame(painting);
      clearTimeout(late);
      resized.disconnect();
      painters.delete(soon);
    },
  };
}

// A text as nodes, with what was found in it marked.
function marked(text, wanted) {
  const nodes = [];
  const lower = text.toLowerCase();
  let from = 0;
  for (let at = lower.indexOf(wanted); at >= 0 && nodes.length < 40; at = lower.indexOf(wanted, from)) {
    nodes.push(element("span", "", text.slice(from, at)), element("mark", "", text.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  nodes.push(element("span", "", text.slice(from)));
  return nodes;
}

// A section that can be folded, with its title as the button that does it.
function section(name, label) {
  const node = element("div", `wb-section wb-${name}`);
  const content = element("div", "wb-content");
  const toggle = button(`▾ ${label}`, label, () => {
    content.hidden = !content.hidden;
    toggle.textContent = `${content.hidden ? "▸" : "▾"} ${label}`;
    toggle.setAttribute("aria-expanded", String(!content.hidden));
  }, "wb-toggle");
  toggle.setAttribute("aria-expanded", "true");
  const title = element("div", "wb-title");
  title.append(toggle);
  node.append(title, content);
  return { node, title, content };
}

function waterfall({ model }) {
  const { node, content } = section("time", "Timeline");
  let bars = [];
  const first = element("span", "wb-first-output", "", { title: "first output" });
  const scale = () => {
    const spans = model.get("spans");
    const begin = Math.min(0, ...spans.map((span) => span.start));
    return { begin, whole: Math.max(1, ...spans.map((span) => span.end), model.get("elapsed_ms")) - begin };
  };
  const place = () => {
    const { begin, whole } = scale();
    for (const { span, bar, took, last } of bars) {
      const end = last && !ended(model) ? Math.max(span.end, model.get("elapsed_ms")) : span.end;
      bar.style.left = `${((span.start - begin) / whole) * 100}%`;
      bar.style.width = `${Math.max(0.3, ((end - span.start) / whole) * 100)}%`;
      took.textContent = lasting(end - span.start);
    }
    const at = model.get("first_output_ms");
    const during = bars.findLast(({ span }) => !span.step && at !== null && span.start <= at);
    if (!during) return first.remove();
    first.style.left = `${((at - begin) / whole) * 100}%`;
    during.bar.parentElement.append(first);
  };
  const draw = () => {
    const spans = model.get("spans");
    node.hidden = spans.length === 0;
    const phases = spans.filter((span) => !span.step);
    const rows = [];
    bars = spans.map((span) => {
      const name = element("span", "wb-span", span.name.replaceAll("_", " "), { "data-step": span.step });
      const track = element("span", "wb-track");
      const bar = element("span", "wb-mark", "", { "data-step": span.step });
      const took = element("span", "wb-figure wb-quiet wb-took");
      track.append(bar);
      rows.push(name, track, took);
      return { span, bar, took, last: span === phases[phases.length - 1] };
    });
    content.replaceChildren(...rows);
    place();
  };
  let drawn = null;
  return {
    node,
    draw() {
      if (drawn !== model.get("spans")) draw();
      drawn = model.get("spans");
      place();
    },
    tick() {
      if (!ended(model)) place();
    },
  };
}

function proofs({ model }) {
  const node = element("div", "wb-bar wb-quietly wb-proof", "", { "aria-label": "Proof" });
  const draw = () => {
    const checks = model.get("proof");
    const note = model.get("proof_note");
    node.hidden = !checks.length && !note;
    const badges = checks.map((check) => {
      const one = badge(`${check.ok ? "✓" : "✗"} ${check.name.replaceAll("_", " ")}`, check.ok ? "good" : "bad");
      one.title = check.detail;
      one.tabIndex = 0;
      one.setAttribute("aria-label", `${check.name} ${check.ok ? "holds" : "does not hold"}: ${check.detail}`);
      return one;
    });
    const failed = checks.filter((check) => !check.ok).map((check) => element("div", "wb-failed", `✗ ${check.name}: ${check.detail}`));
    node.replaceChildren(element("span", "wb-quiet", "Proof"), ...badges, ...failed, element("span", "wb-quiet", note));
  };
  return { node, draw };
}
