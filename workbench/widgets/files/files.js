// Draws which project is picked; its files are drawn by the volume browser below.

const PAUSE = 250; // milliseconds after the last key before what is typed is taken

export default widget("files", {
  draw({ model, body, host, needs }) {
    let pause = 0;
    const picker = projectPicker({
      needs,
      offered: () => model.get("offered"),
      chosen(project) {
        clearTimeout(pause);
        pause = setTimeout(() => model.send({ type: "pick", ...project }), PAUSE);
      },
      named: (name) => model.send({ type: "name", name }),
    });
    const leader = model.get("leader");
    const follow = needs(button(`follow ${leader}`, `Always show the project of ${leader}`, () => model.send({ type: "follow" }), "wb-follow"));
    const said = element("div", "wb-wrong wb-said", "", { role: "status" });
    const box = element("div", "wb-embedded");
    picker.add(follow);
    body.append(picker.node, said, box);

    const draw = () => {
      const errors = model.get("errors");
      picker.tell(Object.keys(errors));
      said.textContent = Object.entries(errors).map(([name, message]) => (name ? `${name} ${message}` : message)).join("; ");
      said.hidden = !said.textContent;
      follow.hidden = !leader;
      follow.setAttribute("aria-pressed", String(model.get("following")));
    };
    const drawProject = () => picker.show({ user_id: "", project_id: "", ...model.get("project") });
    const empty = () => {
      if (model.get("opening")) return placeholder("loading", "opening the project …");
      if (model.get("why")) return placeholder("error", model.get("why"));
      return placeholder("empty", "Choose a project that was used before, or type its name or its ids");
    };
    const drawEmpty = () => model.get("view") || box.replaceChildren(empty());
    const watch = [
      ["change:errors change:following", draw],
      ["change:project", drawProject],
      ["change:offered", picker.offer],
      ["change:why change:opening", drawEmpty],
    ];
    for (const [names, act] of watch) model.on(names, act);
    draw();
    drawProject();
    picker.offer();
    const unembed = embed({ model, host, trait: "view", box, empty });
    return () => {
      clearTimeout(pause);
      for (const [names, act] of watch) model.off(names, act);
      unembed();
    };
  },
});
