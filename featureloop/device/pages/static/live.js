// The live page: ask for the newest frame when the last one is decoded, draw it with what was recognized, say how it is.

import { outlines } from './outline.js';
import { watchSharing } from './sharing.js';

const el = (id) => document.getElementById(id);
const canvas = el('canvas'), context = canvas.getContext('2d', { alpha: false });
const WORDS_EVERY_MS = 200, RATE_MS = 2000, AGAIN_MS = [500, 1000, 2000, 5000];
const SURE = '#3ce678', UNSURE = '#ffb648', DARK = 'rgb(0 0 0 / .55)';
const UNLIKE = 'unlike the founding frames';
const CLOSED = { 4401: () => window.location.assign('/login'), 4429: () => nothing('Too many pages look at this source. Close one of them.') };
const decoder = new TextDecoder();
let line = null, waits = null, last = null, tries = 0, wordsAt = -WORDS_EVERY_MS, wordsDue = null, asked = false;
const drawnAt = [];

// A message: the header's length, the header, the masks' cells, the JPEG.
async function opened(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const found = JSON.parse(decoder.decode(new Uint8Array(buffer, 4, length)));
  let offset = 4 + length;
  for (const result of found.results) {
    if (!result.side) continue;
    result.lines = outlines(new Uint8Array(buffer, offset, result.side ** 2), result.side);
    offset += result.side ** 2;
  }
  found.picture = await createImageBitmap(new Blob([new Uint8Array(buffer, offset)], { type: 'image/jpeg' }));
  return found;
}

function connect() {
  line = new WebSocket(`${window.location.protocol === 'https:' ? 'wss' : 'ws'}://${window.location.host}/live/frames`);
  line.binaryType = 'arraybuffer';
  line.onopen = () => { tries = 0; ask(); };
  line.onmessage = ({ data }) => { asked = false; (typeof data === 'string' ? quiet(JSON.parse(data)) : take(data)).catch(console.error); };
  line.onclose = ({ code }) => {
    asked = false;
    if (CLOSED[code]) { CLOSED[code](); return; }
    nothing('The device does not answer. Trying again.');
    setTimeout(connect, AGAIN_MS[Math.min(tries, AGAIN_MS.length - 1)]);
    tries += 1;
  };
}

// A page that nobody sees asks for nothing, so nothing is made for it.
function ask() {
  if (asked || document.hidden || line.readyState !== WebSocket.OPEN) return;
  asked = true;
  line.send('next');
}

async function take(buffer) {
  const came = performance.now(), found = await opened(buffer);
  ask();
  found.came = came;
  waits?.picture.close();
  if (!waits) requestAnimationFrame(draw);
  waits = found;
}

async function quiet(found) {
  if (found.trouble) nothing(`${found.source}: ${found.trouble}. It is tried again until it comes back.`, 'The source broke');
  if (performance.now() - (drawnAt.at(-1) ?? 0) > RATE_MS) el('drawn').textContent = '0';
  ask();
}

function nothing(why, title = 'No new frame') {
  el('nothing').hidden = false;
  el('nothing').querySelector('h2').textContent = title;
  el('nothing-why').textContent = why;
}

function draw() {
  if (!waits) return;
  last?.picture.close();
  last = waits; waits = null;
  paint();
  const now = performance.now();
  drawnAt.push(now);
  while (drawnAt[0] < now - RATE_MS) drawnAt.shift();
  canvas.dataset.number = last.number;
  canvas.dataset.drawn = Number(canvas.dataset.drawn ?? 0) + 1;
  if (last.age_ms !== null) last.total_ms = last.age_ms + now - last.came;
  // Of the last frame before a pause the words come, too.
  wordsDue ??= setTimeout(() => { wordsDue = null; wordsAt = performance.now(); say(last); }, Math.max(0, wordsAt + WORDS_EVERY_MS - now));
}

function paint() {
  const { picture, results } = last, { width, height } = canvas;
  const scale = Math.min(width / picture.width, height / picture.height), w = picture.width * scale, h = picture.height * scale;
  const x = (width - w) / 2, y = (height - h) / 2, pen = Math.max(2, Math.round(Math.min(w, h) / 260));
  if (x > 0.5 || y > 0.5) { context.fillStyle = '#060a0b'; context.fillRect(0, 0, width, height); }
  context.drawImage(picture, x, y, w, h);
  context.save();
  context.beginPath(); context.rect(x, y, w, h); context.clip();
  for (const result of results) {
    const colour = result.doubtful ? UNSURE : SURE;
    context.setLineDash(result.doubtful ? [4 * pen, 3 * pen] : []);
    if (result.lines) paintMask(result.lines, { x, y, w, h, pen, colour });
    if (result.boxes) for (const box of result.boxes) paintBox(box, { x, y, w, h, pen, colour });
  }
  context.restore();
}

function paintMask(lines, { x, y, w, h, pen, colour }) {
  const path = new Path2D();
  for (const points of lines) {
    for (let i = 0; i < points.length; i += 2) path[i ? 'lineTo' : 'moveTo'](x + points[i] * w, y + points[i + 1] * h);
    path.closePath();
  }
  context.globalAlpha = 0.16; context.fillStyle = colour; context.fill(path, 'evenodd'); context.globalAlpha = 1;
  context.lineJoin = 'round';
  stroke(path, pen, colour);
}

