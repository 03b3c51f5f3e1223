// Draws the tabs; each part draws itself, from the first time that it is shown.

export default widget("whole", {
  draw({ model, body, host }) {
    const bar = element("div", "wb-tabs", "", { role: "tablist", "aria-label": "Workbench" });
    body.append(bar);
    const parts = model.get("tabs").map((tab, index) => {
      const id = `wb-${Math.random().toString(36).slice(2)}`;
      const title = element("button", "wb-tab", tab.title, { type: "button", role: "tab", id, "aria-controls": `${id}-panel` });
      const box = element("div", "wb-part", "", { role: "tabpanel", id: `${id}-panel`, "aria-labelledby": id, "data-key": tab.key });
      title.addEventListener("click", () => choose(tab.key));
      title.tabIndex = index === 0 ? 0 : -1;
      bar.append(title);
      body.append(box);
      return { ...tab, title, box, embedded: null };
    });
    const choose = (key) => {
      show(key);
      model.send({ type: "show", key });
    };
    const show = (key) => {
      for (const part of parts) {
        const chosen = part.key === key;
        part.title.setAttribute("aria-selected", String(chosen));
        part.title.tabIndex = chosen ? 0 : -1;
        part.box.hidden = !chosen;
        if (chosen) part.embedded ??= embedOnce({ host, reference: part.widget, box: part.box });
      }
    };
    arrows(bar, () => parts.map((part) => part.title), {
      across: true,
      chosen: (title) => choose(parts.find((part) => part.title === title).key),
    });
    const onChosen = () => show(model.get("chosen"));
    model.on("change:chosen", onChosen);
    onChosen();
    return () => {
      model.off("change:chosen", onChosen);
      for (const part of parts) part.embedded?.abort();
    };
  },
});
