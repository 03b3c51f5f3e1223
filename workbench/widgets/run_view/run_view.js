// Draws a run. Keeps the last RING lines, paints only those in sight, and writes guest text only through textContent.

const RING = 20000;
const ROW = 18; // pixels
const decoder = new TextDecoder();

function element(tag, name, text = "") {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  return node;
}

// Lines of output, the oldest forgotten first. `first` counts what was forgotten, so that the view can stand still.
class Lines {
  constructor() {
    this.clear();
  }
  clear() {
    this.rows = [];
    this.forgotten = 0;
    this.seen = 0;
  }
  add(event) {
    if (event.s <= this.seen) return;
    this.seen = event.s;
    const pieces = event.x.split("\n");
    pieces.forEach((piece, index) => {
      const last = this.rows[this.rows.length - 1];
      if (index === 0 && last && last.open && last.channel === event.c) {
        last.text += piece;
        last.open = pieces.length === 1;
      } else if (index < pieces.length - 1 || piece !== "") {
        this.rows.push({ channel: event.c, at: event.t, text: piece, open: index === pieces.length - 1 });
      }
    });
    if (this.rows.length > RING * 1.25) {
      const excess = this.rows.length - RING;
      this.rows.splice(0, excess);
      this.forgotten += excess;
    }
  }
}

// One widget: its lines belong to the model, which is there before any view and hears every message.
export default () => {
  const lines = new Lines();
  const painters = new Set();

  const onMessage = (model, message, buffers) => {
    if (message.type !== "events") return;
    if (message.reset) lines.clear();
    const events = JSON.parse(decoder.decode(buffers[0]));
    const missing = events.length > 0 && events[0].s > lines.seen + 1;
    events.forEach((event) => lines.add(event));
    if (missing && !message.reset) model.send({ type: "hello" }); // a snapshot will fill the gap
    painters.forEach((paint) => paint());
  };

  return {
    initialize({ model }) {
      model.on("msg:custom", (message, buffers) => onMessage(model, message, buffers));
      model.send({ type: "hello" });
    },
    render: ({ model, el }) => render({ model, el, lines, painters }),
  };
};

function render({ model, el, lines, painters }) {
  const root = element("div", "wb-run");
  root.setAttribute("role", "region");
  root.setAttribute("aria-label", "Run");
  const head = element("div", "wb-head");
  const badge = element("span", "wb-badge");
  badge.setAttribute("role", "status");
  const text = element("span", "wb-text");
  const clock = element("span", "wb-clock");
  const count = element("span", "wb-count");
  const follow = element("button", "wb-follow", "follow");
  follow.setAttribute("aria-label", "Follow the newest output");
  const cancel = element("button", "wb-cancel", "cancel");
  cancel.setAttribute("aria-label", "Cancel the run");
  head.append(badge, text, clock, count, follow, cancel);
  const view = element("div", "wb-lines");
  view.tabIndex = 0;
  view.setAttribute("role", "log");
  view.setAttribute("aria-label", "Output");
  const space = element("div", "wb-space");
  view.append(space);
  root.append(head, view);
  el.append(root);

  const pool = [];
  let following = true;
  let painting = 0;
  let updatedAt = performance.now();
  let asked = false;

  const paint = () => {
    painting = 0;
    const total = lines.rows.length;
    space.style.height = `${total * ROW}px`;
    if (following) view.scrollTop = view.scrollHeight;
    const shown = Math.ceil(view.clientHeight / ROW) + 1;
    const start = Math.max(0, Math.min(Math.floor(view.scrollTop / ROW), total - 1));
    while (pool.length < shown) {
      const row = element("div", "wb-row");
      space.append(row);
      pool.push(row);
    }
    pool.forEach((row, index) => {
      const line = lines.rows[start + index];
      row.hidden = !line || index >= shown;
      if (row.hidden) return;
      row.style.transform = `translateY(${(start + index) * ROW}px)`;
      row.dataset.channel = line.channel;
      row.textContent = line.text;
    });
    follow.setAttribute("aria-pressed", String(following));
  };
  const soon = () => {
    if (!painting) painting = requestAnimationFrame(paint);
  };

  const ended = () => ["done", "error", "lost"].includes(model.get("condition"));
  const header = () => {
    const condition = model.get("condition");
    root.dataset.condition = condition;
    badge.textContent = condition;
    const code = model.get("code");
    text.textContent = [model.get("phase"), code, model.get("message")].filter(Boolean).join(" · ");
    count.textContent = `${model.get("event_count")} events`;
    cancel.disabled = ended() || asked || !model.get("run_id");
    cancel.textContent = asked && !ended() ? "cancelling …" : "cancel";
    updatedAt = performance.now();
    tick();
  };
  const tick = () => {
    const since = ended() || model.get("condition") === "waiting" ? 0 : performance.now() - updatedAt;
    clock.textContent = `${((model.get("elapsed_ms") + since) / 1000).toFixed(1)} s`;
  };
  const ticking = setInterval(tick, 100);

  const onLost = () => {
    root.dataset.condition = "lost";
    badge.textContent = "disconnected";
    cancel.disabled = true;
  };
  painters.add(soon);
  model.on("change", header);
  model.on("comm_live_update", onLost);
  const onScroll = () => {
    following = view.scrollTop + view.clientHeight >= view.scrollHeight - ROW;
    soon();
  };
  view.addEventListener("scroll", onScroll);
  follow.addEventListener("click", () => {
    following = true;
    soon();
  });
  cancel.addEventListener("click", () => {
    asked = true;
    model.send({ type: "cancel" });
    header();
  });
  const resized = new ResizeObserver(soon);
  resized.observe(view);
  header();
  soon();

  return () => {
    clearInterval(ticking);
    cancelAnimationFrame(painting);
    resized.disconnect();
    painters.delete(soon);
    model.off("change", header);
    model.off("comm_live_update", onLost);
  };
}
