// A lesion's mask: brush, eraser and polygon, by pointer or by keys. Masks travel as runs: outside, inside, outside, ...

const LINE = '#3ce678', UNDER = 'rgb(0 0 0 / .65)', MOST_UNDO = 30;

export class MaskEditor {
  constructor(width, height, runs, changed) {
    this.width = width; this.height = height; this.changed = changed;
    this.mask = surface(width, height); this.edge = surface(width, height);
    this.tool = 'brush'; this.size = Math.max(4, Math.round(Math.min(width, height) / 24));
    this.points = []; this.cursor = null; this.last = null; this.painting = false;
    this.past = []; this.edited = false;
    this.put(runs);
  }

  static tools = [['brush', 'Brush', 'B'], ['eraser', 'Eraser', 'E'], ['polygon', 'Polygon', 'P']];

  static keys = [['B E P', 'brush, eraser, polygon'], ['[ ]', 'smaller, larger brush'], ['arrows', 'move the cursor; with Shift by one pixel'],
    ['Space', 'paint at the cursor; a corner of the polygon'], ['Enter', 'close the polygon; with Shift it is cut out'], ['Z', 'undo a stroke'], ['Del', 'empty the mask']];

  // Replace the whole mask.
  put(runs) {
    const picture = new ImageData(this.width, this.height), words = new Uint32Array(picture.data.buffer);
    let at = 0;
    runs.forEach((count, i) => { if (i % 2) words.fill(0xff78e63c, at, at + count); at += count; });
    this.mask.context.putImageData(picture, 0, 0);
    this.outline();
  }

  runs() {
    const words = new Uint32Array(this.mask.context.getImageData(0, 0, this.width, this.height).data.buffer), out = [];
    let inside = false, count = 0;
    for (let i = 0; i < words.length; i += 1) {
      const here = words[i] >>> 24 > 127;
      if (here !== inside) { out.push(count); count = 0; inside = here; }
      count += 1;
    }
    out.push(count);
    return out;
  }

  answer() { return { runs: this.runs() }; }

  load(answer) { this.keep(); this.put(answer.runs ?? [this.width * this.height]); this.touch(); }

  choose(tool) { this.tool = tool; this.points = []; }

  empty() { this.keep(); this.mask.context.clearRect(0, 0, this.width, this.height); this.touch(); }

  resize(by) { this.size = Math.min(200, Math.max(1, Math.round(this.size * by + Math.sign(by - 1)))); }

  keep() {
    this.past.push(this.mask.context.getImageData(0, 0, this.width, this.height));
    if (this.past.length > MOST_UNDO) this.past.shift();
  }

  back() {
    if (this.points.length) { this.points.pop(); return true; }
    const before = this.past.pop();
    if (!before) return false;
    this.mask.context.putImageData(before, 0, 0);
    this.edited = this.past.length > 0;
    this.outline(); this.changed();
    return true;
  }

  touch() { this.edited = true; this.outline(); this.changed(); }

  stroke(from, to) {
    const c = this.mask.context;
    c.globalCompositeOperation = this.tool === 'eraser' ? 'destination-out' : 'source-over';
    c.strokeStyle = c.fillStyle = LINE; c.lineCap = c.lineJoin = 'round'; c.lineWidth = this.size * 2;
    c.beginPath(); c.moveTo(...from); c.lineTo(to[0] + 0.01, to[1]); c.stroke();
    c.globalCompositeOperation = 'source-over';
  }

  close(cut) {
    if (this.points.length < 3) { this.points = []; return; }
    this.keep();
    const c = this.mask.context;
    c.globalCompositeOperation = cut ? 'destination-out' : 'source-over';
    c.fillStyle = LINE; c.beginPath();
    this.points.forEach((p, i) => (i ? c.lineTo(...p) : c.moveTo(...p)));
    c.closePath(); c.fill();
    c.globalCompositeOperation = 'source-over';
    this.points = [];
    this.touch();
  }

  down(at, event) {
    this.cursor = at;
    if (this.tool === 'polygon') {
      const first = this.points[0];
      if (first && this.points.length > 2 && Math.hypot(first[0] - at[0], first[1] - at[1]) < this.size / 2 + 4) this.close(event.shiftKey);
      else this.points.push(at);
      return;
    }
    this.keep(); this.painting = true; this.last = at;
    this.stroke(at, at);
  }

