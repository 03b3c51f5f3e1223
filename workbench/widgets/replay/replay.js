// Draws the controls of a playback; the run itself is drawn by the run view below.

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 5, 10, 25, 100];

export default widget("replay", {
  draw({ model, body, host, needs }) {
    const choice = element("div", "wb-bar");
    const id = needs(element("input", "wb-field wb-code wb-run-id", "", { "aria-label": "Run id", placeholder: "a run's id", list: "" }));
    const pick = needs(element("select", "wb-field wb-pick", "", { "aria-label": "An archived run" }));
    const load = needs(button("load", "Load the run", () => model.send({ type: "load", run_id: id.value }), "wb-load"));
    choice.append(element("span", "", "Run"), pick, id, load);
    const bar = element("div", "wb-bar wb-quietly", "", { role: "toolbar", "aria-label": "Playback" });
    const play = needs(button("play", "Play or pause", () => model.send({ type: model.get("playing") ? "pause" : "play" }), "wb-main wb-play"));
    const back = needs(button("◂ step", "One event back", () => model.send({ type: "step", by: -1 }), "wb-back"));
    const forth = needs(button("step ▸", "One event forth", () => model.send({ type: "step", by: 1 }), "wb-forth"));
    const place = needs(element("input", "wb-grow wb-place", "", { type: "range", min: 0, step: 1, "aria-label": "Place in the run" }));
    const time = element("span", "wb-figure wb-time-of");
    const speed = needs(element("select", "wb-field wb-speed", "", { "aria-label": "Speed" }));
    const events = element("span", "wb-figure wb-quiet wb-played");
    bar.append(play, back, forth, place, time, speed, events);
    const box = element("div", "wb-embedded");
    body.append(choice, bar, box);

    for (const value of SPEEDS) speed.append(element("option", "", `${value}×`, { value }));
    let held = false; // while somebody drags, the place is theirs
    const seek = () => model.send({ type: "seek", position_ms: Number(place.value) });
    place.addEventListener("pointerdown", () => { held = true; });
    place.addEventListener("change", () => {
      held = false;
      seek();
    });
    speed.addEventListener("change", () => model.send({ type: "speed", speed: Number(speed.value) }));
    pick.addEventListener("change", () => {
      id.value = pick.value;
      if (pick.value) model.send({ type: "load", run_id: pick.value });
    });

    const offer = () => {
      const found = model.get("offered");
      const none = found.length ? "choose a run …" : "looking for runs …";
      pick.replaceChildren(element("option", "", none, { value: "" }));
      for (const one of found) {
        const text = one.run_id ? `${one.run_id.slice(0, 8)}  ${one.text}` : one.text;
        pick.append(element("option", "", visible(text), { value: one.run_id, disabled: !one.run_id }));
      }
    };
    const draw = () => {
      choice.hidden = !model.get("offers");
      bar.hidden = !model.get("count");
      const playing = model.get("playing");
      play.says(playing ? "pause" : "play");
      mark(play, playing);
      place.max = model.get("length_ms");
      if (!held) place.value = model.get("position_ms");
      place.setAttribute("aria-valuetext", lasting(model.get("position_ms")));
      time.textContent = `${lasting(model.get("position_ms"))} of ${lasting(model.get("length_ms"))}`;
      const value = String(model.get("speed"));
      if (![...speed.options].some((option) => option.value === value)) {
        speed.append(element("option", "", `${value}×`, { value }));
      }
      speed.value = value;
      events.textContent = `${model.get("played").toLocaleString("en")} of ${model.get("count").toLocaleString("en")} events`;
      load.says(model.get("loading") ? "loading …" : "load");
    };
    model.on("change", draw);
    const name = () => {
      if (document.activeElement !== id) id.value = model.get("title");
    };
    model.on("change:offered", offer);
    model.on("change:title", name);
    offer();
    draw();
    name();
    const empty = () => placeholder("empty", model.get("offers") ? "Choose a run that has ended, or type its id" : "Nothing to play");
    const unembed = embed({ model, host, trait: "view", box, empty });
    return () => {
      model.off("change", draw);
      model.off("change:offered", offer);
      model.off("change:title", name);
      unembed();
    };
  },
});
