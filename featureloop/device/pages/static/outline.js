// Outlines of a mask: the lines at which its probabilities cross one half, interpolated between cells (marching squares).

const LEVEL = 127.5;

// From a cell's four corners (top left 1, top right 2, bottom right 4, bottom left 8) to the sides that a line crosses,
// from and to, with what is inside on its right. Sides: 0 top, 1 right, 2 bottom, 3 left.
const CROSSED = [
  [], [[0, 3]], [[1, 0]], [[1, 3]], [[2, 1]], [[0, 3], [2, 1]], [[2, 0]], [[2, 3]],
  [[3, 2]], [[0, 2]], [[1, 0], [3, 2]], [[1, 2]], [[3, 1]], [[0, 1]], [[3, 0]], [],
];

// Closed lines [[x, y, x, y, ...], ...], in shares of the frame, of a square mask: side * side bytes, row by row.
export function outlines(cells, side) {
  // Two rings around it: the cells' own values at the frame's edge, and zeros beyond, so that every line is closed.
  const n = side + 4;
  const at = (i) => (i < 1 ? -1e-6 : i === 1 ? 0 : i < n - 2 ? (i - 1.5) / side : i === n - 2 ? 1 : 1 + 1e-6);
  const within = (i) => Math.min(side - 1, Math.max(0, i - 2));
  const value = (x, y) => (x < 1 || y < 1 || x > n - 2 || y > n - 2 ? 0 : cells[within(y) * side + within(x)]);
  const place = Float64Array.from({ length: n }, (_, i) => at(i));
  // A side's name: 2 * (cell) for the one on top of a cell, + 1 for the one on its left.
  const side_ = (x, y, s) => (s === 0 ? 2 * (y * n + x) : s === 1 ? 2 * (y * n + x + 1) + 1 : s === 2 ? 2 * ((y + 1) * n + x) : 2 * (y * n + x) + 1);
  const next = new Map();
  for (let y = 0; y < n - 1; y += 1) {
    let left = (value(0, y) > LEVEL) + 8 * (value(0, y + 1) > LEVEL);
    for (let x = 0; x < n - 1; x += 1) {
      const top = value(x + 1, y) > LEVEL, bottom = value(x + 1, y + 1) > LEVEL, kind = left + 2 * top + 4 * bottom;
      for (const [from, to] of CROSSED[kind]) next.set(side_(x, y, from), side_(x, y, to));
      left = top + 8 * bottom;
    }
  }
  const point = (name) => {
    const cell = name >> 1, x = cell % n, y = (cell - x) / n, upright = name & 1;
    const a = value(x, y), b = upright ? value(x, y + 1) : value(x + 1, y), t = (LEVEL - a) / (b - a);
    return upright ? [place[x], place[y] + t * (place[y + 1] - place[y])] : [place[x] + t * (place[x + 1] - place[x]), place[y]];
  };
  const lines = [];
  while (next.size) {
    const line = [], [start] = next.keys();
    for (let name = start; name !== undefined; ) {
      line.push(...point(name));
      const following = next.get(name);
      next.delete(name);
      name = following === start ? undefined : following;
    }
    lines.push(line);
  }
  return lines;
}
