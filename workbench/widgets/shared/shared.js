// What the drawing of every widget shares. Python puts this in front of the widget's own file, and both are one module.
// Guest text enters the page only through textContent.

// An element with a class, text, and attributes; `true` is an attribute without a value, `false` and null leave it out.
function element(tag, name = "", text = "", attributes = {}) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
  }
  return node;
}

// A button with a label for screen readers and a tooltip; `act` is called when it is pressed. `says(text)` changes its
// text. Its name has the text in it, so that who says what they see reaches it.
function button(text, label, act, name = "") {
  const node = element("button", `wb-button ${name}`.trim(), "", { type: "button", title: label });
  const plain = (words) => words.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ").trim();
  node.says = (words) => {
    node.textContent = words;
    node.setAttribute("aria-label", plain(label).includes(plain(words)) ? label : `${words}: ${label}`);
  };
  node.says(text);
  node.addEventListener("click", act);
  return node;
}

// A word in a coloured frame: kind is good, bad, busy, warn or empty.
function badge(text, kind = "") {
  return element("span", "wb-badge", text, { "data-kind": kind });
}

// Which of several buttons is the one: a tab is selected, another button is pressed.
function mark(node, chosen) {
  node.setAttribute(node.getAttribute("role") === "tab" ? "aria-selected" : "aria-pressed", String(chosen));
}

// What a few signs stand for, said in full to whoever does not see them, and in a tooltip.
function spoken(node, words) {
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", words);
  node.title = words;
  return node;
}

// Words for screen readers alone.
function unseen(words) {
  return element("span", "wb-unseen", words);
}

// Controls of a bar that stay together where it is narrow.
function together(...controls) {
  const node = element("span", "wb-together");
  node.append(...controls);
  return node;
}

// What stands in place of content: `state` is empty, loading or error.
function placeholder(state, text) {
  return element("div", "wb-placeholder", text, { "data-state": state, role: state === "error" ? "alert" : "status" });
}

// A table with a heading; a cell is text or a node.
function table(heading, rows, label) {
  const node = element("table", "wb-table", "", { "aria-label": label });
  const line = (cells, tag) => {
    const row = element("tr");
    for (const cell of cells) {
      const box = element(tag, "", typeof cell === "string" ? cell : "", tag === "th" ? { scope: "col" } : {});
      if (typeof cell !== "string") box.append(cell);
      if (tag === "th" && !cell) box.append(unseen("What can be done"));
      row.append(box);
    }
    return row;
  };
  const head = element("thead");
  head.append(line(heading, "th"));
  const body = element("tbody");
  body.append(...rows.map((row) => line(row, "td")));
  node.append(head, body);
  return node;
}

// Draws anew what has buttons in `box`, but not while one of them is being pressed: its click would be lost.
function unpressed(box, draw) {
  if (box.matches(":active")) window.addEventListener("pointerup", () => setTimeout(draw), { once: true });
  else draw();
}

// Text with its control characters and changes of direction made visible: none of them acts on the page.
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (character) => {
    const code = character.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "\u2421" : "\ufffd";
  });
}

