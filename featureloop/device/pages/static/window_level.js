// Window and level of a frame of more than 8 bits: from its values to a picture, through a table.

export class WindowLevel {
  constructor(values, width, height, deep) {
    this.values = values; this.shown = deep;
    this.canvas = document.createElement('canvas');
    this.canvas.width = width; this.canvas.height = height;
    this.context = this.canvas.getContext('2d');
    this.picture = new ImageData(width, height);
    this.table = new Uint32Array(65536);
    this.reset();
  }

  reset() { this.set((this.shown.low + this.shown.high) / 2, this.shown.high - this.shown.low); }

  // Values from half a window below the level to half a window above it are shown from black to white.
  set(level, width) {
    this.level = level; this.width = Math.max(1, width);
    const low = level - this.width / 2;
    for (let v = 0; v < 65536; v += 1) {
      const grey = Math.min(255, Math.max(0, Math.round(((v - low) / this.width) * 255)));
      this.table[v] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    const words = new Uint32Array(this.picture.data.buffer);
    for (let i = 0; i < words.length; i += 1) words[i] = this.table[this.values[i]];
    this.context.putImageData(this.picture, 0, 0);
  }
}