  move(at, _event, pressed) {
    this.cursor = at;
    if (!pressed || !this.painting) return;
    this.stroke(this.last, at); this.last = at;
  }

  up() { if (this.painting) { this.painting = false; this.touch(); } }

  cancel() { if (this.painting) { this.painting = false; this.back(); } }

  // Keys that belong to drawing; true where one did something.
  key(event) {
    const tool = { b: 'brush', e: 'eraser', p: 'polygon' }[event.key.toLowerCase()];
    if (tool) { this.choose(tool); this.changed(); return true; }
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) { this.step(step, event.shiftKey ? 1 : Math.max(2, this.size / 2)); return true; }
    switch (event.key) {
      case '[': this.resize(0.8); return true;
      case ']': this.resize(1.25); return true;
      case 'z': case 'Z': return this.back();
      case ' ': this.stamp(); return true;
      case 'Delete': this.empty(); return true;
      case 'Escape': this.points = []; return true;
      case 'Enter': if (!this.points.length) return false; this.close(event.shiftKey); return true;
      default: return false;
    }
  }

  step([dx, dy], by) {
    const [x, y] = this.cursor ?? [this.width / 2, this.height / 2];
    this.cursor = [Math.min(this.width, Math.max(0, x + dx * by)), Math.min(this.height, Math.max(0, y + dy * by))];
    if (this.held) { this.stroke([x, y], this.cursor); this.touch(); }
  }

  stamp() {
    this.cursor ??= [this.width / 2, this.height / 2];
    if (this.tool === 'polygon') { this.points.push([...this.cursor]); return; }
    if (this.held) return;
    this.held = true; this.keep();
    this.stroke(this.cursor, this.cursor); this.touch();
  }

  released(event) { if (event.key === ' ') this.held = false; }

  // The outline is what the mask covers when it is moved a little, without what it covers itself.
  outline() {
    const c = this.edge.context, wide = Math.max(1.5, Math.min(this.width, this.height) / 240);
    c.globalCompositeOperation = 'source-over'; c.clearRect(0, 0, this.width, this.height);
    for (let i = 0; i < 12; i += 1) {
      const turn = (i * Math.PI) / 6;
      c.drawImage(this.mask.canvas, Math.cos(turn) * wide, Math.sin(turn) * wide);
    }
    c.globalCompositeOperation = 'destination-out'; c.drawImage(this.mask.canvas, 0, 0);
  }

  draw(c, scale) {
    if (this.painting || this.held) this.outline();
    c.globalAlpha = 0.16; c.drawImage(this.mask.canvas, 0, 0);
    c.globalAlpha = 1; c.drawImage(this.edge.canvas, 0, 0);
    if (this.points.length) polyline(c, this.points, this.cursor, scale);
    if (this.cursor) this.crosshair(c, scale);
  }

  crosshair(c, scale) {
    const [x, y] = this.cursor;
    for (const [colour, wide] of [[UNDER, 3], ['#fff', 1.4]]) {
      c.strokeStyle = colour; c.lineWidth = wide / scale; c.beginPath();
      if (this.tool !== 'polygon') c.arc(x, y, this.size, 0, 7);
      c.moveTo(x - 5 / scale, y); c.lineTo(x + 5 / scale, y); c.moveTo(x, y - 5 / scale); c.lineTo(x, y + 5 / scale);
      c.stroke();
    }
  }
}

function surface(width, height) {
  const canvas = document.createElement('canvas');
  canvas.width = width; canvas.height = height;
  return { canvas, context: canvas.getContext('2d', { willReadFrequently: true }) };
}

function polyline(c, points, cursor, scale) {
  for (const [colour, wide] of [[UNDER, 4], [LINE, 2]]) {
    c.strokeStyle = colour; c.lineWidth = wide / scale; c.beginPath();
    [...points, ...(cursor ? [cursor] : [])].forEach((p, i) => (i ? c.lineTo(...p) : c.moveTo(...p)));
    c.stroke();
  }
  c.fillStyle = LINE;
  for (const [x, y] of points) { c.beginPath(); c.arc(x, y, 4 / scale, 0, 7); c.fill(); }
}
