// Draws the runs that have ended: a table that is narrowed and sorted here, and below it what is opened or compared.

const COLUMNS = [ // name, index in the cells, number to sort by
  ["accepted (UTC)", 0, "at_ms"], ["outcome", 3, null], ["action", 1, null], ["run", null, null], ["project", 2, null],
  ["took", 4, "took_ms"], ["sandbox", 5, null], ["estimated", 6, "usd"],
];
const FEW = 12; // characters of an id that tell it apart in a table

const cellOf = (row, column) => (column[1] === null ? row.run_id : row.cells[column[1]]);
const kindOf = (outcome) => (outcome === "running" ? "busy" : outcome === "done" ? "good" : outcome === "cancelled" ? "warn" : "bad");

function draw({ model, body, own, host, needs }) {
  const { ask } = own;
  const proofs = new Map(); // run id: the checks, as far as they were asked for here
  const picked = new Set();
  const unfolded = new Set();
  let sort = { column: COLUMNS[0], down: true };

  const bar = element("div", "wb-bar");
  const title = element("span", "wb-cut wb-quiet wb-which");
  const text = element("input", "wb-field wb-grow wb-narrow", "", { type: "search", placeholder: "filter: name, id, action, project, outcome, reason", "aria-label": "Filter by text" });
  const outcome = element("select", "wb-field", "", { "aria-label": "Filter by outcome" });
  const action = element("select", "wb-field", "", { "aria-label": "Filter by action" });
  const compare = needs(button("compare", "Compare the two chosen runs", () => both(), "wb-compare"));
  const refresh = needs(button("refresh", "Look for new runs", () => model.send({ type: "refresh" }), "wb-refresh"));
  bar.append(text, together(outcome, action), together(compare, refresh));
  const view = element("div", "wb-bar wb-quietly", "", { role: "toolbar", "aria-label": "How runs are shown" });
  const group = element("select", "wb-field wb-by", "", { "aria-label": "Group by" });
  group.append(...["", ...Object.keys(GROUPS)].map((by) => element("option", "", by ? `by ${by}` : "not grouped", { value: by })));
  const times = button("times", "How long the runs took, and how they ended", () => (mark(times, times.getAttribute("aria-pressed") !== "true"), drawTable()), "wb-times");
  mark(times, false);
  const filters = element("select", "wb-field wb-saved", "", { "aria-label": "A saved filter" });
  const keep = needs(button("save filter", "Save this filter under a name", () => naming(), "wb-keep-filter"));
  const forget = needs(button("forget", "Forget the saved filter", () => ask("forget filter", { name: filters.value }).then(() => tell(""), failed), "wb-forget-filter"));
  view.append(together(group, times), element("span", "wb-grow"), together(filters, keep, forget));
  const chart = element("div", "wb-chart", "", { hidden: true });
  const asking = element("div", "wb-asking", "", { hidden: true });
  const said = element("div", "wb-notice wb-quiet", "", { role: "status", hidden: true });
  const scroll = element("div", "wb-scroll", "", { tabindex: "-1" });
  const foot = element("div", "wb-bar wb-quietly wb-foot");
  const count = element("span", "wb-quiet wb-grow", "", { role: "status" });
  const more = needs(button("show older runs", "Read more runs", () => model.send({ type: "more" }), "wb-more"));
  foot.append(title, count, more);
  const below = element("div", "wb-below", "", { hidden: true });
  const opened = element("div", "wb-opened", "", { hidden: true });
  body.append(bar, view, asking, said, chart, scroll, foot, below, opened);

  const tell = (words) => {
    said.textContent = words;
    said.hidden = !words;
  };
  const failed = (error) => {
    tell("");
    failure(asking, error.message);
  };
  const closing = (box, label, act) => {
    const line = element("div", "wb-bar");
    line.append(element("strong", "wb-grow wb-cut", label), button("close", `Close ${label}`, act, "wb-close"));
    box.prepend(line);
  };

  // -- the table
  const options = (select, all, values) => {
    const value = select.value;
    const known = [["", all], ...[...values].sort().map((one) => [one, one])];
    select.replaceChildren(...known.map(([key, words]) => element("option", "", visible(words), { value: key })));
    select.value = known.some(([key]) => key === value) ? value : "";
  };
  const kept = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    return model.get("rows").filter((row) => {
      const whole = [row.run_id, ...row.cells, row.reason, row.name, row.note, row.project].join(" ").toLowerCase();
      const ended = outcome.value === "" || row.cells[3] === outcome.value || (outcome.value === "error" && row.cells[3] !== "done");
      return ended && (action.value === "" || row.cells[1] === action.value) && words.every((word) => whole.includes(word));
    });
  };
  const sorted = (rows) => {
    const { column, down } = sort;
    const key = (row) => (column[2] ? row[column[2]] : cellOf(row, column));
    const order = (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0);
    return [...rows].sort((a, b) => (down ? order(b, a) : order(a, b)));
  };
  const heading = (column) => {
    const head = element("th", "", "", { scope: "col", "aria-sort": column === sort.column ? (sort.down ? "descending" : "ascending") : "none" });
    const way = column === sort.column ? (sort.down ? " ▾" : " ▴") : "";
    const press = element("button", "wb-sort", column[0] + way, { type: "button", "aria-label": `Sort by ${column[0]}` });
    press.addEventListener("click", () => {
      sort = { column, down: column === sort.column ? !sort.down : column[2] !== null };
      drawTable();
      scroll.querySelector(`[aria-label="Sort by ${column[0]}"]`)?.focus();
    });
    head.append(press);
    return head;
  };
  const proof = (row) => {
    const known = proofs.get(row.run_id);
    const box = element("span", "wb-proof");
    const check = needs(button(known ? "again" : "verify", `Verify run ${row.run_id}`, () => {
      box.replaceChildren(element("span", "wb-quiet", "checking …"));
      ask("verify", { run_id: row.run_id }).then(({ checks }) => {
        proofs.set(row.run_id, checks);
        drawTable();
      }, (error) => {
        box.replaceChildren(check);
        failed(error);
      });
    }));
    if (!known) {
      box.append(check);
      return box;
    }
    const bad = known.filter((one) => !one.ok);
    const list = known.map((one) => `${one.ok ? "✓" : "✗"} ${one.name}: ${one.detail}`).join("\n");
    const told = badge(bad.length ? `✗ ${bad[0].name}${bad.length > 1 ? ` +${bad.length - 1}` : ""}` : "✓ proved", bad.length ? "bad" : "good");
    box.append(spoken(told, visible(list)));
    return box;
  };
  const line = (row) => {
    const node = element("tr", row.run_id === model.get("shown") ? "wb-shown" : "");
    node.dataset.run = row.run_id;
    const pick = element("input", "wb-pick", "", { type: "checkbox", "aria-label": `Choose run ${row.run_id}` });
    pick.checked = picked.has(row.run_id);
    pick.disabled = row.live; // it cannot be compared yet
    pick.addEventListener("change", () => {
      if (pick.checked) picked.add(row.run_id);
      else picked.delete(row.run_id);
      while (picked.size > 2) picked.delete(picked.values().next().value);
      drawTable();
      scroll.querySelector(`tr[data-run="${row.run_id}"] .wb-pick`)?.focus();
    });
    const first = element("td");
    first.append(pick);
    node.append(first);
    for (const column of COLUMNS) {
      const value = visible(cellOf(row, column));
      const cell = element("td", column[2] ? "wb-figure" : "", "", { title: value });
      if (column[0] === "run" || column[0] === "project") {
        const name = visible(column[0] === "run" ? row.name : row.project);
        cell.className = name ? "wb-id" : "wb-code wb-id";
        cell.textContent = name || (value.length > FEW ? `…${value.slice(-FEW)}` : value);
        const note = column[0] === "run" ? visible(row.note) : "";
        if (note) cell.append(element("span", "wb-why", note, { title: note }));
      } else if (column[0] === "outcome") {
        cell.append(badge(value, kindOf(value)));
        if (row.reason) cell.append(element("span", "wb-why", visible(row.reason), { title: visible(row.reason) }));
      }
      else cell.textContent = value;
      node.append(cell);
    }
    const last = element("td", "wb-last");
    const acts = element("span", "wb-acts");
    if (row.problem) acts.append(element("span", "wb-problem", row.problem));
    if (row.live) acts.append(needs(button("watch", `Watch run ${row.run_id}`, () => open(row.run_id))));
    else acts.append(proof(row));
    if (!row.problem) {
      if (!row.live) acts.append(needs(button("open", `Open run ${row.run_id}`, () => open(row.run_id))), rest(row));
      node.addEventListener("click", (event) => {
        if (!event.target.closest("button, input") && !getSelection().toString()) open(row.run_id);
      });
    }
    last.append(acts);
    node.append(last);
    return node;
  };
  // What is done with a run more seldom, behind one button, so that a narrow table has room for all of it.
  const rest = (row) => {
    const box = element("span", "wb-rest");
    const acts = element("span", "wb-acts", "", { hidden: !unfolded.has(row.run_id) });
    const said = (type) => () => model.send({ type, run_id: row.run_id });
    acts.append(
      needs(button("name", `Name run ${row.run_id}, and note something about it`, () => labelling(row))),
      needs(earlier(row) ? button("compare", `Compare run ${row.run_id} with the one before it of its project`, () => compareTwo(earlier(row).run_id, row.run_id)) : element("span")),
      needs(button("files", `Files that run ${row.run_id} changed`, () => changedBy(row.run_id))),
      ...(model.get("can_ask") ? [
        needs(button("run again", `Run ${row.run_id} again`, said("again"))),
        needs(button("edit and run", `Edit and run ${row.run_id} again`, said("edit"))),
      ] : []),
      ...(model.get("can_replay") ? [needs(button("replay", `Replay run ${row.run_id}`, said("replay")))] : []),
      needs(button("export", `Export run ${row.run_id} as a recording`, () => save(row.run_id))),
    );
    const fold = button("⋯", `More to do with run ${row.run_id}`, () => {
      unfolded.has(row.run_id) ? unfolded.delete(row.run_id) : unfolded.add(row.run_id);
      acts.hidden = !unfolded.has(row.run_id);
      fold.setAttribute("aria-expanded", String(!acts.hidden));
    });
    fold.setAttribute("aria-expanded", String(!acts.hidden));
    box.append(acts, fold);
    return box;
  };
  const drawTable = () => {
    const condition = model.get("condition");
    const rows = model.get("rows");
    compare.says(picked.size ? `compare ${picked.size} of 2` : "compare");
    compare.disabled = picked.size !== 2 || !model.get("rows").length;
    more.hidden = model.get("complete");
    if (condition !== "ready" && !rows.length) {
      scroll.replaceChildren(placeholder(condition, condition === "error" ? model.get("why") : "reading the archives …"));
      count.textContent = "";
      return;
    }
    if (condition === "error") failed(new Error(model.get("why")));
    const found = kept();
    chart.hidden = times.getAttribute("aria-pressed") !== "true";
    if (!chart.hidden) chart.replaceChildren(histogram(found));
    count.textContent = found.length === rows.length ? `${rows.length} run${rows.length === 1 ? "" : "s"}` : `${found.length} of ${rows.length} runs`;
    if (!rows.length) return scroll.replaceChildren(placeholder("empty", "No run has ended here yet: launch one, and look again."));
    if (!found.length) return scroll.replaceChildren(placeholder("empty", "No run is like that."));
    const grid = element("table", "wb-table", "", { "aria-label": "Runs" });
    const head = element("thead");
    const names = element("tr");
    const [first, last] = [element("th", "", "", { scope: "col" }), element("th", "wb-last", "", { scope: "col" })];
    first.append(unseen("Choose"));
    last.append(unseen("Proof and actions"));
    names.append(first, ...COLUMNS.map(heading), last);
    head.append(names);
    grid.append(head);
    for (const [name, rows] of grouped(sorted(found), group.value)) {
      const lines = element("tbody");
      if (name) lines.append(groupLine(name, rows));
      lines.append(...rows.map(line));
      grid.append(lines);
    }
    const at = scroll.scrollTop;
    scroll.replaceChildren(grid);
    scroll.scrollTop = at;
  };
  const groupLine = (name, rows) => {
    const line = element("tr", "wb-group");
    const cell = element("th", "", "", { scope: "rowgroup", colspan: COLUMNS.length + 2 });
    cell.append(element("span", "", visible(name)), element("span", "wb-quiet", summary(rows)));
    line.append(cell);
    return line;
  };
  const drawFilters = () => {
    const saved = Object.keys(model.get("filters"));
    const now = filters.value;
    filters.replaceChildren(element("option", "", "saved filters …", { value: "" }), ...saved.map((name) => element("option", "", visible(name), { value: name })));
    filters.value = saved.includes(now) ? now : "";
    filters.hidden = !saved.length;
    forget.hidden = !filters.value;
  };
  const apply = () => {
    const wanted = model.get("filters")[filters.value];
    forget.hidden = !wanted;
    if (!wanted) return;
    text.value = wanted.text;
    for (const [select, value] of [[outcome, wanted.outcome], [action, wanted.action], [group, wanted.group]]) {
      if (value && ![...select.options].some((one) => one.value === value)) select.append(element("option", "", visible(value), { value }));
      select.value = value;
    }
    drawTable();
  };
  // Asks for words, in place of what is below the table.
  const form = (label, fields, act) => {
    below.hidden = false;
    const box = element("form", "wb-label wb-pad");
    const inputs = fields.map(([name, value, most]) => {
      const input = element(name === "note" ? "textarea" : "input", "wb-field", "", { "aria-label": name, placeholder: name, maxlength: most });
      input.value = value;
      return input;
    });
    const save = needs(button("save", `Save: ${label}`, () => box.requestSubmit(), "wb-main"));
    box.append(...inputs, save);
    box.addEventListener("submit", (event) => {
      event.preventDefault();
      act(...inputs.map((input) => input.value)).then(closeBelow, failed);
    });
    below.replaceChildren(box);
    closing(below, label, closeBelow);
    inputs[0].focus();
  };
  const naming = () => form("Save this filter", [["name", filters.value, 60]], (name) => {
    const values = { text: text.value, outcome: outcome.value, action: action.value, group: group.value };
    return ask("save filter", { name, values }).then(() => (drawFilters(), (filters.value = name.trim()), apply()));
  });
  const labelling = (row) => form(`Run …${row.run_id.slice(-FEW)}`, [["name", row.name, 60], ["note", row.note, 2000]],
    (name, note) => ask("label", { run_id: row.run_id, name, note }));
  const drawOptions = () => {
    const rows = model.get("rows");
    options(outcome, "any outcome", new Set([...rows.map((row) => row.cells[3]), "error"]));
    options(action, "any action", new Set(rows.map((row) => row.cells[1]).filter(Boolean)));
  };

  // -- what is done with runs
  const closeBelow = () => {
    below.hidden = true;
    below.replaceChildren();
  };
  const open = (run) => {
    if (run) closeBelow();
    tell(run ? `opening ${run} …` : "");
    model.send({ type: "show", run_id: run });
  };
  const save = (run) => {
    tell("exporting …");
    ask("export", { run_id: run }).then((answer) => (tell(`exported ${answer.name}`), saved(answer.name, answer.buffers[0])), failed);
  };
  const both = () => {
    const [left, right] = model.get("rows").map((row) => row.run_id).filter((run) => picked.has(run)).reverse(); // the older one first
    compareTwo(left, right);
  };
  // The last run before this one that did the same kind of thing in the same project; none where there is none.
  const earlier = (row) => {
    const rows = model.get("rows");
    return rows.slice(rows.indexOf(row) + 1).find((one) => !one.live && !one.problem && one.cells[1] === row.cells[1] && one.cells[2] === row.cells[2]);
  };
  const compareTwo = (left, right) => {
    below.hidden = false;
    const inside = element("div");
    below.replaceChildren(inside);
    closing(below, "Comparison", closeBelow);
    answered(inside, ask("compare", { left, right }), (answer) => compared(left, right, answer), "comparing …");
  };
  const changedBy = (run) => {
    below.hidden = false;
    const inside = element("div");
    below.replaceChildren(inside);
    closing(below, `Files that run …${run.slice(-FEW)} changed`, closeBelow);
    answered(inside, ask("files", { run_id: run }), ({ files, more }) => {
      if (!files.length) return placeholder("empty", "it changed no file that is kept");
      const grid = element("table", "wb-table", "", { "aria-label": "Changed files" });
      for (const [path, what, size, commit] of files) {
        const line = element("tr");
        const kind = { added: "good", removed: "bad", modified: "busy" }[what] ?? "warn";
        const cells = [badge(what, kind), element("span", "wb-code", visible(path)), what === "removed" ? "" : sized(size), `commit ${commit}`];
        line.append(...cells.map((one) => { const cell = element("td"); cell.append(one); return cell; }));
        grid.append(line);
      }
      const notes = more > 0 ? [element("div", "wb-notice wb-quiet", `… and ${more} more`)] : [];
      const browse = model.get("can_browse") ? [needs(button("show the project's files", "Show the project in Files", () => model.send({ type: "browse", run_id: run }), "wb-browse"))] : [];
      return [...browse, grid, ...notes];
    }, "looking for its commits …");
  };
  const sideBySide = (name, heads, rows, cells, empty) => {
    const box = element("details", "wb-part", "", { open: true });
    const differ = rows.filter((row) => row.verdict !== "same").length;
    const line = element("summary");
    line.append(element("strong", "", name), badge(differ ? `${differ} differ` : "the same", differ ? "warn" : "good"));
    const grid = element("table", "wb-table wb-sides", "", { "aria-label": name });
    const head = element("tr");
    head.append(...heads.map((words) => element("th", "", words, { scope: "col" })));
    head.firstChild.append(...(heads[0] ? [] : [unseen("what")]));
    grid.append(head);
    for (const row of rows) {
      const tr = element("tr", "", "", { "data-verdict": row.verdict });
      tr.append(...cells(row));
      grid.append(tr);
    }
    box.append(line, rows.length ? grid : placeholder("empty", empty));
    return box;
  };
  const compared = (left, right, { parts, files_problem }) => {
    const heads = [`…${left.slice(-FEW)}`, `…${right.slice(-FEW)}`];
    const td = (words, name = "") => element("td", name, visible(words));
    const most = Math.max(1, ...parts.timeline.flatMap((row) => [row.left, row.right].map((one) => parseInt(one, 10) || 0)));
    const bar = (words) => {
      const cell = element("td", "wb-figure wb-length");
      if (!words) return cell;
      const stripe = element("span", "wb-stripe", "", { "aria-hidden": "true" });
      stripe.style.width = `${Math.max(0.5, (100 * Math.max(0, parseInt(words, 10) || 0)) / most)}%`;
      cell.append(element("span", "wb-lasted", words), stripe);
      return cell;
    };
    const event = (row) => {
      if (!row.left && !row.right) return [element("td", "wb-quiet wb-left-out", `⋯ ${row.name}`, { colspan: "3" })];
      return [td(row.name, "wb-quiet"), td(row.left, "wb-code"), td(row.right, "wb-code")];
    };
    const three = (row) => [td(row.name, "wb-quiet"), td(row.left), td(row.right)];
    const found = [
      sideBySide("facts", ["", ...heads], parts.facts, three, "nothing is known"),
      sideBySide("timeline", ["", ...heads], parts.timeline, (row) => [td(row.name.replace("· ", "  "), "wb-quiet wb-step"), bar(row.left), bar(row.right)], "no times are known"),
      sideBySide("events", ["", ...heads], parts.events, event, "there are no events"),
    ];
    if (files_problem) found.push(placeholder("empty", files_problem));
    else found.push(sideBySide("files", ["", ...heads], parts.files, (row) => [td(row.name, "wb-code"), td(row.left), td(row.right)], "neither run wrote a file"));
    found[0].open = false;
    for (const part of found.slice(0, 2)) part.querySelector("summary .wb-badge")?.remove(); // ids and times always differ
    return found;
  };

  const unembed = embed({ model, host, trait: "view", box: opened, empty: () => element("span") });
  const drawOpened = () => {
    opened.hidden = !model.get("view");
    tell("");
    drawTable();
  };
  const closeRun = button("close the run", "Close the open run", () => open(""), "wb-close-run");
  foot.append(closeRun);
  const drawClose = () => (closeRun.hidden = !model.get("view"));
  const drawAll = () => {
    title.textContent = model.get("title");
    drawOptions();
    drawFilters();
    drawTable();
  };
  filters.addEventListener("input", apply);
  for (const input of [text, outcome, action, group]) input.addEventListener("input", drawTable);
  const listened = [["change:rows change:filters change:condition change:why change:complete change:title", () => unpressed(scroll, drawAll)], ["change:view change:shown", () => (drawOpened(), drawClose())], ["change:problem", () => tell("")]];
  for (const [names, act] of listened) model.on(names, act);
  drawAll();
  opened.hidden = !model.get("view");
  drawClose();
  return () => {
    for (const [names, act] of listened) model.off(names, act);
    unembed();
  };
}

export default widget("runs", { start: asker, draw });
