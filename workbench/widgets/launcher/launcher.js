// Draws the forms of all requests from what Python says about the contract's models; Python checks what is typed.

const PAUSE = 150; // milliseconds after the last key before the draft is checked

export default widget("launcher", {
  draw({ model, body, host, needs }) {
    const draft = structuredClone(model.get("draft")); // what is typed here; Python has a copy
    const touched = new Set();
    const forms = model.get("forms");
    let pause = 0;
    let folded = null; // the runs for which the form was folded
    let wrong = new Map(); // where a field's error is told, by its name
    let tabs = [];

    const send = (type) => model.send({ type, form: draft.form, project: draft.project, values: draft.values });
    const changed = (name) => {
      if (name) touched.add(name);
      clearTimeout(pause);
      pause = setTimeout(() => send("draft"), PAUSE);
    };

    // Where, and whose project.
    const head = element("div", "wb-bar");
    const actions = element("span", "wb-actions", "", { role: "tablist", "aria-label": "Action" });
    const operation = needs(element("select", "wb-field wb-op", "", { "aria-label": "Operation" }));
    head.append(actions, operation, element("span", "wb-quiet wb-cut wb-where", model.get("where")));
    const picker = projectPicker({
      needs,
      offered: () => model.get("offered"),
      chosen(project, name) {
        draft.project = project;
        changed(name);
      },
      named: (name) => model.send({ type: "name", name }),
    });
    picker.add(needs(button("new project", "A project that nobody has used", () => model.send({ type: "new_project" }), "wb-new")));

    const form = element("div", "wb-form");
    const said = element("span", "wb-wrong wb-grow", "", { role: "status" });
    const launch = needs(button("launch", "Launch the run", () => {
      for (const field of forms[draft.form].fields) touched.add(field.name);
      for (const name of ["", "user_id", "project_id"]) touched.add(name);
      clearTimeout(pause);
      send("launch");
      tell();
    }, "wb-main wb-launch"));
    const foot = element("div", "wb-bar wb-quietly");
    foot.append(launch, said);
    const call = callBox({ model });
    // A form that was launched is folded to one line, so that what the run says is seen without scrolling.
    const fold = button("", "The form", () => unfold(sheet.hidden), "wb-toggle wb-fold-form");
    const sheet = element("div", "wb-sheet");
    sheet.append(form, foot, call.node);
    const unfold = (open) => {
      sheet.hidden = !open;
      fold.says(`${open ? "▾" : "▸"} form`);
      fold.setAttribute("aria-expanded", String(open));
    };
    unfold(true);
    fold.hidden = true;
    head.prepend(fold);
    const shown = element("div", "wb-shown");
    const runs = element("div", "wb-bar wb-quietly wb-runs-here", "", { role: "tablist", "aria-label": "Runs launched here" });
    const box = element("div", "wb-embedded");
    shown.append(runs, box);
    body.append(head, picker.node, sheet, shown);

    // One form after the other.
    const names = [...new Set(forms.map((one) => one.action))];
    const choose = (index) => {
      draft.form = index;
      draft.values = {};
      touched.clear();
      drawForm();
      changed();
    };
    const drawForm = () => {
      const now = forms[draft.form];
      tabs = names.map((name) => {
        const tab = needs(button(name, name, () => choose(forms.findIndex((one) => one.action === name))));
        tab.setAttribute("role", "tab");
        mark(tab, name === now.action);
        tab.tabIndex = name === now.action ? 0 : -1;
        return tab;
      });
      actions.replaceChildren(...tabs);
      const ops = forms.map((one, index) => [one, index]).filter(([one]) => one.action === now.action && one.op);
      operation.hidden = ops.length === 0;
      operation.replaceChildren(...ops.map(([one, index]) => element("option", "", one.op, { value: index })));
      operation.value = String(draft.form);
      wrong = new Map();
      const parts = [element("div", "wb-help", now.help)];
      if (model.get("notes")[now.action]) parts.push(element("div", "wb-note", model.get("notes")[now.action]));
      const [main, rest] = sorted(now.fields);
      parts.push(...main.map((field) => drawField(field, draft.values, "", field === main[0])));
      if (rest.length) parts.push(drawOptions(rest));
      form.replaceChildren(...parts);
      tell();
    };
    // What must be filled in stands first, or the first field when nothing must; the rest is folded away.
    const sorted = (fields) => {
      const must = fields.filter((field) => field.required);
      const main = must.length ? must : fields.filter((field) => !field.common).slice(0, 1);
      return [main, fields.filter((field) => !main.includes(field))];
    };
    const drawOptions = (fields) => {
      const grid = element("div", "wb-options", "", { hidden: !fields.some((field) => draft.values[field.name]) });
      const toggle = button("", fields.map((field) => `${field.name}: ${field.hint || field.kind}`).join("\n"), () => {
        grid.hidden = !grid.hidden;
        name();
      }, "wb-toggle wb-more");
      const name = () => {
        const names = fields.map((field) => field.name).join(", ");
        toggle.says(`${grid.hidden ? "▸" : "▾"} ${fields.length} more: ${names}`);
        toggle.setAttribute("aria-expanded", String(!grid.hidden));
      };
      name();
      grid.append(...fields.map((field) => drawField(field, draft.values, "", false)));
      const all = element("div");
      all.append(toggle, grid);
      return all;
    };
    const drawField = (field, values, prefix, first) => {
      const node = element("div", "wb-input", "", { "data-kind": field.kind, "data-field": prefix + field.name });
      const id = `wb-${Math.random().toString(36).slice(2)}`;
      const label = element("label", "", field.name, { for: id });
      label.append(element("span", "wb-quiet", [field.required && "required", field.hint].filter(Boolean).join(", ")));
      const error = element("div", "wb-wrong", "", { id: `${id}-error`, role: "status" });
      const top = prefix || field.name;
      const input = field.kind === "items" ? drawItems(field, values) : drawInput(field, values, id, top, first);
      if (!prefix) wrong.set(field.name, { error, input });
      input.setAttribute("aria-describedby", error.id);
      node.append(label, input, error);
      return node;
    };
    const drawInput = (field, values, id, top, first) => {
      const given = values[field.name] ?? field.default;
      let input;
      if (field.kind === "flag") {
        input = element("input", "wb-tick", "", { type: "checkbox", id });
        input.checked = Boolean(given);
      } else if (field.kind === "choice") {
        input = element("select", "wb-field", "", { id });
        input.append(...field.choices.map((choice) => element("option", "", choice, { value: choice })));
        input.value = given;
      } else if (["text", "lines", "json"].includes(field.kind)) {
        input = element("textarea", `wb-field ${first && field.kind === "text" ? "wb-first" : ""}`, "", { id, rows: 1, spellcheck: "false" });
        input.value = given;
      } else {
        input = element("input", "wb-field", "", { id, spellcheck: "false", inputmode: field.kind === "number" ? "decimal" : false });
        input.value = given;
      }
      input.addEventListener("input", () => {
        values[field.name] = field.kind === "flag" ? input.checked : input.value;
        changed(top);
      });
      return needs(input);
    };
    // A list of things with fields of their own, one row for each.
    const drawItems = (field, values) => {
      const node = element("div", "wb-items", "", { role: "group", "aria-label": field.name });
      values[field.name] ??= [{}];
      const draw = () => {
        const rows = values[field.name].map((item, index) => {
          const row = element("div", "wb-item");
          for (const one of field.items) row.append(drawField(one, item, field.name, false));
          row.append(button("remove", `Remove ${field.name} ${index + 1}`, () => {
            values[field.name].splice(index, 1);
            draw();
            changed(field.name);
          }));
          return row;
        });
        const more = button("add", `One more of ${field.name}`, () => {
          values[field.name].push({});
          draw();
        });
        node.replaceChildren(...rows, more);
      };
      draw();
      return node;
    };

    const tell = () => {
      const errors = model.get("errors");
      const left = [];
      for (const [name, message] of Object.entries(errors)) {
        if (!wrong.has(name) && touched.has(name)) left.push(name ? `${name}: ${message}` : message);
      }
      if (touched.size && errors[""] && !left.includes(errors[""])) left.push(errors[""]);
      for (const [name, { error, input }] of wrong) {
        const message = touched.has(name) ? (errors[name] ?? "") : "";
        error.textContent = message;
        input.setAttribute("aria-invalid", String(Boolean(message)));
        const options = input.closest(".wb-options");
        if (message && options?.hidden) options.previousSibling.click();
      }
      picker.tell(Object.keys(errors).filter((name) => touched.has(name)));
      said.textContent = left.join("; ");
    };
    const refill = () => {
      Object.assign(draft, structuredClone(model.get("draft")));
      touched.clear();
      clearTimeout(pause);
      unfold(true);
      drawForm();
      drawProject();
    };
    const drawProject = () => {
      const { project } = model.get("draft");
      if (picker.show(project)) draft.project = { ...project };
    };
    operation.addEventListener("change", () => choose(Number(operation.value)));
    arrows(actions, () => tabs, { across: true, chosen: (tab) => {
      tab.click();
      tabs.find((one) => one.getAttribute("aria-selected") === "true")?.focus();
    } });
    const drawRuns = () => {
      const launched = model.get("launched");
      shown.hidden = launched.length === 0;
      fold.hidden = shown.hidden;
      if (launched.length && launched !== folded) unfold(false);
      folded = launched;
      runs.hidden = launched.length < 2;
      const items = launched.map((name, index) => {
        const tab = needs(button(`${index + 1} ${name}`, `Run ${index + 1}, ${name}`, () => model.send({ type: "choose", index })));
        tab.setAttribute("role", "tab");
        mark(tab, index === model.get("chosen"));
        return tab;
      });
      runs.replaceChildren(...items);
    };
    const busy = () => {
      launch.says(model.get("launching") ? "launching …" : "launch");
    };
    const watch = [
      ["change:errors", tell],
      ["change:draft", drawProject],
      ["change:filled", refill],
      ["change:notes", drawForm],
      ["change:offered", picker.offer],
      ["change:launched change:chosen", drawRuns],
      ["change:launching", busy],
      ["change:calls change:calls_note", call.draw],
    ];
    for (const [names, act] of watch) model.on(names, act);
    drawForm();
    drawProject();
    picker.offer();
    drawRuns();
    call.draw();
    const unembed = embed({ model, host, trait: "view", box, empty: () => placeholder("empty", "No run yet") });
    return () => {
      clearTimeout(pause);
      for (const [names, act] of watch) model.off(names, act);
      unembed();
    };
  },
});

