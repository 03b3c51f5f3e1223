// Whose project: by a name of one's own, by its two ids, or one of those that were used before. `chosen(project, id)` is
// called with what is typed, and which id that is, or with one that was used before; `named(name)` with a name that is
// typed; `offered()` gives the projects that can be chosen.
function projectPicker({ needs, offered, chosen, named }) {
  const node = element("div", "wb-bar wb-quietly wb-project");
  const project = { user_id: "", project_id: "" };
  const list = element("datalist", "", "", { id: `wb-${Math.random().toString(36).slice(2)}` });
  const name = needs(element("input", "wb-field wb-named", "", { "aria-label": "Project's name", placeholder: "a name of your own", spellcheck: "false", maxlength: 60, list: list.id, title: "A name that is known shows that project. A new one is given to this project, or if this one has a name, to another new one." }));
  name.addEventListener("change", () => (name.value.trim() ? named(name.value.trim()) : tellName()));
  name.addEventListener("keydown", (event) => event.key === "Enter" && name.blur());
  const folded = element("details", "wb-ids-of");
  const short = element("summary", "wb-quiet", "", { title: "The ids of the project" });
  const inputs = Object.keys(project).map((id) => {
    const input = needs(element("input", "wb-field wb-code wb-ids", "", { "aria-label": id, placeholder: id, spellcheck: "false" }));
    input.addEventListener("input", () => {
      project[id] = input.value.trim();
      tellName();
      chosen({ ...project }, id);
    });
    return [id, input];
  });
  const both = element("div", "wb-both");
  both.append(...inputs.map(([, input]) => input));
  folded.append(short, both);
  const tail = together(folded);
  const recent = needs(element("select", "wb-field wb-recent", "", { "aria-label": "A project used before" }));
  node.append(element("span", "", "Project"), name, list, recent, tail);
  const few = (id) => `${id.slice(0, 8)}…`;
  const same = (one) => one.user_id === project.user_id && one.project_id === project.project_id;
  const label = (one) => one.name || `${few(one.project_id)} of ${few(one.user_id)}`;
  const tellName = () => {
    if (document.activeElement !== name) name.value = visible(offered().find(same)?.name ?? "");
    short.textContent = project.project_id ? `${few(project.project_id)} of user ${few(project.user_id)}` : "ids";
  };
  const fill = (one) => {
    for (const [id, input] of inputs) input.value = project[id] = one[id];
    tellName();
  };
  recent.addEventListener("change", () => {
    const one = offered()[Number(recent.value)];
    if (recent.value === "" || !one) return;
    fill(one);
    recent.value = "";
    chosen({ user_id: one.user_id, project_id: one.project_id }, "user_id");
  });
  return {
    node,
    // Put a button beside it.
    add: (control) => tail.append(control),
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
        ...found.map((one, index) => element("option", "", visible(label(one)), { value: index })),
      );
      list.replaceChildren(...found.filter((one) => one.name).map((one) => element("option", "", "", { value: visible(one.name) })));
      tellName();
    },
    // Mark the ids that are wrong.
    tell(wrong) {
      for (const [id, input] of inputs) input.setAttribute("aria-invalid", String(wrong.includes(id)));
      if (wrong.includes("user_id") || wrong.includes("project_id")) folded.open = true;
    },
  };
}
