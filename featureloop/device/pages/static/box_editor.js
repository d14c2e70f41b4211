// Lesions' boxes: dragged by their corners, sides or inside, drawn anew, or moved by keys.

const LINE = '#3ce678', CHOSEN = '#ffd24a', UNDER = 'rgb(0 0 0 / .65)', NEAR = 9, LEAST = 0.004;

export class BoxEditor {
  constructor(width, height, boxes, labels, changed) {
    this.width = width; this.height = height; this.labels = labels; this.changed = changed;
    this.boxes = boxes.map((b) => ({ ...b })); this.chosen = this.boxes.length ? 0 : -1;
    this.past = []; this.edited = false; this.grip = null; this.scale = 1;
  }

  static tools = [];

  static keys = [['drag', 'a new box; a side or a corner of one; its inside moves it'], ['Tab', 'the next box'], ['N', 'a new box in the middle'],
    ['arrows', 'move the box; with Shift its size'], ['Del', 'remove the box'], ['1 to 9', 'what the box shows'], ['Z', 'undo a change']];

  answer() { return { boxes: this.boxes }; }

  load(answer) { this.keep(); this.boxes = (answer.boxes ?? []).map((b) => ({ ...b })); this.chosen = this.boxes.length ? 0 : -1; this.touch(); }

  keep() { this.past.push([this.boxes.map((b) => ({ ...b })), this.chosen]); }

  back() {
    const before = this.past.pop();
    if (!before) return false;
    [this.boxes, this.chosen] = before;
    this.edited = this.past.length > 0; this.changed();
    return true;
  }

  touch() { this.edited = true; this.changed(); }

  remove() {
    if (this.chosen < 0) return;
    this.keep(); this.boxes.splice(this.chosen, 1); this.chosen = this.boxes.length - 1; this.touch();
  }

  empty() { this.remove(); }

  relabel(label) {
    const box = this.boxes[this.chosen];
    if (!box || label >= this.labels.length) return;
    this.keep(); box.label = label; this.touch();
  }

  // What of which box is under a point: -1, 0 or 1 for its near side, inside and far side along x and y.
  under([x, y]) {
    const near = NEAR / this.scale, side = (v, low, size) => (Math.abs(v - low) < near ? -1 : Math.abs(v - low - size) < near ? 1 : 0);
    const order = [this.chosen, ...this.boxes.keys()].filter((i) => i >= 0);
    for (const i of order) {
      const b = this.boxes[i], [bx, by, bw, bh] = [b.x * this.width, b.y * this.height, b.width * this.width, b.height * this.height];
      if (x > bx - near && x < bx + bw + near && y > by - near && y < by + bh + near) return [i, side(x, bx, bw), side(y, by, bh)];
    }
    return null;
  }

  down(at) {
    const found = this.under(at);
    this.keep();
    if (found) [this.chosen] = found;
    else this.chosen = this.boxes.push({ label: 0, x: at[0] / this.width, y: at[1] / this.height, width: 0, height: 0 }) - 1;
    this.grip = { side: found ? found.slice(1) : [1, 1], last: at, fresh: !found, moved: false };
  }

  move(at, _event, pressed) {
    if (!pressed || !this.grip) return;
    const dx = (at[0] - this.grip.last[0]) / this.width, dy = (at[1] - this.grip.last[1]) / this.height;
    this.grip.last = at; this.grip.moved ||= Boolean(dx || dy);
    this.shift(this.boxes[this.chosen], this.grip.side, dx, dy);
  }

  shift(box, [sx, sy], dx, dy) {
    for (const [side, at, size, by] of [[sx, 'x', 'width', dx], [sy, 'y', 'height', dy]]) {
      if (side < 0) { box[at] += by; box[size] -= by; } else if (side > 0) box[size] += by;
      else if (!sx && !sy) box[at] += by;
    }
  }

  up() {
    if (!this.grip) return;
    const { moved } = this.grip;
    this.grip = null;
    if (!moved) { [this.boxes, this.chosen] = [this.past.pop()[0], this.chosen]; this.chosen = Math.min(this.chosen, this.boxes.length - 1); this.changed(); return; }
    this.tidy(); this.touch();
  }

  cancel() { if (this.grip) { this.grip = null; this.back(); } }

  // Sides in order and inside the image; boxes of no size are no boxes.
  tidy() {
    const inside = (v) => Math.min(1, Math.max(0, v));
    this.boxes = this.boxes.map((b) => {
      const [x0, x1] = [b.x, b.x + b.width].map(inside).sort((p, q) => p - q), [y0, y1] = [b.y, b.y + b.height].map(inside).sort((p, q) => p - q);
      return { ...b, x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    }).filter((b) => b.width > LEAST && b.height > LEAST);
    this.chosen = Math.min(this.chosen, this.boxes.length - 1);
  }

  key(event) {
    const box = this.boxes[this.chosen], by = 0.01;
    const step = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key];
    if (step) {
      if (!box) return true;
      this.keep(); this.shift(box, event.shiftKey ? [step[0] ? 1 : 0, step[1] ? 1 : 0] : [0, 0], ...step); this.tidy(); this.touch();
      return true;
    }
    if (/^[1-9]$/.test(event.key)) { this.relabel(Number(event.key) - 1); return true; }
    switch (event.key) {
      case 'Tab': if (this.boxes.length < 2 || event.shiftKey) return false; this.chosen = (this.chosen + 1) % this.boxes.length; return true;
      case 'n': case 'N': this.keep(); this.chosen = this.boxes.push({ label: 0, x: 0.4, y: 0.4, width: 0.2, height: 0.2 }) - 1; this.touch(); return true;
      case 'Delete': case 'Backspace': this.remove(); return true;
      case 'z': case 'Z': return this.back();
      default: return false;
    }
  }

  released() {}

  draw(c, scale) {
    this.scale = scale;
    c.font = `600 ${14 / scale}px system-ui, sans-serif`;
    this.boxes.forEach((b, i) => {
      const at = [b.x * this.width, b.y * this.height, b.width * this.width, b.height * this.height], colour = i === this.chosen ? CHOSEN : LINE;
      for (const [ink, wide] of [[UNDER, 5], [colour, 2.4]]) { c.strokeStyle = ink; c.lineWidth = wide / scale; c.strokeRect(...at); }
      const text = this.labels[b.label], wide = c.measureText(text).width + 10 / scale;
      c.fillStyle = UNDER; c.fillRect(at[0], at[1] - 20 / scale, wide, 20 / scale);
      c.fillStyle = colour; c.fillText(text, at[0] + 5 / scale, at[1] - 5 / scale);
    });
  }
}
