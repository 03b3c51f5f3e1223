// Draws a run: how it stands, its output, where the time went, its proof.

const ASK = 500; // milliseconds, then twice as long each time
const KINDS = { waiting: "", running: "busy", done: "good", error: "bad", refused: "bad", lost: "bad" };

export default widget("run", {
  start(model) {
    const lines = new Lines((question) => model.send(question));
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
      if (message.type !== "tail") {
        if (lines.answer(message, buffers)) for (const paint of painters) paint();
        return;
      }
      if (message.reset && message.ask && message.ask !== asked) return; // an old question's answer
      if (message.reset && message.ask && !waiting && message.last <= lines.seen) return; // another page's, with nothing new
      const rows = JSON.parse(decoder.decode(buffers[0]));
      if (message.reset) {
        lines.clear();
        clearTimeout(waiting);
        waiting = 0;
      }
      if (lines.heard > 0 && message.first > lines.seen + 1 && !waiting) ask(); // a snapshot will fill the gap
      lines.tail(message, rows);
      for (const paint of painters) paint();
    };
    ask();
    return { lines, painters, heard };
  },
  draw({ model, root, body, own, needs, connected }) {
    const { lines, painters } = own;
    const head = header({ model, root, needs, connected, lines });
    const list = output({ lines, painters, root, connected, reason: () => model.get("reason_line") });
    const time = waterfall({ model });
    const proof = proofs({ model });
    const given = inputs({ model });
    body.append(head.node, given.node, list.node, time.node, proof.node);
    const drawAll = () => [head, given, time, proof].forEach((part) => part.draw());
    model.on("change", drawAll);
    const ticking = setInterval(() => [head, list, time].forEach((part) => part.tick()), 100);
    root.addEventListener("wb-lost", drawAll);
    drawAll();
    return () => {
      clearInterval(ticking);
      model.off("change", drawAll);
      list.end();
    };
  },
});

const ended = (model) => ["done", "error", "refused", "lost"].includes(model.get("condition"));

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
  const scripted = badge("scripted model", "warn");
  scripted.title = "No model answered: the answers are written down, and nothing was spent";
  const late = badge("", "warn");
  const text = element("span", "wb-grow wb-cut wb-message");
  const figures = element("span", "wb-figure wb-quiet wb-count");
  const clock = element("span", "wb-figure wb-clock");
  const stop = needs(button("cancel", "Cancel the run", () => model.send({ type: "cancel" }), "wb-danger wb-cancel"));
  node.append(condition, start, again, scripted, late, text, figures, clock, stop);
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
    scripted.hidden = !model.get("scripted");
    late.hidden = !model.get("late_ms");
    late.textContent = `came ${lasting(model.get("late_ms"))} late`;
    late.title = `${model.get("lag")}. The clocks need not agree: a delay that all events share is not seen.`;
    const code = model.get("exit_code");
    const message = ended(model)
      ? [model.get("reason"), model.get("code"), model.get("code") && model.get("message"), code != null && `exit code ${code}`, model.get("usage")]
      : [model.get("phase"), model.get("message")];
    text.textContent = visible(message.filter(Boolean).join(" · ")) || (model.get("run_id") ? "" : "not accepted yet");
    text.title = `${text.textContent}\nrun ${model.get("run_id")}`;
    stop.hidden = ended(model) || !model.get("can_cancel");
    stop.disabled = !connected() || model.get("cancelling");
    stop.says(model.get("cancelling") ? "cancelling …" : "cancel");
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
// A section that can be folded, with its title as the button that does it.
function section(name, label) {
  const node = element("div", `wb-section wb-${name}`);
  const content = element("div", "wb-content");
  const toggle = button(`▾ ${label}`, label, () => {
    content.hidden = !content.hidden;
    toggle.says(`${content.hidden ? "▸" : "▾"} ${label}`);
    toggle.setAttribute("aria-expanded", String(!content.hidden));
  }, "wb-toggle");
  toggle.setAttribute("aria-expanded", "true");
  const title = element("div", "wb-title");
  title.append(toggle);
  node.append(title, content);
  return { node, title, content, toggle };
}

// What the run was asked, folded until somebody wants to know.
function inputs({ model }) {
  const { node, content, toggle } = section("input", "Input");
  const text = element("pre", "wb-code wb-asked", "", { tabindex: 0, role: "region", "aria-label": "Input" });
  content.append(text);
  toggle.click();
  return {
    node,
    draw() {
      node.hidden = !model.get("input");
      const asked = visible(model.get("input"));
      if (text.textContent !== asked) text.textContent = asked;
    },
  };
}

