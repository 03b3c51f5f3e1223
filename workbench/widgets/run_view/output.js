// Draws lines of output: only those in sight are painted, and guest text is written only through textContent.

const ROW = 18; // pixels
const SOON = 250; // milliseconds between looks for matches while output comes

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
  let painted = [0, 0]; // for which place and height
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
    if (!view.clientHeight) return; // it is out of sight: `tick` sees when it is shown
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
    painted = [view.scrollTop, view.clientHeight];
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
    // JupyterLab takes cells out of the page and puts them back, when its theme changes: no event tells of the place lost.
    tick() {
      if (view.clientHeight && (view.scrollTop !== painted[0] || view.clientHeight !== painted[1])) soon();
    },
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