function sized(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length, Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 1024 ** power).toFixed(1)} ${units[power - 1]}`;
}

function lasting(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.floor(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}

// Arrow keys, Home and End move between the items of a list, tree or row of tabs, of which one alone is reached by Tab.
// `items` gives them as they stand now; `chosen` is called with the one that got the focus by a key.
function arrows(container, items, { across = false, chosen = () => {} } = {}) {
  const [back, forth] = across ? ["ArrowLeft", "ArrowRight"] : ["ArrowUp", "ArrowDown"];
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(event.target);
    if (at < 0) return;
    const next = { [back]: at - 1, [forth]: at + 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const item = all[(next + all.length) % all.length];
    for (const one of all) one.tabIndex = one === item ? 0 : -1;
    item.focus();
    chosen(item);
  });
}

// Calls `look` now and every few seconds while `box` is on the screen. Returns a cleanup.
function whileSeen(box, look) {
  const seen = () => !document.hidden && box.isConnected && box.checkVisibility() && look();
  const looking = setInterval(seen, 3000);
  setTimeout(seen);
  return () => clearInterval(looking);
}

// Jupyter's own shortcuts (a, d d, x, …) and its scrolling keys must not act on the notebook while somebody is in here.
function keepKeys(root) {
  root.setAttribute("data-lm-suppress-shortcuts", "true");
  root.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey || event.altKey) && event.key !== "Escape") event.stopPropagation();
  });
}

// Whether a kernel has ever answered for a model: one that was read from a notebook has no comm, whatever kernel runs.
async function wasLive(model) {
  const known = await model.widget_manager?.get_model?.(model.get("own_id"))?.catch(() => null);
  return known?.comm_live !== false;
}

// The kernel's end is told in more than one way: a restart takes the comm away, a kernel that died changes its status.
function whenLost(model, lost) {
  const gone = new Set(["dead", "restarting", "autorestarting", "terminating", "unknown"]);
  const onComm = () => lost();
  const onStatus = (_, status) => gone.has(status) && lost();
  const kernel = model.widget_manager?.kernel;
  model.on("comm_live_update", onComm);
  kernel?.statusChanged.connect(onStatus);
  kernel?.disposed.connect(onComm);
  if (kernel === null || (kernel && gone.has(kernel.status))) lost();
  return () => {
    model.off("comm_live_update", onComm);
    kernel?.statusChanged.disconnect(onStatus);
    kernel?.disposed.disconnect(onComm);
  };
}

// Puts the static form of a widget, a MIME bundle, into the outputs of the notebook that have one of it.
function keepStill(model, bundle) {
  const mark = `data-workbench-still="${model.get("own_id")}"`;
  for (const { outputs } of model.widget_manager?.context?.model?.cells ?? []) {
    for (let at = 0; at < (outputs?.length ?? 0); at += 1) {
      const output = outputs.get(at).toJSON();
      const kept = [output.data?.["text/html"] ?? ""].flat().join("");
      if (kept.includes(mark) && kept !== bundle["text/html"]) outputs.set(at, { ...output, data: bundle });
    }
  }
}

// A widget: `export default widget("run", { start, draw })`, where "run" is its class in CSS, `wb-run`.
// `start(model)` makes what belongs to the model, before any view; its `heard(message, buffers)` gets every message.
// `draw({ model, root, body, own, host, needs, connected })` fills `body` and returns a cleanup. `own` is what `start`
// has made, `needs(control)` a control that is disabled when the kernel is gone, `host.getWidget` is for `embed`, and
// `root` gets an event "wb-lost" when the kernel is gone.
function widget(name, { start = () => ({}), draw }) {
  return () => {
    let own = {};
    let live = Promise.resolve(true);
    return {
      initialize({ model }) {
        live = wasLive(model);
        own = start(model) ?? {};
        model.on("msg:custom", (message, buffers) => {
          if (message.type === "still") keepStill(model, message.bundle);
          else own.heard?.(message, buffers);
        });
        model.send({ type: "hello" });
      },
      render({ model, el, host }) {
        const root = element("div", `wb wb-${name}`, "", { role: "region", "aria-label": model.get("aria_label") });
        const banner = element("div", "wb-banner", "", { role: "alert", hidden: true });
        const body = element("div", "wb-body");
        const controls = new Set();
        const said = element("span", "wb-grow");
        const dismiss = button("dismiss", "Dismiss this message", () => model.send({ type: "dismiss" }), "wb-dismiss");
        banner.append(said, dismiss);
        root.append(banner, body);
        keepKeys(root);
        const tell = () => {
          const lost = root.dataset.connection === "lost";
          const problem = model.get("problem");
          said.textContent = lost ? "Disconnected: the kernel has ended or was restarted. Run the cell again." : problem;
          banner.hidden = !lost && !problem;
          banner.dataset.kind = lost ? "warn" : "bad";
          dismiss.hidden = lost;
        };
        const lose = () => {
          if (root.dataset.connection === "lost") return;
          root.dataset.connection = "lost";
          for (const control of controls) control.disabled = true;
          tell();
          root.dispatchEvent(new Event("wb-lost"));
        };
        const unwatch = whenLost(model, lose);
        const needs = (control) => {
          controls.add(control);
          if (root.dataset.connection === "lost") control.disabled = true;
          return control;
        };
        model.on("change:problem", tell);
        tell();
        const cleanup = draw({ model, root, body, own, host, needs, connected: () => root.dataset.connection !== "lost" });
        // The static form of this widget, which stands beside it, is for readers without a kernel.
        const instead = element("style", "", `[data-workbench-still="${CSS.escape(model.get("own_id"))}"] { display: none; }`);
        root.append(instead);
        el.append(root);
        live.then((is) => {
          if (is) return;
          root.dataset.live = "never";
          instead.remove();
          lose();
        });
        return () => {
          model.off("change:problem", tell);
          unwatch();
          cleanup?.();
        };
      },
    };
  };
}

// Draws another widget into `box`; `abort()` of what it returns takes it away.
function embedOnce({ host, reference, box }) {
  const view = new AbortController();
  const { signal } = view;
  const inner = element("div");
  box.replaceChildren(inner);
  host
    .getWidget(reference)
    .then((child) => signal.aborted || child.render({ el: inner, signal }))
    .catch((error) => signal.aborted || box.replaceChildren(placeholder("error", `It cannot be shown: ${error.message}`)));
  return view;
}

// Draws the widget that a trait refers to into `box`, and another one when the trait changes. Returns a cleanup.
function embed({ model, host, trait, box, empty }) {
  let view = null;
  const show = () => {
    view?.abort();
    const reference = model.get(trait);
    view = reference ? embedOnce({ host, reference, box }) : null;
    if (!reference) box.replaceChildren(empty());
  };
  model.on(`change:${trait}`, show);
  show();
  return () => {
    model.off(`change:${trait}`, show);
    view?.abort();
  };
}
