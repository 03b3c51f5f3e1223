// Draws a project's files: a tree, and beside it what is chosen: the file, its history, what differs, who wrote it.

const FEW = 5; // paths that are named
const FEW_CHARS = 12; // of an id, which tell it apart
// Names and contents are guest text: textContent only; a page of theirs is shown in an iframe that may do nothing.

const MOST_ROWS = 2000; // of the tree, drawn at once
const MANY = 200; // entries, from which on directories start folded
const VIEWS = [["file", "File"], ["history", "History"], ["changes", "Changes"], ["blame", "Blame"]];

function draw({ model, body, own, needs, root }) {
  const { ask } = own;
  const closed = new Set([".git"]);
  let view = "file";
  let at = 0; // the commit at which the file is shown; 0: now
  let folded = false; // whether a large tree has been folded already

  // -- the frame: a bar, warnings, the tree, and what is chosen
  const bar = element("div", "wb-bar");
  const title = element("span", "wb-grow wb-cut");
  const refresh = needs(button("refresh", "Read the volume again", () => model.send({ type: "refresh" }), "wb-refresh"));
  const input = element("input", "", "", { type: "file", hidden: true, "aria-label": "A file to upload" });
  const upload = needs(button("upload …", "Upload a file into the chosen directory", () => input.click(), "wb-upload"));
  bar.append(title, upload, input, refresh);
  const warnings = element("div", "wb-warnings");
  const asking = element("div", "wb-asking", "", { hidden: true });
  const said = element("div", "wb-notice wb-quiet", "", { role: "status", hidden: true });
  const split = element("div", "wb-split");
  const tree = element("div", "wb-tree", "", { role: "tree", "aria-label": "Files" });
  const side = element("div", "wb-side");
  const head = element("div", "wb-bar wb-quietly");
  const name = element("strong", "wb-name wb-cut");
  const facts = element("span", "wb-facts wb-quiet wb-figure wb-grow");
  const download = needs(button("download", "Download this file", () => fetchFile(), "wb-download"));
  head.append(name, facts, download);
  const tabs = element("div", "wb-views", "", { role: "tablist", "aria-label": "What to show" });
  const pane = element("div", "wb-pane", "", { role: "tabpanel", tabindex: "0" });
  const tabOf = new Map(
    VIEWS.map(([key, text]) => {
      const tab = button(text, text, () => look(key));
      tab.setAttribute("role", "tab");
      tab.dataset.view = key;
      tabs.append(tab);
      return [key, tab];
    }),
  );
  arrows(tabs, () => [...tabs.children].filter((tab) => !tab.disabled), { across: true, chosen: (tab) => look(tab.dataset.view) });
  side.append(head, tabs, pane);
  split.append(tree, side);
  body.append(bar, warnings, asking, said, split);

  const chosen = () => model.get("chosen");
  const entry = () => model.get("entries").find((one) => one.path === chosen());
  const tell = (text) => {
    said.textContent = text;
    said.hidden = !text;
  };
  const failed = (error) => failure(asking, error.message);

  // -- the tree
  const choose = (path) => {
    at = 0;
    tell("");
    if (path === chosen()) return show();
    model.set("chosen", path);
    model.save_changes();
  };
  const fold = (one, close) => {
    if (close) closed.add(one.path);
    else closed.delete(one.path);
    drawTree();
    [...tree.children].find((row) => row.dataset.path === one.path)?.focus();
  };
  const row = (one, depth) => {
    const parts = one.path.split("/");
    const directory = one.kind === "directory";
    const node = element("button", "wb-entry", "", {
      type: "button", role: "treeitem", "aria-level": String(depth), "aria-selected": String(one.path === chosen()),
      "aria-expanded": directory && one.path ? String(!closed.has(one.path)) : null, tabindex: one.path === chosen() ? "0" : "-1",
      title: visible(one.path) || null,
    });
    node.dataset.path = one.path;
    node.style.paddingLeft = `${8 + 14 * (depth - 1)}px`;
    const mark = directory && one.path ? (closed.has(one.path) ? "▸" : "▾") : "";
    node.append(
      element("span", "wb-mark", mark, { "aria-hidden": "true" }),
      element("span", "wb-file wb-cut", one.path ? visible(parts[parts.length - 1]) : "whole project"),
      element("span", "wb-size wb-figure wb-quiet", one.kind === "file" ? sized(one.size) : one.kind === "link" ? "link" : ""),
      element("span", "wb-time wb-figure wb-quiet", one.mtime ? moment(one.mtime).slice(0, 16) : ""),
    );
    node.addEventListener("click", () => {
      if (directory && one.path && (one.path === chosen() || closed.has(one.path))) fold(one, !closed.has(one.path));
      choose(one.path);
    });
    node.addEventListener("keydown", (event) => {
      if (!directory || !one.path || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      event.preventDefault();
      fold(one, event.key === "ArrowLeft");
    });
    return node;
  };
  const drawTree = () => {
    const condition = model.get("condition");
    if (condition !== "ready") {
      const text = condition === "error" ? model.get("why") : "reading the volume …";
      tree.replaceChildren(placeholder(condition, text));
      return;
    }
    const entries = model.get("entries");
    if (!folded && entries.length > MANY) for (const one of entries) if (one.kind === "directory") closed.add(one.path);
    folded = true;
    const rows = [row({ path: "", kind: "directory", size: 0, mtime: 0 }, 1)];
    let hidden = null;
    let left = 0;
    for (const one of entries) {
      if (hidden !== null && one.path.startsWith(hidden)) continue;
      hidden = one.kind === "directory" && closed.has(one.path) ? `${one.path}/` : null;
      if (rows.length < MOST_ROWS) rows.push(row(one, one.path.split("/").length + 1));
      else left += 1;
    }
    if (entries.length === 0) rows.push(placeholder("empty", "nothing is committed yet"));
    if (left) rows.push(element("div", "wb-note wb-quiet", `… and ${left} more: fold directories to see them`));
    const focused = tree.contains(document.activeElement);
    tree.replaceChildren(...rows);
    const reached = rows.find((one) => one.getAttribute("tabindex") === "0") ?? rows[0];
    reached.tabIndex = 0;
    if (focused) reached.focus();
  };
  arrows(tree, () => [...tree.querySelectorAll(".wb-entry")]);

  // -- what is not committed
  const drawWarnings = () => {
    const cut = model.get("cut");
    warnings.replaceChildren(
      ...(cut ? [element("div", "wb-banner", cut, { role: "status", "data-kind": "warn" })] : []),
      ...model.get("mounts").map((mount) => {
        const box = element("div", "wb-banner wb-uncommitted", "", { role: "status", "data-kind": "warn" });
        const text = `not committed: ${visible(mount.holder)} holds ${mount.files} file${mount.files === 1 ? "" : "s"}, `
          + `${sized(mount.size)}. Nobody else can see them, and they are lost with it.`;
        const compare = needs(button("what differs", `Compare with ${mount.holder}`, () => differ({ base: 0, head: 0, holder: mount.holder, path: "" })));
        box.append(element("span", "wb-grow", text), compare);
        return box;
      }),
    );
  };

  // -- the views
  const look = (key) => {
    view = key;
    show();
  };
  const show = () => {
    const one = entry();
    const isFile = one?.kind === "file";
    const none = model.get("no_history");
    tabOf.get("blame").disabled = !isFile;
    if (view === "blame" && !isFile) view = "file";
    for (const [key, tab] of tabOf) {
      mark(tab, key === view);
      tab.tabIndex = key === view ? 0 : -1;
    }
    name.textContent = chosen() ? visible(chosen()) : "whole project";
    name.title = name.textContent;
    facts.textContent = at ? `at commit ${at}` : one?.kind === "file" ? `${sized(one.size)}, ${moment(one.mtime)} UTC` : "";
    download.hidden = !isFile && !at;
    if (view === "file") showFile(one);
    else if (none) pane.replaceChildren(placeholder("empty", none));
    else if (view === "history") showHistory();
    else if (view === "changes") differ({ base: 0, head: 0 });
    else answered(pane, ask("blame", { path: chosen() }), drawBlame);
  };
  const showFile = (one) => {
    if (at || one?.kind === "file") answered(pane, ask("preview", { path: chosen(), commit: at }), previewed);
    else if (one?.kind === "link") pane.replaceChildren(placeholder("empty", "a link: it is not followed"));
    else if (chosen() && !one && model.get("condition") === "ready") pane.replaceChildren(placeholder("empty", "there is no such file now"));
    else pane.replaceChildren(placeholder("empty", "Choose a file to see it, or look at the history of what is chosen."));
  };
  const showHistory = () => answered(pane, ask("history", { path: chosen() }), ({ commits, more }) => {
    if (!commits.length) return placeholder("empty", "nothing was committed here");
    const bases = [["0", "nothing"], ...commits.map((one) => [String(one.number), `commit ${one.number}`])];
    const heads = [["0", "what is there now"], ...commits.map((one) => [String(one.number), `commit ${one.number}`]),
      ...model.get("mounts").map((mount) => [mount.holder, `working copy of ${mount.holder}`])];
    const pick = (label, options, value) => {
      const select = element("select", "wb-field", "", { "aria-label": label });
      select.append(...options.map(([key, text]) => element("option", "", visible(text), { value: key, selected: key === value })));
      return select;
    };
    const from = pick("From", bases, String(commits[Math.min(1, commits.length - 1)].number));
    const to = pick("To", heads, "0");
    const line = element("div", "wb-row wb-compare");
    const compare = needs(button("compare", "Compare the two states", () => {
      const holder = /^\d+$/.test(to.value) ? "" : to.value;
      differ({ base: Number(from.value), head: holder ? 0 : Number(to.value), holder });
    }));
    line.append(element("span", "wb-quiet", "from"), from, element("span", "wb-quiet", "to"), to, compare);
    const isFile = entry()?.kind !== "directory" && chosen() !== "";
    const rows = commits.map((one) => {
      const acts = element("span", "wb-acts");
      if (isFile) acts.append(needs(button("view", `View at commit ${one.number}`, () => ((at = one.number), look("file")))));
      acts.append(
        needs(button("changes", `What commit ${one.number} changed`, () => differ({ base: one.number - 1, head: one.number }))),
        needs(button("restore …", `Restore commit ${one.number}`, () => restore(one.number), "wb-restore")),
      );
      const paths = one.changes.map(([path, removed]) => `${removed ? "−" : "+"} ${visible(path)}`).join("\n");
      const count = element("span", "", `${one.count} path${one.count === 1 ? "" : "s"}`, { title: paths });
      const by = one.run_id ? `run …${one.run_id.slice(-FEW_CHARS)}` : one.author;
      const who = model.get("can_open_runs") && one.run_id
        ? needs(button(by, `Open run ${one.run_id}`, () => model.send({ type: "run", run_id: one.run_id }), "wb-by-run"))
        : element("span", "", visible(by));
      const author = element("span", "wb-author", "", { title: visible(one.author) });
      author.append(who);
      return [String(one.number), moment(one.at), author, count, acts];
    });
    const grid = table(["commit", "when (UTC)", "who", "changed", ""], rows, "Commits");
    return [line, grid, ...(more ? [element("div", "wb-note wb-quiet", "… and older ones")] : [])];
  });
  const drawBlame = ({ lines, note }) => {
    const grid = element("table", "wb-blame wb-code", "", { "aria-label": "Who wrote each line" });
    let before = null;
    lines.forEach(([commit, when, author, text], index) => {
      const line = element("tr", commit === before ? "" : "wb-begins");
      const who = element("td", "wb-quiet", commit === before ? "" : `${commit} · ${moment(when).slice(0, 16)}`, { title: visible(author) });
      line.append(who, element("td", "wb-quiet wb-number", String(index + 1)), element("td", "wb-line", visible(text)));
      grid.append(line);
      before = commit;
    });
    return [...(note ? [element("div", "wb-note wb-quiet", note)] : []), lines.length ? grid : placeholder("empty", "the file is empty")];
  };
  const differ = (what) => {
    view = "changes";
    for (const [key, tab] of tabOf) {
      mark(tab, key === view);
    }
    const to = what.holder ? visible(what.holder) : what.head ? `commit ${what.head}` : "what is there now";
    const caption = `${(what.path ?? chosen()) ? visible(chosen()) : "whole project"}: ${what.base ? `commit ${what.base}` : what.holder ? "what is committed" : "nothing"} → ${to}`;
    answered(pane, ask("diff", { path: chosen(), ...what }), ({ changes, more }) => {
      const note = element("div", "wb-note wb-quiet", caption);
      if (!changes.length) return [note, placeholder("empty", "nothing differs")];
      const box = element("div", "wb-changes");
      for (const [path, word, before, after] of changes) {
        const one = element("details", "wb-change", "", { open: changes.length === 1 });
        const sizes = [before, after].map((size) => (size == null ? "–" : sized(size))).join(" → ");
        const kind = { added: "good", removed: "bad", modified: "busy" }[word] ?? "warn";
        const line = element("summary");
        line.append(badge(word, kind), element("span", "wb-code", visible(path)), element("span", "wb-quiet wb-figure", before == null && after == null ? "" : sizes));
        const inside = element("div", "wb-inside");
        const fill = () => {
          if (!one.open || inside.childElementCount) return;
          const base = what.base || (what.holder ? 0 : -1);
          const text = base < 0 ? ask("preview", { path, commit: what.head }) : ask("text_diff", { path, base, head: what.head, holder: what.holder });
          answered(inside, text, (answer) => (base < 0 ? previewed(answer) : diffed(answer)));
        };
        one.addEventListener("toggle", fill);
        one.append(line, inside);
        fill();
        box.append(one);
      }
      return [note, box, ...(more ? [element("div", "wb-note wb-quiet", "… and more")] : [])];
    }, "comparing …");
  };
  const diffed = ({ lines, note }) => {
    const text = lines.some((line) => line.length);
    return [...(note ? [element("div", "wb-note wb-quiet", note)] : []), text ? content(lines, "wb-content wb-diff") : placeholder("empty", "the same text")];
  };

  // -- what changes something
  const named = (paths) => `${paths.slice(0, FEW).map(visible).join(", ")}${paths.length > FEW ? ", …" : ""}`;
  const restore = (commit) => {
    const path = chosen();
    const what = path ? visible(path) : "the whole project";
    tell("looking at what that would change …");
    ask("would_restore", { path, commit }).then(({ removed, modified, added }) => {
      tell("");
      const parts = [["removes", removed], ["changes", modified], ["brings back", added]].filter(([, paths]) => paths.length);
      if (!parts.length) return tell(`${what} is as it was at commit ${commit}`);
      const does = parts.map(([word, paths]) => `${word} ${paths.length} (${named(paths)})`).join(", ");
      confirmation(asking, `Bring ${what} back to commit ${commit}? That ${does}. It is a new commit; what is there now stays in the history.`, "restore", () => {
        tell("restoring …");
        ask("restore", { path, commit }).then((answer) => (tell(answer.said), show()), (error) => (tell(""), failed(error)));
      });
    }, (error) => (tell(""), failed(error)));
  };
  const fetchFile = () => {
    tell("downloading …");
    ask("download", { path: chosen(), commit: at }).then((answer) => (tell(""), saved(answer.name, answer.buffers[0])), (error) => (tell(""), failed(error)));
  };
  input.addEventListener("change", async () => {
    const file = input.files[0];
    input.value = "";
    if (!file) return;
    if (file.size > model.get("max_upload")) {
      failed(new Error(`${file.name} has ${sized(file.size)}, and ${sized(model.get("max_upload"))} can be uploaded here: use \`modal volume put\``));
      return;
    }
    const one = entry();
    const directory = one?.kind === "directory" ? one.path : chosen().split("/").slice(0, -1).join("/");
    const path = directory ? `${directory}/${file.name}` : file.name;
    const data = new Uint8Array(await file.arrayBuffer());
    const send = (replace) => {
      tell(`uploading ${path} …`);
      ask("upload", { path, replace }, [data]).then((answer) => {
        tell(answer.said ?? "");
        if (answer.exists) confirmation(asking, `There is a ${answer.exists} ${visible(path)} already. Replace it?`, "replace", () => send(true));
      }, (error) => (tell(""), failed(error)));
    };
    send(false);
  });

  const draws = {
    title: () => (title.textContent = `Files of project ${model.get("title").split("/")[1]}`) && (title.title = model.get("title")),
    "condition change:why": () => (drawTree(), model.get("condition") === "ready" && view === "file" && show()),
    entries: () => unpressed(split, () => (drawTree(), model.get("condition") === "ready" && show())),
    mounts: drawWarnings,
    chosen: () => (drawTree(), show()),
  };
  const listened = Object.entries(draws).map(([names, act]) => [`change:${names}`, act]);
  for (const [names, act] of listened) model.on(names, act);
  draws.title();
  drawWarnings();
  drawTree();
  show();
  return () => {
    for (const [names, act] of listened) model.off(names, act);
  };
}

export default widget("volume", { start: asker, draw });