// The exact call, in the language that is chosen.
function callBox({ model }) {
  const node = element("div", "wb-calls");
  const bar = element("div", "wb-bar wb-quietly", "", { role: "group", "aria-label": "The exact call, in a language" });
  const text = element("pre", "wb-call wb-code", "", { tabindex: 0, role: "region", "aria-label": "The exact call" });
  node.append(bar, text);
  let chosen = "";
  const copy = button("copy", "Copy the call", async () => {
    await navigator.clipboard.writeText(text.textContent);
    copy.says("copied");
    setTimeout(() => { copy.says("copy"); }, 2000);
  });
  const draw = () => {
    const calls = model.get("calls");
    const names = ["curl", "TypeScript", "Python"];
    const tabs = names.map((name) => {
      const tab = button(name, `The call in ${name}`, () => {
        chosen = chosen === name ? "" : name;
        draw();
      });
      mark(tab, name === chosen);
      return tab;
    });
    copy.hidden = !chosen || !calls[chosen];
    bar.replaceChildren(element("span", "wb-quiet", "The exact call"), ...tabs, element("span", "wb-grow"), copy);
    text.hidden = !chosen;
    text.textContent = chosen ? (calls[chosen] ?? model.get("calls_note")) : "";
  };
  return { node, draw };
}
