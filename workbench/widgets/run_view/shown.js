// What a view shows of a run's output: the rows that pass its filter, by place, with the bodies that are unfolded.

const WINDOW = 300; // rows that are asked for at once
const PATIENCE = 3000; // milliseconds, then a question is asked again

// Without a filter a row's place is its number; with one, the kernel tells which row has which place.
class Shown {
  constructor(lines, { changed, connected }) {
    this.lines = lines;
    this.changed = changed;
    this.connected = connected;
    this.hidden = new Set();
    this.wanted = "";
    this.forget();
  }
  // Nothing is known any more: the filter is another one, or the output.
  forget() {
    this.generation = this.lines.generation;
    this.filter = { hidden: [...this.hidden], wanted: this.wanted };
    this.filtered = this.hidden.size > 0 || this.wanted !== "";
    this.numbers = new Map(); // by place
    this.places = new Map(); // by number
    this.folds = []; // { place, number, lines } of what is unfolded, by place
    this.known = !this.filtered;
    this.whole = !this.filtered;
    this.start = 0;
    this.stop = 0;
    this.before = this.begin;
    this.lines.forgo(this.asking);
    this.asking = 0;
    this.refreshed = 0;
  }
  get begin() {
    return this.filtered ? this.start : this.lines.forgotten;
  }
  get end() {
    return this.filtered ? this.stop : this.lines.total;
  }
  get length() {
    return this.end - this.begin + this.folds.reduce((sum, fold) => sum + fold.lines.length, 0);
  }
  // How many lines at the beginning are gone since the last call.
  update() {
    if (this.generation !== this.lines.generation) this.forget();
    let gone = this.begin - this.before;
    for (const fold of this.folds) if (fold.place < this.begin) gone += fold.lines.length;
    this.folds = this.folds.filter((fold) => fold.place >= this.begin);
    this.before = this.begin;
    return gone;
  }
  number(place) {
    return this.filtered ? this.numbers.get(place) : place;
  }
  place(number) {
    return this.filtered ? this.places.get(number) : number;
  }
  row(place) {
    const number = this.number(place);
    return number === undefined ? undefined : this.lines.look(number);
  }
  // What stands in a line of the view: a row, by its place, or a line of its body.
  at(index) {
    let more = 0;
    for (const fold of this.folds) {
      const head = fold.place - this.begin + more;
      if (index <= head) break;
      if (index <= head + fold.lines.length) return { place: fold.place, line: index - head - 1, text: fold.lines[index - head - 1] };
      more += fold.lines.length;
    }
    return { place: this.begin + index - more, line: -1 };
  }
  // In which line of the view a row stands.
  index(place) {
    const above = this.folds.filter((fold) => fold.place < place);
    return place - this.begin + above.reduce((sum, fold) => sum + fold.lines.length, 0);
  }
  unfolded(number) {
    return this.folds.some((fold) => fold.number === number);
  }
  fold(place, number) {
    if (this.unfolded(number)) {
      this.folds = this.folds.filter((fold) => fold.number !== number);
      return this.changed();
    }
    const { filter } = this;
    this.lines.ask({ type: "body", number }, (_, text) => {
      if (filter !== this.filter || this.unfolded(number) || !text) return;
      this.folds.push({ place: this.place(number) ?? place, number, lines: text.split("\n") });
      this.folds.sort((one, other) => one.place - other.place);
      this.changed();
    }, this.connected());
  }
  // Ask for the rows that are missing among these places, if the kernel is there to tell them.
  need(from, to) {
    for (let place = Math.max(from, this.begin); place < Math.min(to, this.end); place += 1) {
      const number = this.number(place);
      if (number !== undefined && this.lines.rows.has(number)) continue;
      if (this.connected()) this.request(Math.max(this.begin, place - WINDOW / 3));
      return;
    }
  }
  // Ask how many rows pass the filter by now, and for those from a place on; -1 is for the last ones.
  refresh(place) {
    if (this.refreshed !== this.lines.seen || !this.whole) this.request(place);
  }
  request(from) {
    const now = performance.now();
    if (this.asking && now - this.askedAt < PATIENCE) return;
    this.lines.forgo(this.asking);
    const { filter, lines } = this;
    const { seen } = lines;
    this.askedAt = now;
    this.asking = lines.ask({ type: "rows", ...filter, from, count: WINDOW }, (message, numbers) => {
      if (filter !== this.filter) return;
      this.asking = 0;
      this.refreshed = seen;
      this.learn(message, numbers);
      if (!this.whole) this.request(from);
      this.changed();
    }, this.connected());
  }
  learn({ from, begin, end, whole }, numbers) {
    this.known = true;
    this.whole = whole;
    if (!this.filtered) return;
    this.start = begin;
    this.stop = end;
    if (this.numbers.size > 2 * HELD) {
      this.numbers.clear();
      this.places.clear();
    }
    numbers.forEach((number, index) => {
      this.numbers.set(from + index, number);
      this.places.set(number, from + index);
    });
    for (const fold of this.folds) fold.place = this.places.get(fold.number) ?? fold.place;
  }
}
