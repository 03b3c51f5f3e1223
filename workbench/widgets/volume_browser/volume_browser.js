// Draws a project's files as a tree and a preview beside it. Names and contents are guest text: textContent only.

function element(tag, name, text = "") {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  return node;
}

function sized(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} KiB`;
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

function render({ model, el }) {
  const root = element("div", "wb-volume");
  root.setAttribute("role", "region");
  root.setAttribute("aria-label", "Volume");
  const head = element("div", "wb-head");
  const title = element("span", "wb-text");
  const refresh = element("button", "wb-refresh", "refresh");
  refresh.setAttribute("aria-label", "Read the volume again");
  head.append(title, refresh);
  const body = element("div", "wb-body");
  const tree = element("div", "wb-tree");
  tree.setAttribute("role", "tree");
  const side = element("div", "wb-side");
  const name = element("div", "wb-name");
  const note = element("div", "wb-note");
  const content = element("pre", "wb-content");
  content.tabIndex = 0;
  side.append(name, note, content);
  body.append(tree, side);
  root.append(head, body);
  el.append(root);

  const closed = new Set([".git"]);
  let chosen = "";

  const choose = (entry) => {
    if (entry.kind === "directory") {
      closed.has(entry.path) ? closed.delete(entry.path) : closed.add(entry.path);
      draw();
      return;
    }
    chosen = entry.path;
    name.textContent = entry.path;
    note.textContent = "reading …";
    content.textContent = "";
    model.send({ type: "preview", path: entry.path });
    draw();
  };

  const draw = () => {
    title.textContent = model.get("problem") || `committed files of ${model.get("title")}`;
    const rows = [];
    for (const entry of model.get("entries")) {
      const parts = entry.path.split("/");
      const hidden = parts.slice(0, -1).some((_, index) => closed.has(parts.slice(0, index + 1).join("/")));
      if (hidden) continue;
      const row = element("button", "wb-entry");
      row.setAttribute("role", "treeitem");
      row.setAttribute("aria-level", String(parts.length));
      row.setAttribute("aria-selected", String(entry.path === chosen));
      row.style.paddingLeft = `${8 + 16 * (parts.length - 1)}px`;
      const directory = entry.kind === "directory";
      if (directory) row.setAttribute("aria-expanded", String(!closed.has(entry.path)));
      const mark = directory ? (closed.has(entry.path) ? "▸ " : "▾ ") : "";
      row.append(element("span", "wb-file", mark + parts[parts.length - 1]));
      row.append(element("span", "wb-size", directory ? "" : entry.kind === "file" ? sized(entry.size) : entry.kind));
      row.addEventListener("click", () => choose(entry));
      rows.push(row);
    }
    if (rows.length === 0) rows.push(element("div", "wb-note", "nothing is committed"));
    tree.replaceChildren(...rows);
  };

  const onMessage = (message) => {
    if (message.type !== "preview" || message.path !== chosen) return;
    note.textContent = message.note;
    content.textContent = message.text;
  };
  refresh.addEventListener("click", () => model.send({ type: "refresh" }));
  model.on("msg:custom", onMessage);
  model.on("change", draw);
  draw();
  return () => {
    model.off("msg:custom", onMessage);
    model.off("change", draw);
  };
}

export default { render };