function waterfall({ model }) {
  const { node, content } = section("time", "Timeline");
  let rest = []; // what was measured, below the spans
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
  // What has a value over time: a row of columns on the same axis, `values` as [from, to, share of the greatest, text].
  const columns = (name, kind, values, figure, words) => {
    const { begin, whole } = scale();
    const track = spoken(element("span", "wb-track wb-columns"), `${name}: ${words}`);
    for (const [from, to, share, told] of values) {
      const column = element("span", "wb-column", "", { "data-kind": kind, title: told });
      column.style.left = `${((from - begin) / whole) * 100}%`;
      column.style.width = `${Math.max(0.4, ((to - from) / whole) * 100)}%`;
      column.style.height = `${Math.max(4, share * 100)}%`;
      track.append(column);
    }
    return [element("span", "wb-span", name, { "data-step": true }), track, element("span", "wb-figure wb-quiet wb-took", figure, { title: words })];
  };
  const measured = () => {
    const [lags, uses, late] = [model.get("lags"), model.get("uses"), model.get("late_ms")];
    const worst = Math.max(1000, ...lags.map(([, lag]) => lag)); // below a second, columns stay low
    const most = (place) => Math.max(0.01, ...uses.map((use) => use[place]));
    const [memory, cores] = [most(2), most(3)];
    const rows = [];
    if (lags.length) {
      const width = lags.length > 1 ? Math.max(1, lags[1][0] - lags[0][0]) : 1;
      const values = lags.map(([at, lag, events]) => [at, at + Math.min(width, 50), lag / worst, `${events} event${events === 1 ? "" : "s"} at ${lasting(at)}: ${lasting(lag)} late`]);
      rows.push(...columns("arrival lag", late ? "late" : "lag", values, `≤ ${lasting(Math.max(...lags.map(([, lag]) => lag)))}`, `${model.get("lag")}. The clocks need not agree: a delay that all events share is not seen.`));
    }
    if (uses.length) {
      rows.push(...columns("memory", "use", uses.map(([from, to, used]) => [from, to, used / memory, `${used.toFixed(0)} MiB`]), `≤ ${memory.toFixed(0)} MiB`, model.get("used")));
      rows.push(...columns("processor", "use", uses.map(([from, to, , used]) => [from, to, used / cores, `${used.toFixed(1)} cores`]), `≤ ${cores.toFixed(1)} cores`, model.get("used")));
    } else if (model.get("used")) rows.push(element("span", "wb-span", "memory, processor", { "data-step": true }), element("span", "wb-quiet wb-wide", model.get("used")));
    for (const one of rest) one.remove();
    rest = rows;
    content.append(...rest);
  };
  const draw = () => {
    const spans = model.get("spans");
    node.hidden = spans.length === 0;
    const phases = spans.filter((span) => !span.step);
    const rows = [];
    bars = spans.map((span) => {
      const name = element("span", "wb-span", visible(span.name).replaceAll("_", " "), { "data-step": span.step, title: visible(span.detail) });
      name.style.paddingInlineStart = `${Math.min(span.depth, 6) * 12}px`;
      const track = element("span", "wb-track");
      const bar = element("span", "wb-mark", "", { "data-step": span.step, "data-failed": span.failed });
      const took = element("span", "wb-figure wb-quiet wb-took");
      track.append(bar);
      if (span.detail) track.append(element("span", "wb-detail wb-quiet", visible(span.detail)));
      rows.push(name, track, took);
      return { span, bar, took, last: span === phases[phases.length - 1] };
    });
    content.replaceChildren(...rows);
    place();
    measured();
  };
  let drawn = null;
  let told = "";
  return {
    node,
    draw() {
      if (drawn !== model.get("spans")) draw();
      drawn = model.get("spans");
      place();
      const known = JSON.stringify([model.get("lag"), model.get("lags").length, model.get("used"), drawn.length]);
      if (known !== told) measured();
      told = known;
    },
    tick() {
      if (!ended(model)) place();
    },
  };
}

function proofs({ model }) {
  const node = element("div", "wb-bar wb-quietly wb-proof", "", { role: "group", "aria-label": "Proof" });
  const draw = () => {
    const checks = model.get("proof");
    const note = model.get("proof_note");
    node.hidden = !checks.length && !note;
    const badges = checks.map((check) => {
      const one = badge(`${check.ok ? "✓" : "✗"} ${check.name.replaceAll("_", " ")}`, check.ok ? "good" : "bad");
      one.tabIndex = 0;
      return spoken(one, `${check.name} ${check.ok ? "holds" : "does not hold"}: ${check.detail}`);
    });
    const failed = checks.filter((check) => !check.ok).map((check) => element("div", "wb-failed", `✗ ${check.name}: ${check.detail}`));
    node.replaceChildren(element("span", "wb-quiet", "Proof"), ...badges, ...failed, element("span", "wb-quiet", note));
  };
  return { node, draw };
}
