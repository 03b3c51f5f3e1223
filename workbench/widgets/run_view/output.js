// Draws lines of output: only those in sight are painted, and guest text is written only through textContent.

const ROW = 18; // pixels
const TALLEST = 4_000_000; // pixels; what is longer is scrolled in proportion, for browsers draw nothing taller than some
const SOON = 250; // milliseconds between looks for matches while output comes

function output({ lines, painters, root, connected, reason }) {
  const node = element("div", "wb-output");
  const bar = element("div", "wb-bar wb-quietly", "", { role: "toolbar", "aria-label": "Output" });
  const notice = element("div", "wb-unkept", "", { role: "status", hidden: true });
  const view = element("div", "wb-lines", "", { role: "log", "aria-label": "Output", "aria-live": "off", tabindex: 0 });
  const space = element("div", "wb-space");
  const nothing = placeholder("empty", "No output yet");
  view.append(space, nothing);
  node.append(bar, notice, view);

  const pool = [];
  let following = true;
  let cursor = null; // what keys act on: the place and number of a row, and which line of its body, or -1
  let painting = 0;
  let later = 0;
  let top = 0; // the pixel of all lines that is at the top of the view
  let most = 0; // the greatest that it can be
  let placed = 0; // where the scroll bar was put for it
  let high = 0; // the view's height when it was painted
  let touched = false; // somebody has done what scrolls
  let sought = "";
  let looking = 0; // the question that looks for matches, and what was looked at
  let wish = { by: 0, stay: false }; // what that question wanted
  let looked = { at: 0, seen: -1 };
  let hits = 0;
  let telling = 0; // what was copied

  const soon = () => {
    if (!painting) painting = requestAnimationFrame(paint);
  };
  const shown = new Shown(lines, { changed: soon, connected });
  const follow = button("follow", "Follow the newest output", () => setFollowing(!following), "wb-follow");
  const chips = CHANNELS.map((channel) =>
    button(channel, `Show ${channel}`, (event) => {
      shown.hidden.has(channel) ? shown.hidden.delete(channel) : shown.hidden.add(channel);
      mark(event.currentTarget, !shown.hidden.has(channel));
      refilter();
    }),
  );
  for (const chip of chips) mark(chip, true);
  const filter = element("input", "wb-field wb-filter", "", { type: "search", placeholder: "filter", maxlength: 1000, "aria-label": "Show only lines with" });
  const search = element("input", "wb-field wb-search", "", { type: "search", placeholder: "search", maxlength: 1000, "aria-label": "Search in the output" });
  const found = element("span", "wb-figure wb-quiet wb-found", "", { role: "status" });
  const before = button("↑", "Previous match", () => look(-1));
  const after = button("↓", "Next match", () => look(1));
  const failure = button("to error", "Jump to the next error", () => toError(), "wb-to-error");
  const copy = button("copy", "Copy the lines that are shown", () => copied(), "wb-copy");
  bar.append(together(follow, ...chips, filter), element("span", "wb-grow"), together(search, before, after, found, failure, copy));

  const setFollowing = (value) => {
    following = value;
    follow.says(value ? "following" : "paused");
    mark(follow, value);
    soon();
  };
  const refilter = () => {
    shown.wanted = filter.value;
    shown.forget();
    top = 0;
    if (cursor) cursor = { number: cursor.number, line: -1 };
    if (shown.filtered) shown.refresh(following ? -1 : 0);
    else if (cursor?.number !== undefined && !following) choose({ place: cursor.number, number: cursor.number }); // with what is around it
    look(0);
    soon();
  };
  // The number of the row that a search goes on from: the cursor's, or that before the first in sight.
  const here = () => cursor?.number ?? (shown.number(shown.at(Math.floor(top / ROW)).place) ?? 0) - 1;
  // The place of the row that keys act on; undefined or null when there is none, or it is not known.
  const stands = () => cursor && (cursor.place ?? shown.place(cursor.number));
  const step = (question, by, answered) =>
    lines.ask({ type: "match", ...shown.filter, number: Math.max(-1, here()), by, ...question }, answered, connected());
  // Look for the next match, or the one before, or with 0 only how many there are; `stay` at the cursor if it is one.
  const look = (by, stay = false) => {
    lines.forgo(looking);
    looking = 0;
    wish = { by, stay };
    looked = { at: performance.now(), seen: lines.seen };
    if (!sought) return tellFound(null);
    looking = step({ sought, stay }, by, (message) => {
      looking = 0;
      const there = message.place !== null;
      if (there && by !== 0) choose(message);
      tellFound(message);
      if (!message.whole) look(there ? 0 : by, stay);
      soon();
    });
  };
  // Look once more, if what was asked last will have no answer.
  const lookAgain = () => {
    if (looking) look(wish.by, wish.stay);
  };
  const tellFound = (message) => {
    hits = message?.total ?? 0;
    const at = message?.place == null || message.at === null ? "–" : message.at + 1;
    found.textContent = message ? `${at}/${hits}${message.whole ? "" : " …"}` : "";
    enable();
  };
  const toError = () => {
    step({ sought: null, reason: reason() }, 1, (message) => {
      if (message.place !== null) choose(message);
      else if (!message.whole) toError();
      if (!message.missing) return;
      found.textContent = `was not loaded: ${reason()}`;
      found.title = found.textContent;
    });
  };
  const enable = () => {
    before.disabled = after.disabled = hits === 0;
    failure.disabled = !lines.alarms;
  };
  const choose = ({ place, number, line = -1 }) => {
    cursor = { place, number, line };
    setFollowing(false);
    const at = (shown.index(place) + line + 1) * ROW;
    if (at < top || at > top + view.clientHeight - 2 * ROW) top = at - view.clientHeight / 2;
    soon();
  };
  const copied = () => {
    const unfolded = shown.folds.map((fold) => fold.number);
    lines.ask({ type: "copy", ...shown.filter, unfolded }, async (message, text) => {
      if (!message.whole) return copied();
      let told = `copied ${message.lines} lines`;
      if (message.rows < message.of) told = `copied the last ${message.rows} of ${message.of} lines`;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        told = "the browser does not let it be copied";
      }
      copy.says(told);
      clearTimeout(telling);
      telling = setTimeout(() => {
        copy.says("copy");
      }, 2000);
    }, connected());
  };

  const paint = () => {
    painting = 0;
    if (!view.clientHeight) return; // it is out of sight: `tick` sees when it is shown
    if (shown.generation !== lines.generation) {
      cursor = null;
      lookAgain(); // what was asked of other output is not answered
    }
    const gone = shown.update();
    const total = shown.length;
    if ((stands() ?? Infinity) < shown.begin) cursor = { place: shown.begin, number: shown.number(shown.begin), line: -1 };
    const room = view.clientHeight;
    high = room;
    const tall = Math.min(total * ROW, TALLEST);
    most = Math.max(0, total * ROW - room);
    top = following ? most : Math.max(0, Math.min(top - gone * ROW, most));
    space.style.height = `${tall}px`;
    const bars = most ? (top / most) * Math.max(0, tall - room) : 0;
    if (Math.abs(view.scrollTop - bars) > 1) view.scrollTop = bars;
    placed = view.scrollTop;
    const count = Math.ceil(room / ROW) + 1;
    const first = Math.max(0, Math.min(Math.floor(top / ROW), total - 1));
    while (pool.length < count) pool.push(newRow());
    const offset = Math.round(placed - top);
    pool.forEach((line, index) => drawRow(line, index < count ? first + index : total, total, offset));
    tellNothing(total);
    enable();
    root.dataset.rows = shown.known ? total : "";
    keepUp(shown.at(first).place, shown.at(first + count).place + 1);
  };
  // Ask for what is in sight and missing, and while output comes, for what of it passes the filter and is searched for.
  const keepUp = (from, to) => {
    shown.need(from, to);
    const stale = sought !== "" && looked.seen !== lines.seen && !looking;
    const behind = stale || (shown.filtered && !(shown.whole && shown.refreshed === lines.seen));
    if (!behind && !shown.asking) return;
    if (behind && performance.now() - looked.at > SOON) {
      if (shown.filtered) shown.refresh(following ? -1 : from);
      look(0);
    }
    if (!later) later = setTimeout(() => { later = 0; soon(); }, SOON);
  };
  const tellNothing = (total) => {
    nothing.hidden = total > 0;
    if (!shown.known || !shown.whole) nothing.textContent = "Looking for lines …";
    else nothing.textContent = shown.filtered && lines.total ? "No line passes the filter" : "No output yet";
    const count = (number) => number.toLocaleString("en");
    const kept = lines.total - lines.forgotten;
    const told = [];
    if (lines.forgotten) told.push(`The first ${count(lines.forgotten)} lines are no longer kept: there were too many.`);
    if (!connected() && lines.rows.size < kept) {
      const here = `${count(lines.rows.size)} of ${count(kept)} lines are here, and only these are searched, filtered and copied`;
      told.push(`Older output cannot be loaded, for the kernel has ended: ${here}.`);
    }
    notice.textContent = told.join(" ");
    notice.hidden = told.length === 0;
  };
  const newRow = () => {
    const row = element("div", "wb-row");
    const line = { row, at: element("span", "wb-at"), fold: element("span", "wb-fold"), said: element("span", "wb-said") };
    row.append(line.at, line.fold, line.said);
    row.addEventListener("click", () => line.shows && touch(line.shows));
    space.append(row);
    return line;
  };
  const drawRow = (line, index, total, offset) => {
    line.row.hidden = index >= total;
    line.shows = null;
    if (index >= total) return;
    const { place, line: within, text: body } = shown.at(index);
    const row = shown.row(place);
    line.shows = { place, number: shown.number(place), line: within, folded: within < 0 ? row?.folded : 0 };
    const kind = within >= 0 ? "body" : row ? row.kind : "loading";
    line.row.style.transform = `translateY(${index * ROW + offset}px)`;
    line.row.dataset.channel = row?.channel ?? "";
    line.row.dataset.kind = kind;
    line.row.toggleAttribute("data-withdrawn", Boolean(row?.withdrawn) && within < 0);
    line.row.toggleAttribute("data-cursor", isCursor(line.shows));
    line.at.textContent = within >= 0 || !row ? "" : (row.at / 1000).toFixed(3);
    line.fold.textContent = line.shows.folded ? (shown.unfolded(row.number) ? "▾" : "▸") : kind === "more" ? "↳" : "";
    const missing = connected() ? "…" : "this line was not loaded";
    const text = visible(within >= 0 ? body : row ? row.text : missing);
    if (row && sought && lower(text).includes(lower(sought))) line.said.replaceChildren(...marked(text, sought));
    else if (line.said.textContent !== text || line.said.childElementCount) line.said.textContent = text;
  };
  const isCursor = ({ place, number, line }) =>
    cursor !== null && cursor.line === line && (cursor.place === place || (number !== undefined && cursor.number === number));
  const touch = ({ place, number, line, folded }) => {
    cursor = { place, number, line };
    if (folded && connected()) {
      setFollowing(false);
      shown.fold(place, number);
    }
    soon();
  };

  view.addEventListener("keydown", (event) => {
    touched = true;
    const total = shown.length;
    const place = stands();
    const at = place == null ? -1 : shown.index(place) + cursor.line + 1;
    const pages = { PageUp: -1, PageDown: 1 }[event.key];
    const to = { ArrowDown: at + 1, ArrowUp: at < 0 ? total - 1 : at - 1, Home: 0, End: total - 1 }[event.key];
    if (pages) scrollBy(pages * (view.clientHeight - ROW));
    else if (to >= 0 && to < total) {
      const next = shown.at(to);
      choose({ ...next, number: shown.number(next.place) });
    } else if ((event.key === "Enter" || event.key === " ") && place != null) {
      touch({ ...cursor, place, folded: cursor.line < 0 && lines.rows.get(cursor.number)?.folded });
    } else return;
    event.preventDefault();
    if (event.key === "End") setFollowing(true);
  });
  const scrollBy = (pixels) => {
    const to = Math.max(0, Math.min(top + pixels, most));
    if (to === top) return false;
    top = to;
    if (following && top < most - ROW) setFollowing(false);
    soon();
    return true;
  };
  view.addEventListener("scroll", () => {
    if (!view.clientHeight || Math.abs(view.scrollTop - placed) <= 1) return;
    if (following && !touched) return soon(); // it is put back
    const far = view.scrollHeight - view.clientHeight;
    placed = view.scrollTop;
    top = far > 0 ? Math.min(1, placed / far) * most : 0;
    if (following && top < most - ROW) setFollowing(false);
    touched = false;
    soon();
  });
  // Where the scroll bar stands for more than it is long, a turn of the wheel moves lines all the same, and not screens.
  view.addEventListener("wheel", (event) => {
    touched = true;
    if (shown.length * ROW <= TALLEST || event.ctrlKey || Math.abs(event.deltaY) < Math.abs(event.deltaX)) return;
    const unit = [1, ROW, view.clientHeight][event.deltaMode];
    if (scrollBy(event.deltaY * unit)) event.preventDefault();
  }, { passive: false });
  for (const kind of ["pointerdown", "touchmove"]) {
    view.addEventListener(kind, () => { touched = true; }, { passive: true });
  }
  filter.addEventListener("input", refilter);
  search.addEventListener("input", () => {
    sought = search.value;
    look(1, true);
    if (sought) found.textContent = "…";
    soon();
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") look(event.shiftKey ? -1 : 1);
  });
  const resized = new ResizeObserver(soon);
  resized.observe(view);
  painters.add(soon);
  const lost = () => {
    const unanswered = looking !== 0; // what the kernel was asked it does not answer
    if (shown.filtered) refilter();
    if (unanswered) look(wish.by, wish.stay);
    soon();
  };
  root.addEventListener("wb-lost", lost);
  tellFound(null);
  setFollowing(true);
  return {
    node,
    // JupyterLab takes cells out of the page and puts them back, when its theme changes: no event tells of the place lost.
    tick() {
      if (view.clientHeight && (Math.abs(view.scrollTop - placed) > 1 || view.clientHeight !== high)) soon();
    },
    end() {
      cancelAnimationFrame(painting);
      clearTimeout(later);
      lines.forgo(looking);
      resized.disconnect();
      painters.delete(soon);
      root.removeEventListener("wb-lost", lost);
    },
  };
}

// A text in small letters of the same length, so that places in it are places in the text.
function lower(text) {
  const small = text.toLowerCase();
  if (small.length === text.length) return small;
  return text.replace(/[^]/gu, (one) => (one.toLowerCase().length === one.length ? one.toLowerCase() : one));
}

// A text as nodes, with what was found in it marked.
function marked(text, sought) {
  const nodes = [];
  const small = lower(text);
  const wanted = lower(sought);
  let from = 0;
  for (let at = small.indexOf(wanted); at >= 0 && nodes.length < 80; at = small.indexOf(wanted, from)) {
    nodes.push(element("span", "", text.slice(from, at)), element("mark", "", text.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  nodes.push(element("span", "", text.slice(from)));
  return nodes;
}
