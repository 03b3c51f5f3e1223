// Draws the tabs; each part draws itself, from the first time that its tab is opened: Python makes it then.

// How many there are of a kind, and each in words; an empty text for none.
const told = (found, kind, where, words) =>
  found.length ? `${found.length} ${kind}${found.length === 1 ? " is" : "s are"} ${where}: ${found.map(words).join("; ")}` : "";

export default widget("workbench", {
  draw({ model, body, host, needs, connected }) {
    const bar = element("div", "wb-tabs", "", { role: "tablist", "aria-label": "Workbench" });
    const missing = element("div", "wb-banner wb-missing", "", { role: "status", "data-kind": "warn", hidden: true });
    const reason = element("span", "wb-grow");
    missing.append(reason, needs(button("go to Deployment", "Go to Deployment", () => choose("deploy"), "wb-to-deploy")));
    // While anything is made to fail, every tab says so, and the mark is what ends it.
    const failing = element("div", "wb-banner wb-failing", "", { role: "status", hidden: true });
    const rules = element("span", "wb-grow");
    const halt = needs(button("halt: end them", "Remove every fault rule of the local cloud, and end the scripted answers of its model", () => model.send({ type: "halt" }), "wb-halt"));
    failing.append(rules, halt);
    body.append(bar, failing, missing);
    const parts = model.get("tabs").map((tab, index) => {
      const id = `wb-${Math.random().toString(36).slice(2)}`;
      const title = element("button", "wb-tab", tab.title, { type: "button", role: "tab", id, "aria-controls": `${id}-panel` });
      const box = element("div", "wb-panel", "", { role: "tabpanel", id: `${id}-panel`, "aria-labelledby": id, "data-key": tab.key });
      box.append(placeholder("loading", "opening …"));
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
    let shown = "";
    const show = (key) => {
      shown = key;
      for (const part of parts) {
        const chosen = part.key === key;
        part.title.setAttribute("aria-selected", String(chosen));
        part.title.tabIndex = chosen ? 0 : -1;
        part.box.hidden = !chosen;
      }
      draw();
    };
    const draw = () => {
      const made = model.get("parts");
      for (const part of parts) {
        if (part.key === shown && made[part.key]) part.embedded ??= embedOnce({ host, reference: made[part.key], box: part.box });
      }
      const active = model.get("rules");
      const answers = model.get("answers");
      rules.textContent = [
        told(active, "fault rule", "in force on the local cloud", (one) => `${visible(one.text)} (fired ${one.injected})`),
        told(answers, "scripted answer", "in force at the model", (one) => `${visible(one.marker)} (asked ${one.asked})`),
      ].filter(Boolean).join(". ");
      rules.classList.add("wb-cut");
      rules.title = rules.textContent;
      failing.hidden = !active.length && !answers.length;
      reason.textContent = visible(model.get("missing"));
      missing.hidden = !model.get("missing") || shown === "deploy";
      missing.querySelector(".wb-to-deploy").hidden = !model.get("can_deploy");
    };
    arrows(bar, () => parts.map((part) => part.title), {
      across: true,
      chosen: (title) => choose(parts.find((part) => part.title === title).key),
    });
    const onChosen = () => show(model.get("chosen"));
    model.on("change:chosen", onChosen);
    model.on("change:parts change:missing change:rules change:answers", draw);
    const stopLooking = whileSeen(body, () => connected() && model.get("can_fail") && model.send({ type: "look" }));
    onChosen();
    return () => {
      model.off("change:chosen", onChosen);
      model.off("change:parts change:missing change:rules change:answers", draw);
      stopLooking();
      for (const part of parts) part.embedded?.abort();
    };
  },
});
