// Draws the failure lab: the modes and a search on the left, the chosen one on the right, the cloud's rules and clock above.

const AHEAD = [["30 s", 30], ["5 min", 300], ["1 h", 3600], ["24 h", 86400]];

// A picture that Python has drawn, with every text escaped there. Only what such a picture is made of is taken over.
const DRAWN = new Set(["div", "strong", "span", "p", "ul", "li", "svg", "text", "rect", "circle", "line", "title"]);
function picture(markup) {
  const found = new DOMParser().parseFromString(markup, "text/html").body; // nothing in it is run or fetched
  for (const node of [...found.querySelectorAll("*")]) {
    if (!DRAWN.has(node.localName)) node.remove();
    for (const { name, value } of [...node.attributes]) {
      if (/^on|href|src/i.test(name) || /url\(/i.test(value)) node.removeAttribute(name);
    }
  }
  return [...found.childNodes];
}

export default widget("failures", {
  start(model) {
    return asker(model);
  },
  draw({ model, body, own, needs, connected }) {
    const bar = element("div", "wb-bar");
    const search = needs(element("input", "wb-field wb-search", "", { type: "search", "aria-label": "Search failure modes", placeholder: "what you see, or an error text" }));
    const doing = element("span", "wb-grow wb-cut wb-quiet wb-doing", "", { role: "status" });
    const reset = needs(button("take all back", "Remove what experiments have left: their rules, and the lab's two apps", () => model.send({ type: "reset" }), "wb-reset"));
    bar.append(search, doing, reset);
    const control = element("div", "wb-bar wb-quietly wb-control", "", { role: "toolbar", "aria-label": "The local cloud" });
    const clock = element("span", "wb-figure wb-clock");
    const whose = needs(element("select", "wb-field wb-whose", "", { "aria-label": "Whose clock" }));
    whose.append(element("option", "", visible(model.get("app")), { value: "app" }), element("option", "", "the whole cloud", { value: "whole" }));
    const whole = () => whose.value === "whole";
    const moves = element("span", "wb-together");
    moves.append(element("span", "wb-quiet", "advance by"));
    control.append(element("span", "wb-quiet", "clock of"), whose, clock, moves);
    for (const [word, seconds] of AHEAD) {
      moves.append(needs(button(word, `Move this clock ahead by ${word}`, () => model.send({ type: "advance", seconds, whole: whole() }), "wb-advance")));
    }
    moves.append(needs(button("set back", "Take back all by which this clock was moved", () => model.send({ type: "set-back", whole: whole() }), "wb-set-back")));
    const rules = element("div", "wb-rules");
    const two = element("div", "wb-two");
    const list = element("div", "wb-modes", "", { role: "listbox", "aria-label": "Failure modes" });
    const about = element("div", "wb-about wb-pad", "", { tabindex: "0", role: "region", "aria-label": "The chosen failure mode" });
    two.append(list, about);
    body.append(bar, control, rules, two);

    let chosen = "";
    let near = [];
    const items = () => [...list.querySelectorAll(".wb-mode")];
    const choose = (name) => {
      chosen = name;
      for (const item of items()) {
        const here = item.dataset.name === name;
        item.setAttribute("aria-selected", String(here));
        item.tabIndex = here ? 0 : -1;
      }
      read();
    };
    const read = () => chosen && answered(about, own.ask("show", { name: chosen }), page);
    const page = (answer) => {
      const mode = model.get("modes").find((one) => one.name === chosen);
      const head = element("div", "wb-bar wb-quietly");
      const run = needs(button("run", `Bring ${chosen} about at both endpoints`, () => model.send({ type: "run", name: chosen }), "wb-main wb-run-it"));
      const keep = needs(button("keep as notebook", `Write ${chosen}.ipynb, a test that guards against it`, () => own.ask("keep", { name: chosen }).then(
        ({ path }) => { said.textContent = `written: ${visible(path)}`; },
        (error) => { said.textContent = visible(error.message); },
      ), "wb-keep-it"));
      const able = model.get("can_run") && mode.runs;
      run.disabled = !able || !connected() || Boolean(model.get("running"));
      keep.disabled = !mode.runs || !connected();
      const said = element("span", "wb-quiet wb-said", able ? "" : model.get("can_run") ? "nothing brings it about yet" : "only the local cloud can be made to fail", { role: "status" });
      head.append(element("strong", "", chosen), badge(mode.promise, "busy"), run, keep, said);
      const words = element("dl");
      for (const [name, text] of answer.parts) words.append(element("dt", "", name), element("dd", "", visible(text)));
      const likes = element("div", "wb-likes");
      if (answer.looks_like.length) likes.append(element("span", "wb-quiet", "looks like"));
      for (const name of answer.looks_like) likes.append(button(name, `Show ${name}`, () => choose(name), "wb-like"));
      const drawn = element("div", "wb-drawn");
      drawn.append(...picture(answer.drawn));
      return [head, drawn, element("div", "wb-quiet", `${answer.promise}; ${answer.known}`), words, likes];
    };

    const drawList = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const exact = model.get("modes").filter((one) => words.every((word) => one.words.includes(word)));
      const found = exact.length ? exact : near;
      const verdicts = model.get("verdicts");
      const nodes = [];
      let family = "";
      for (const one of found) {
        if (exact.length && one.family !== family) nodes.push(element("div", "wb-family", (family = one.family), { role: "presentation" }));
        const item = element("button", "wb-mode", "", { type: "button", role: "option", title: one.symptom, "data-name": one.name, "aria-selected": String(one.name === chosen) });
        item.tabIndex = one.name === (chosen || found[0].name) ? 0 : -1;
        item.append(element("span", "wb-grow wb-cut", one.name));
        const verdict = verdicts[one.name];
        if (verdict) item.append(badge(verdict[0], verdict[1] ? "good" : "bad"));
        else if (!one.runs) item.append(element("span", "wb-quiet", "–", { title: "nothing brings it about yet" }));
        item.addEventListener("click", () => choose(one.name));
        nodes.push(item);
      }
      if (!found.length) nodes.push(placeholder("empty", "No failure mode has these words: try fewer"));
      const held = list.contains(document.activeElement) && document.activeElement.dataset.name;
      list.replaceChildren(...nodes);
      if (held) items().find((item) => item.dataset.name === held)?.focus();
    };
    const drawRules = () => {
      const found = model.get("rules");
      const ahead_s = model.get(whole() ? "ahead_s" : "app_ahead_s");
      clock.textContent = ahead_s ? `${lasting(ahead_s * 1000)} ahead of real time` : "real time";
      const rows = found.map((one) => [
        element("code", "wb-code", visible(one.text)),
        `${one.injected} of ${one.matched}`,
        button("remove", "Remove this rule", () => model.send({ type: "remove", rule_id: one.rule_id })),
      ]);
      unpressed(rules, () => rules.replaceChildren(...(rows.length ? [table(["fault rule in force", "fired, of calls met", ""], rows, "Fault rules in force")] : [])));
    };
    const drawDoing = () => {
      const running = model.get("running");
      doing.textContent = visible([running, model.get("step")].filter(Boolean).join(": "));
      control.hidden = !model.get("can_run");
      reset.disabled = !connected() || !model.get("can_run") || Boolean(running);
      const run = about.querySelector(".wb-run-it");
      if (run) run.disabled = !connected() || Boolean(running) || !model.get("can_run") || !model.get("modes").find((one) => one.name === chosen).runs;
    };
    const onVerdict = () => {
      drawList();
      read();
    };
    // Words that no mode has all of, as in a line from a log: Python knows what fits best.
    search.addEventListener("input", async () => {
      near = [];
      drawList();
      const words = search.value;
      if (list.querySelector(".wb-mode") || !connected()) return;
      const { names } = await own.ask("find", { words });
      if (words !== search.value) return;
      near = names.map((name) => model.get("modes").find((one) => one.name === name));
      drawList();
    });
    arrows(list, items, { chosen: (item) => choose(item.dataset.name) });
    whose.addEventListener("change", drawRules);
    model.on("change:rules change:ahead_s change:app_ahead_s", drawRules);
    model.on("change:running change:step", drawDoing);
    model.on("change:verdicts", onVerdict);
    const stopLooking = whileSeen(body, () => connected() && model.get("can_run") && model.send({ type: "look" }));
    about.append(placeholder("empty", "Choose a failure mode, or search by what you see"));
    drawList();
    drawRules();
    drawDoing();
    return () => {
      stopLooking();
      model.off("change:rules change:ahead_s change:app_ahead_s", drawRules);
      model.off("change:running change:step", drawDoing);
      model.off("change:verdicts", onVerdict);
    };
  },
});
