// Asks Python: `ask(what, fields, buffers)` is a promise of the answer; `heard` takes the messages that may be one.
// A question whose kernel has gone stays without an answer; whoever shows it hears "wb-lost".
function asker(model) {
  const waiting = new Map();
  let last = Math.floor(Math.random() * 1e9) * 1000; // two pages of one kernel must not take each other's answers
  return {
    ask(what, fields = {}, buffers = []) {
      const id = (last += 1);
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        model.send({ ...fields, type: "ask", id, what }, undefined, buffers);
      });
    },
    heard(message, buffers) {
      const asked = waiting.get(message.id);
      if (!asked) return;
      waiting.delete(message.id);
      if (message.type === "answer") asked.resolve({ ...message, buffers });
      else asked.reject(new Error(message.message));
    },
  };
}

// Fills `box` with what a question's answer is drawn as; an answer that comes after a later question is let go.
function answered(box, asked, draw, note = "reading …") {
  const turn = (box.turn = (box.turn ?? 0) + 1);
  box.replaceChildren(placeholder("loading", note));
  return asked.then(
    (answer) => box.turn === turn && box.replaceChildren(...[draw(answer)].flat()),
    (error) => box.turn === turn && box.replaceChildren(placeholder("error", error.message)),
  );
}

// Asks before something that cannot be taken back lightly: a line with what would happen, and two buttons.
function confirmation(box, text, word, act) {
  const close = () => {
    box.replaceChildren();
    box.hidden = true;
  };
  const bar = element("div", "wb-banner", "", { role: "alertdialog", "aria-label": text, "data-kind": "warn" });
  const yes = button(word, word, () => (close(), act()), "wb-confirm");
  bar.append(element("span", "wb-grow", text), yes, button("keep as it is", "Do nothing", close, "wb-keep"));
  bar.addEventListener("keydown", (event) => event.key === "Escape" && close());
  box.replaceChildren(bar);
  box.hidden = false;
  yes.focus();
}

// Says why something was not done, until it is dismissed or something else is said there.
function failure(box, text) {
  const bar = element("div", "wb-banner wb-failure", "", { role: "alert" });
  const close = () => (box.replaceChildren(), (box.hidden = true));
  bar.append(element("span", "wb-grow", visible(text)), button("dismiss", "Dismiss this message", close));
  box.replaceChildren(bar);
  box.hidden = false;
}

// Unix time in seconds as UTC, for people.
function moment(seconds) {
  const at = new Date(seconds * 1000);
  return Number.isNaN(at.getTime()) ? "" : at.toISOString().slice(0, 19).replace("T", " ");
}

// Gives bytes to the reader as a file of their own; never as anything that a browser would open.
function saved(name, data) {
  const address = URL.createObjectURL(new Blob([data], { type: "application/octet-stream" }));
  element("a", "", "", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