function stroke(path, pen, colour) {
  context.lineWidth = 2 * pen; context.strokeStyle = DARK; context.stroke(path);
  context.lineWidth = pen; context.strokeStyle = colour; context.stroke(path);
}

function paintBox({ corners: [x0, y0, x1, y1], label, score }, { x, y, w, h, pen, colour }) {
  const path = new Path2D(), left = x + x0 * w, top = y + y0 * h, text = `${label} ${score.toFixed(2)}`, size = 7 * pen;
  path.rect(left, top, (x1 - x0) * w, (y1 - y0) * h);
  stroke(path, pen, colour);
  context.font = `600 ${size}px system-ui, sans-serif`;
  const wide = context.measureText(text).width + size * 0.8, above = Math.max(y, top - 1.45 * size);
  context.fillStyle = 'rgb(0 0 0 / .72)'; context.fillRect(left, above, wide, 1.45 * size);
  context.fillStyle = colour; context.textBaseline = 'middle'; context.fillText(text, left + size * 0.4, above + 0.75 * size);
}

// Figures and words change a few times a second: faster can't be read, and costs frames.
function say(found) {
  el('nothing').hidden = true;
  el('source').textContent = found.source ?? found.name;
  const span = drawnAt.at(-1) - drawnAt[0];
  el('drawn').textContent = span > 0 ? ((1000 * (drawnAt.length - 1)) / span).toFixed(0) : '–';
  el('late').textContent = found.total_ms === undefined ? '–' : Math.round(found.total_ms);
  el('dropped').textContent = found.dropped === undefined ? '–' : found.dropped.toLocaleString('en');
  const words = found.results.map((result) => `${result.words}, reliability ${result.reliability.toFixed(2)}${result.doubtful ? ', doubtful' : ''}${result.unlike ? `, ${UNLIKE}` : ''}`);
  canvas.setAttribute('aria-label', `Unverified: ${words.join('; ')}`);
  const list = el('results');
  if (list.dataset.tasks !== found.results.map(({ task }) => task).join()) makeResults(found.results);
  found.results.forEach((result, i) => sayResult(list.children[i], result, found.results.length > 1));
}

function made(tag, name, text = '') {
  const element = document.createElement(tag);
  element.className = name; element.textContent = text;
  return element;
}

function makeResults(results) {
  const list = el('results');
  list.dataset.tasks = results.map(({ task }) => task).join();
  list.replaceChildren(...results.map(() => {
    const block = made('div', 'found'), trust = made('div', 'trust'), bar = made('div', 'gauge');
    bar.setAttribute('role', 'meter'); bar.setAttribute('aria-label', 'Reliability');
    bar.setAttribute('aria-valuemin', '0'); bar.setAttribute('aria-valuemax', '1');
    bar.append(made('i', 'fill'), made('i', 'tick'));
    trust.append(made('b', 'value'), made('span', 'verdict'));
    block.append(made('small', 'task'), made('p', 'words'), trust, bar, made('small', 'limit'), made('p', 'unlike', `≠ This frame is ${UNLIKE}`), made('div', 'labels'));
    return block;
  }));
}

function sayResult(block, result, several) {
  const part = (name) => block.querySelector(`.${name}`);
  part('task').textContent = several ? result.task : ''; part('task').hidden = !several;
  part('words').textContent = result.words;
  part('value').textContent = result.reliability.toFixed(2);
  part('verdict').textContent = result.doubtful ? '▲ doubtful' : '✓ above the threshold';
  block.classList.toggle('doubtful', result.doubtful);
  const bar = part('gauge');
  bar.setAttribute('aria-valuenow', result.reliability); bar.setAttribute('aria-valuetext', `${result.reliability.toFixed(2)}${result.doubtful ? ', doubtful' : ''}`);
  part('fill').style.width = `${100 * result.reliability}%`;
  part('tick').style.left = `${100 * result.threshold}%`;
  part('limit').textContent = `Reliability; doubtful below ${result.threshold.toFixed(2)}`;
  part('unlike').hidden = !result.unlike;
  const labels = part('labels');
  labels.replaceChildren(...(result.labels ?? []).slice().sort((a, b) => b[1] - a[1]).slice(0, 5).map(([name, p]) => {
    const row = made('div', 'label-row'), track = made('i', 'track'), share = made('i', 'share');
    share.style.width = `${100 * p}%`; track.append(share);
    row.append(made('span', '', name), track, made('small', '', `${Math.round(100 * p)}%`));
    return row;
  }));
}

function resize() {
  const box = canvas.getBoundingClientRect(), ratio = Math.min(2, window.devicePixelRatio || 1);
  canvas.width = Math.max(1, Math.round(box.width * ratio)); canvas.height = Math.max(1, Math.round(box.height * ratio));
  if (last) paint();
}

new ResizeObserver(resize).observe(canvas);
document.addEventListener('visibilitychange', () => ask());
watchSharing();
connect();
