// Draws what a file looks like: text in tokens, JSON folded, an image, a page that can do nothing.

function content(lines, name = "wb-content") {
  const box = element("pre", name, "", { tabindex: "0" });
  lines.forEach((line, index) => {
    for (const [kind, text] of line) box.append(kind ? element("span", `wb-token-${kind}`, visible(text)) : visible(text));
    if (index < lines.length - 1) box.append("\n");
  });
  return box;
}

function nodes(node, depth = 0) {
  const key = node.key === undefined ? "" : `${visible(node.key)}: `;
  if (node.children === undefined) {
    const line = element("div", "wb-json-value");
    line.append(element("span", "wb-token-name", key), element("span", `wb-token-${node.kind}`, visible(node.text)));
    return line;
  }
  const many = node.children.length;
  const [open, close] = node.kind === "object" ? "{}" : "[]";
  const box = element("details", "wb-json", "", { open: depth < 2 && many <= 100 });
  const head = element("summary");
  head.append(element("span", "wb-token-name", key), `${open} ${many} ${close}`);
  const inside = element("div", "wb-json-inside");
  const fill = () => inside.childElementCount || inside.append(...node.children.map((child) => nodes(child, depth + 1)));
  if (box.open) fill();
  box.addEventListener("toggle", fill);
  box.append(head, inside);
  return box;
}

// What a preview is shown as; a JSON document and a page can be shown as their text, too.
function previewed(answer) {
  const box = element("div", "wb-preview");
  if (answer.note) box.append(element("div", "wb-note wb-quiet", answer.note));
  if (answer.kind === "none") return box;
  if (answer.kind === "image") {
    const address = URL.createObjectURL(new Blob([answer.buffers[0]], { type: answer.mime }));
    const image = element("img", "wb-image", "", { alt: answer.path, src: address });
    image.addEventListener("load", () => URL.revokeObjectURL(address));
    image.addEventListener("error", () => box.append(placeholder("error", "this image cannot be drawn")));
    box.append(image);
    return box;
  }
  if (answer.kind === "text") {
    box.append(content(answer.lines));
    return box;
  }
  const shown = element("div");
  const made = {
    page: () => element("iframe", "wb-page", "", { sandbox: "", srcdoc: answer.page, title: "The file as a page, without scripts" }),
    json: () => nodes(answer.root),
    source: () => content(answer.lines),
  };
  const words = { page: "page", json: "folded", source: "source" };
  const bar = element("div", "wb-row");
  const choices = [answer.kind, "source"].map((kind) => {
    const choice = button(words[kind], `Show as ${words[kind]}`, () => choose(kind));
    choice.dataset.kind = kind;
    return choice;
  });
  const choose = (kind) => {
    for (const choice of choices) mark(choice, choice.dataset.kind === kind);
    shown.replaceChildren(made[kind]());
  };
  bar.append(...choices);
  if (answer.kind === "page") bar.append(element("span", "wb-quiet", "no script runs and nothing is loaded"));
  box.append(bar, shown);
  choose(answer.kind);
  return box;
}
