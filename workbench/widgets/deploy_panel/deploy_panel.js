// Draws what is deployed where, and the ways to change it. What changes something for others is asked about first.

const KEPT = 2000; // lines of the log

function start(model) {
  const log = { lines: [], drawn: new Set() };
  return {
    ...log,
    heard(message) {
      if (message.type !== "lines") return;
      if (message.reset) log.lines.length = 0;
      log.lines.push(...message.lines);
      if (log.lines.length > KEPT) log.lines.splice(0, log.lines.length - KEPT);
      for (const draw of log.drawn) draw();
    },
  };
}

function draw({ model, body, own, needs, connected }) {
  const act = (name, label, press, kind) => needs(button(name, label, press, kind));
  const bar = element("div", "wb-bar");
  const state = badge("");
  state.classList.add("wb-state");
  state.setAttribute("role", "status");
  const title = element("strong", "wb-cut");
  const doing = element("span", "wb-grow wb-cut wb-quiet wb-doing", "", { role: "status" });
  const rotate = element("input", "", "", { type: "checkbox" });
  const claude = element("input", "", "", { type: "checkbox" });
  claude.checked = !model.get("why_without_claude");
  const choice = (input, words, hint) => {
    const label = element("label", "wb-choice wb-quiet", "", { title: hint });
    label.append(needs(input), words);
    return label;
  };
  const deploy = act("deploy", "Deploy the endpoint", () => model.send({ type: "deploy", rotate_secret: rotate.checked, with_claude: claude.checked }), "wb-main");
  const stop = act("stop …", "Stop the app", () => confirmation(asking, `Stop ${model.get("app_name")} on ${model.get("target")}? Its containers end, and runs under way with them. Volumes and secrets stay.`, "stop it", () => model.send({ type: "stop" })), "wb-danger");
  const refresh = act("refresh", "Look again", () => model.send({ type: "refresh" }));
  bar.append(state, title, doing, refresh, stop, deploy);
  const options = element("div", "wb-bar wb-quietly wb-options");
  options.append(
    choice(rotate, "new secret", "The secret before stays accepted until the next new one"),
    choice(claude, "with the Claude CLI", "Without it the sandboxes' image is made sooner, and the action claude is not there"),
    element("span", "wb-quiet wb-grow wb-without"),
  );
  const asking = element("div", "wb-asking", "", { hidden: true });
  const result = element("div", "wb-result", "", { role: "status", hidden: true });
  const facts = element("div", "wb-facts");
  const log = element("details", "wb-log");
  const text = element("pre", "wb-lines", "", { tabindex: "0", role: "log", "aria-label": "Log" });
  const words = element("summary", "", "log");
  log.append(words, text);
  body.append(bar, options, asking, result, facts, log);

  const section = (name, ...content) => {
    const box = element("section", "wb-section", "", { tabindex: "0", "aria-label": name });  // it scrolls
    box.append(element("h4", "wb-heading", name), ...content);
    return box;
  };
  const when = (stamp) => (stamp ? visible(stamp).replace(/\+00:00$/, "") : "");
  const drawFacts = () => {
    const condition = model.get("condition");
    const known = model.get("deployed");
    title.textContent = `${model.get("app_name")} on ${model.get("target")}`;
    const without = model.get("why_without_claude");
    options.querySelector(".wb-without").textContent = without && `without it: ${without}`;
    if (known.state === undefined || condition === "error") {
      state.textContent = condition === "error" ? "not known" : "…";
      state.dataset.kind = condition === "error" ? "bad" : "";
      facts.replaceChildren(placeholder(condition, condition === "error" ? model.get("why") : "asking the target …"));
      return;
    }
    state.textContent = known.current ? `${known.state} ${known.current}` : known.state;
    state.dataset.kind = known.state === "deployed" ? "good" : known.state === "stopped" ? "warn" : "";
    const [ok, detail] = known.health;
    const address = element("div", "wb-pairs");
    const pair = (name, ...values) => address.append(element("span", "wb-quiet", name), values.reduce((box, one) => (box.append(one), box), element("span", "wb-value")));
    pair("address", element("code", "wb-code", visible(known.url || "none")));
    pair("health", badge(ok === null ? "not known" : ok ? "healthy" : "not healthy", ok === null ? "" : ok ? "good" : "bad"), element("span", "wb-quiet", visible(detail)));
    for (const [name, purpose, present] of known.secrets) {
      pair("secret", badge(present ? "present" : "missing", present ? "good" : "bad"), element("code", "wb-code", visible(name)), element("span", "wb-quiet", visible(purpose)));
    }
    const found = [address];
    if (known.versions.length) {
      const rows = known.versions.map((one) => {
        const current = one.version === known.current;
        const back = current || known.state !== "deployed" ? "" : act("roll back …", `Roll back to ${one.version}`, () =>
          confirmation(asking, `Deploy ${one.version} again? It becomes the newest version, and new runs get it.`, "roll back", () => model.send({ type: "rollback", version: one.version })), "wb-back");
        if (back) back.disabled = !!model.get("busy") || !connected();
        return [current ? badge(`${one.version} now`, "good") : one.version, when(one.time_deployed), visible(one.deployed_by), visible(one.client), visible(one.commit ?? ""), back];
      });
      found.push(section("versions", table(["version", "deployed (UTC)", "by", "SDK", "commit", ""], rows, "Versions")));
    } else found.push(placeholder("empty", known.state === "given by URL" ? "An endpoint given by URL tells nothing of its versions." : "Nothing was deployed under this name yet."));
    if (known.apps.length) {
      const rows = known.apps.map((one) => {
        const own = one.description === model.get("app_name");
        const name = element(own ? "strong" : "span", "", visible(one.description));
        return [name, badge(visible(one.state), one.state === "deployed" ? "good" : ""), String(one.tasks), when(one.created_at), when(one.stopped_at)];
      });
      found.push(section(`everything on ${model.get("target")}`, table(["app", "state", "containers", "created (UTC)", "stopped (UTC)"], rows, "Apps")));
    }
    facts.replaceChildren(...found);
  };
  const drawBusy = () => {
    const busy = model.get("busy");
    doing.textContent = busy ? `${busy} …` : "";
    const fixed = !!busy || !connected() || !model.get("can_change");
    const known = model.get("deployed");
    deploy.disabled = fixed;
    stop.disabled = fixed || known.state !== "deployed";
    rotate.disabled = fixed;
    claude.disabled = fixed || !!model.get("why_without_claude");
    options.hidden = !model.get("can_change");
    for (const one of facts.querySelectorAll(".wb-back")) one.disabled = fixed;
    result.hidden = !model.get("result");
    result.textContent = visible(model.get("result"));
    result.dataset.kind = model.get("failed") ? "bad" : "good";
    if (busy || model.get("failed")) log.open = true;
  };
  const drawLog = () => {
    const following = text.scrollTop + text.clientHeight >= text.scrollHeight - 4;
    text.textContent = visible(own.lines.join("\n"));
    log.hidden = own.lines.length === 0;
    words.textContent = `log, ${own.lines.length} line${own.lines.length === 1 ? "" : "s"}`;
    if (following) text.scrollTop = text.scrollHeight;
  };
  const drawAll = () => {
    drawFacts();
    drawBusy();
  };
  own.drawn.add(drawLog);
  const changed = () => unpressed(facts, drawAll);
  model.on("change", changed);
  drawAll();
  drawLog();
  return () => {
    own.drawn.delete(drawLog);
    model.off("change", changed);
  };
}

export default widget("deploy", { start, draw });
