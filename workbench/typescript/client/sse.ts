/**
 * Server-Sent Events from text (WHATWG HTML, "Server-sent events"), in pieces of any size. Does no I/O.
 *
 * Each character is looked at a bounded number of times, however the text is cut: a line of 10 MB in pieces of a
 * hundred bytes costs as much as in one.
 */

/** One event of a stream. `id` is undefined when it had none of its own. */
export interface Message {
  readonly id: string | undefined;
  readonly event: string;
  readonly data: string;
}

const LF = 10;
const SPACE = 32;
const COLON = 58;
const BYTE_ORDER_MARK = 0xfeff;

/** Turns the text of one stream into its messages. */
export class SseParser {
  readonly #onMessage: (message: Message) => void;
  readonly #onComment: (() => void) | undefined;
  #held: string[] = []; // the pieces of a line whose end has not come
  #fresh = true; // nothing of the stream has come
  #afterCr = false; // the last piece ended with a CR: a LF that follows belongs to it
  #id: string | undefined;
  #event = "";
  #data: string | undefined; // undefined while no line of data has come

  /** `onMessage` is called for each message, in order, `onComment` for each comment: heartbeats are comments. */
  constructor(onMessage: (message: Message) => void, onComment?: () => void) {
    this.#onMessage = onMessage;
    this.#onComment = onComment;
  }

  /** Takes the next piece of the text. */
  push(text: string): void {
    if (text === "") return;
    let from = 0;
    if (this.#fresh) {
      this.#fresh = false;
      if (text.charCodeAt(0) === BYTE_ORDER_MARK) from = 1;
    } else if (this.#afterCr) {
      this.#afterCr = false;
      if (text.charCodeAt(0) === LF) from = 1;
    }
    let lf = text.indexOf("\n", from);
    let cr = text.indexOf("\r", from);
    if (this.#held.length > 0) {
      if (lf < 0 && cr < 0) {
        this.#held.push(text);
        return;
      }
      const end = cr < 0 || (lf >= 0 && lf < cr) ? lf : cr;
      this.#held.push(text.slice(from, end));
      const line = this.#held.join("");
      this.#held = [];
      this.#line(line, 0, line.length);
      from = end + 1;
      if (end === cr) {
        if (from === text.length) this.#afterCr = true;
        else if (lf === from) from++;
        cr = text.indexOf("\r", from);
      }
      if (lf >= 0 && lf < from) lf = text.indexOf("\n", from);
    }
    if (cr < 0) from = this.#lines(text, from, lf);
    else from = this.#mixedLines(text, from, lf, cr);
    if (from < text.length) this.#held.push(from === 0 ? text : text.slice(from));
  }

  /** The lines of a text without CR, whose first line end is at `lf`; returns where the rest begins. */
  #lines(text: string, from: number, lf: number): number {
    while (lf >= 0) {
      const first = text.charCodeAt(from);
      if (first === 100 && this.#data === undefined && text.charCodeAt(lf + 1) === LF && isData(text, from)) {
        const id = this.#id; // a message whose data is one line, as most are
        const event = this.#event;
        this.#id = undefined;
        this.#event = "";
        this.#onMessage({ id, event: event === "" ? "message" : event, data: text.slice(after(text, from + 5, lf), lf) });
        from = lf + 2;
      } else {
        this.#line(text, from, lf);
        from = lf + 1;
      }
      lf = text.indexOf("\n", from);
    }
    return from;
  }

  /** The lines of a text with both kinds of line end; each kind is looked for only when its last one was passed. */
  #mixedLines(text: string, from: number, lf: number, cr: number): number {
    while (lf >= 0 || cr >= 0) {
      const end = cr < 0 || (lf >= 0 && lf < cr) ? lf : cr;
      this.#line(text, from, end);
      from = end + 1;
      if (end === cr) {
        if (from === text.length) this.#afterCr = true;
        else if (lf === from) from++;
        cr = text.indexOf("\r", from);
      }
      if (lf >= 0 && lf < from) lf = text.indexOf("\n", from);
    }
    return from;
  }

  #line(text: string, start: number, end: number): void {
    const first = text.charCodeAt(start);
    if (start === end) {
      this.#dispatch();
    } else if (first === 100 && isData(text, start)) {
      const value = text.slice(after(text, start + 5, end), end);
      this.#data = this.#data === undefined ? value : `${this.#data}\n${value}`;
    } else if (first === 105 && text.charCodeAt(start + 1) === 100 && text.charCodeAt(start + 2) === COLON) {
      const value = text.slice(after(text, start + 3, end), end);
      if (!value.includes("\0")) this.#id = value;
    } else if (first === 101 && isEvent(text, start)) {
      this.#event = text.slice(after(text, start + 6, end), end);
    } else if (first === COLON) {
      this.#onComment?.();
    } else {
      this.#bare(text.slice(start, end));
    }
  }

  /** A line of another form. A name without a colon is a field with an empty value; other fields are skipped. */
  #bare(line: string): void {
    if (line === "data") this.#data = this.#data === undefined ? "" : `${this.#data}\n`;
    else if (line === "id") this.#id = "";
    else if (line === "event") this.#event = "";
  }

  #dispatch(): void {
    const id = this.#id;
    const event = this.#event;
    const data = this.#data;
    this.#id = undefined;
    this.#event = "";
    this.#data = undefined;
    if (data !== undefined) this.#onMessage({ id, event: event === "" ? "message" : event, data });
  }
}

/** Whether `data:` stands at this place, which a `d` does. */
function isData(text: string, at: number): boolean {
  return (
    text.charCodeAt(at + 1) === 97 &&
    text.charCodeAt(at + 2) === 116 &&
    text.charCodeAt(at + 3) === 97 &&
    text.charCodeAt(at + 4) === COLON
  );
}

/** Whether `event:` stands at this place, which an `e` does. */
function isEvent(text: string, at: number): boolean {
  return (
    text.charCodeAt(at + 1) === 118 &&
    text.charCodeAt(at + 2) === 101 &&
    text.charCodeAt(at + 3) === 110 &&
    text.charCodeAt(at + 4) === 116 &&
    text.charCodeAt(at + 5) === COLON
  );
}

/** Where a field's value begins: behind one space, if there is one. */
function after(text: string, at: number, end: number): number {
  return at < end && text.charCodeAt(at) === SPACE ? at + 1 : at;
}
