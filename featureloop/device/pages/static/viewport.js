// The stage: a picture that can be zoomed and moved, with an editor's drawing on top, drawn when something changed.

const MOST = 24;

export class Viewport {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.picture = null;
    this.editor = null;
    this.scale = 1; this.x = 0; this.y = 0;
    this.overlay = true;
    this.due = false;
    this.pointers = new Map();
    new ResizeObserver(() => { this.resize(); }).observe(canvas);
    canvas.addEventListener('wheel', (e) => this.wheel(e), { passive: false });
    canvas.addEventListener('pointerdown', (e) => this.down(e));
    canvas.addEventListener('pointermove', (e) => this.move(e));
    for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, (e) => this.up(e));
    canvas.addEventListener('contextmenu', (e) => e.preventDefault());
  }

  show(picture, editor) {
    this.picture = picture; this.editor = editor;
    this.resize(); this.fit();
  }

  clear() { this.picture = null; this.editor = null; this.draw(); }

  resize() {
    const box = this.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(box.width * ratio)), height = Math.max(1, Math.round(box.height * ratio));
    if (width === this.canvas.width && height === this.canvas.height) return;
    this.canvas.width = width; this.canvas.height = height;
    this.fit();
  }

  fit() {
    if (!this.picture) { this.draw(); return; }
    const { width, height } = this.canvas;
    this.scale = Math.min(width / this.picture.width, height / this.picture.height);
    this.x = (width - this.picture.width * this.scale) / 2;
    this.y = (height - this.picture.height * this.scale) / 2;
    this.least = this.scale / 2;
    this.draw();
  }

  zoom(by, at = [this.canvas.width / 2, this.canvas.height / 2]) {
    const next = Math.min(MOST, Math.max(this.least, this.scale * by)), real = next / this.scale;
    this.x = at[0] - (at[0] - this.x) * real; this.y = at[1] - (at[1] - this.y) * real;
    this.scale = next;
    this.draw();
  }

  pan(dx, dy) { this.x += dx; this.y += dy; this.draw(); }

  // Where an event stands on the canvas, and in the picture.
  place(event) {
    const box = this.canvas.getBoundingClientRect(), ratio = this.canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  inPicture([x, y]) { return [(x - this.x) / this.scale, (y - this.y) / this.scale]; }

  wheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), this.place(event));
  }

  down(event) {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.place(event));
    if (this.pointers.size === 2) { this.editor?.cancel?.(); return; }
    if (event.button === 0 && this.editor?.down) this.editor.down(this.inPicture(this.place(event)), event);
    this.draw();
  }

  move(event) {
    const at = this.place(event), before = this.pointers.get(event.pointerId);
    if (before && this.pointers.size === 2) this.pinch(event.pointerId, before, at);
    else if (before && (event.buttons & 6 || !this.editor?.down)) this.pan(at[0] - before[0], at[1] - before[1]);
    else if (this.editor?.move) { this.editor.move(this.inPicture(at), event, Boolean(before)); this.draw(); }
    if (before) this.pointers.set(event.pointerId, at);
  }

  pinch(id, before, at) {
    const other = [...this.pointers].find(([key]) => key !== id)[1];
    const was = Math.hypot(before[0] - other[0], before[1] - other[1]), is = Math.hypot(at[0] - other[0], at[1] - other[1]);
    this.pan((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
    if (was > 0) this.zoom(is / was, [(at[0] + other[0]) / 2, (at[1] + other[1]) / 2]);
  }

  up(event) {
    const only = this.pointers.size === 1;
    this.pointers.delete(event.pointerId);
    if (only && event.button === 0) this.editor?.up?.(this.inPicture(this.place(event)), event);
    this.draw();
  }

  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => { this.due = false; this.drawNow(); });
  }

  drawNow() {
    const { context: c, canvas } = this;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.picture) return;
    c.setTransform(this.scale, 0, 0, this.scale, this.x, this.y);
    c.imageSmoothingEnabled = this.scale < 3;
    c.drawImage(this.picture, 0, 0);
    if (this.overlay) this.editor?.draw?.(c, this.scale);
  }
}
