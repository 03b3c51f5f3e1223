// Draws a check that is under way: each line with what was measured, as soon as it is known.

const KINDS = { ok: "good", partly: "warn", fail: "bad", skipped: "" };

export default widget("checklist", {
  draw({ model, body }) {
    const facts = element("div", "wb-pairs", "", { role: "status" });
    const lines = element("div", "wb-scroll", "", { tabindex: "-1" });
    body.append(facts, lines);
    const draw = () => {
      const found = model.get("lines");
      const next = model.get("under_way") ? found.findIndex((one) => !one.status) : -1;
      const state = (one, index) => {
        if (one.status) return badge(one.status, KINDS[one.status] ?? "");
        return index === next ? badge("measuring", "busy") : "";
      };
      const rows = found.map((one, index) => [one.name, state(one, index), visible(one.evidence), visible(one.fix)]);
      lines.replaceChildren(table(["line", "", "measured", "what to do"], rows, "Checklist"));
      facts.replaceChildren(
        ...model.get("facts").flatMap(([name, value]) => [element("span", "wb-quiet", name), element("span", "wb-value", visible(value))]),
      );
    };
    model.on("change:lines change:facts change:under_way", draw);
    draw();
    return () => model.off("change:lines change:facts change:under_way", draw);
  },
});
