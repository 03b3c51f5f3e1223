// Whose project: its two ids, and those that were used before. `chosen(project, name)` is called with what is typed, and
// the name of the id, or with one that was used before; `offered()` gives those.
function projectPicker({ needs, offered, chosen }) {
  const node = element("div", "wb-bar wb-quietly wb-project");
  const project = { user_id: "", project_id: "" };
  const inputs = Object.keys(project).map((name) => {
    const input = needs(element("input", "wb-field wb-code wb-ids", "", { "aria-label": name, placeholder: name, spellcheck: "false" }));
    input.addEventListener("input", () => {
      project[name] = input.value.trim();
      chosen({ ...project }, name);
    });
    return [name, input];
  });
  const recent = needs(element("select", "wb-field wb-recent", "", { "aria-label": "A project used before" }));
  node.append(element("span", "", "Project"), ...inputs.map(([, input]) => input), recent);
  const fill = (one) => {
    for (const [name, input] of inputs) input.value = project[name] = one[name];
  };
  recent.addEventListener("change", () => {
    const one = offered()[Number(recent.value)];
    if (recent.value === "" || !one) return;
    fill(one);
    recent.value = "";
    chosen({ ...project }, "user_id");
  });
  return {
    node,
    // Show another project, unless somebody types here now: that is newer.
    show(one) {
      if (inputs.some(([, input]) => document.activeElement === input)) return false;
      fill(one);
      return true;
    },
    offer() {
      const found = offered();
      recent.hidden = found.length === 0;
      recent.replaceChildren(
        element("option", "", "used before …", { value: "" }),
        ...found.map((one, index) => element("option", "", visible(`${one.project_id.slice(0, 8)}… of ${one.user_id.slice(0, 8)}…`), { value: index })),
      );
    },
    // Mark the ids that are wrong.
    tell(wrong) {
      for (const [name, input] of inputs) input.setAttribute("aria-invalid", String(wrong.includes(name)));
    },
  };
}
