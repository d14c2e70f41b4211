// The review: fetch the least reliable case and the one after it, let a reader decide it by one key, keep that, go on.

import { bytes, get, post, Trouble } from './api.js';
import { BoxEditor } from './box_editor.js';
import { MaskEditor } from './mask_editor.js';
import { Viewport } from './viewport.js';
import { WindowLevel } from './window_level.js';

const el = (id) => document.getElementById(id);
const view = new Viewport(el('canvas'));
const EVERY_MS = 4000;
const GENERAL = [['Enter', 'confirm, as it is now'], ['X', 'no use: nothing of it leaves'], ['U', 'take the last answer back'],
  ['+ − 0', 'zoom; the wheel too'], ['H', 'hide what is drawn']];
let current = null, ahead = null, busy = false, toastEnds = 0, timer = 0;

// A case with its picture, ready to be shown.
async function opened(found) {
  if (!found) return null;
  const at = `/review/cases/${found.number}`;
  if (found.deep) {
    const values = new Uint16Array(await (await bytes(`${at}/values`)).arrayBuffer());
    const levels = new WindowLevel(values, found.width, found.height, found.deep);
    return { ...found, levels, picture: levels.canvas };
  }
  return { ...found, picture: await createImageBitmap(await (await bytes(`${at}/image`)).blob()) };
}

const fetchNext = async (after) => opened(await get(`/review/next${after ? `?after=${after}` : ''}`));

function fetchAhead() {
  const after = current?.number;
  ahead = after ? fetchNext(after).catch(() => null) : null;
}

function editorOf(found) {
  if (found.task === 'segmentation') return new MaskEditor(found.width, found.height, found.result.runs, refresh);
  if (found.task === 'detection') return new BoxEditor(found.width, found.height, found.result.boxes, found.labels, refresh);
  return new Classes(found);
}

// One class, or several: chosen by digits.
class Classes {
  constructor(found) { this.found = found; this.chosen = new Set(found.result.classes); this.edited = false; }

  static tools = [];

  static keys = [['1 to 9', 'the class']];

  get several() { return this.found.task === 'multilabel'; }

  choose(i) {
    if (i >= this.found.labels.length) return;
    if (!this.several) { this.chosen = new Set([i]); this.edited = true; decide(); return; }
    if (!this.chosen.delete(i)) this.chosen.add(i);
    this.edited = true; refresh();
  }

  load(answer) { this.chosen = new Set(answer.classes ?? []); this.edited = true; refresh(); }

  answer() { return { classes: [...this.chosen].sort((a, b) => a - b) }; }

  key(event) {
    if (!/^[0-9]$/.test(event.key)) return false;
    this.choose(Number(event.key) ? Number(event.key) - 1 : 9);
    return true;
  }

  released() {}
}

function show(found) {
  current = found;
  for (const id of ['result', 'actions', 'zoom']) el(id).hidden = !found;
  el('empty').hidden = Boolean(found);
  el('canvas').hidden = !found;
  for (const id of ['tools', 'choices', 'window', 'disputed']) el(id).hidden = true;
  clearTimeout(timer);
  if (!found) {
    view.clear();
    timer = setTimeout(() => start().catch(trouble), EVERY_MS);
    return;
  }
  found.editor = editorOf(found);
  found.since = performance.now();
  el('trust').textContent = found.reliability.toFixed(2);
  el('trust-bar').style.width = `${found.reliability * 100}%`;
  el('canvas').setAttribute('aria-label', `Frame of case ${found.number}: ${words(found)}`);
  el('canvas').classList.toggle('still', !found.editor.down);
  drawTools(found); drawClasses(found); drawAnswers(found); drawWindow(found); drawKeys(found);
  view.overlay = true;
  view.show(found.picture, found.editor);
  refresh();
}

function words(found) {
  const { result, labels } = found;
  if (found.task === 'segmentation') {
    const inside = result.runs.filter((_, i) => i % 2).reduce((a, b) => a + b, 0), share = (100 * inside) / (found.width * found.height);
    return inside ? `a lesion over ${share < 1 ? 'less than 1' : Math.round(share)}% of the frame` : 'no lesion';
  }
  if (found.task === 'detection') return result.boxes.length ? `${result.boxes.length} box${result.boxes.length > 1 ? 'es' : ''}` : 'no box';
  return result.classes.map((i) => labels[i]).join(', ') || 'none of the labels';
}

function refresh() {
  if (!current) return;
  const { editor } = current;
  el('what').textContent = `Recognized: ${words(current)}.`;
  el('confirm').firstElementChild.textContent = editor.edited ? 'Keep the change' : 'Confirm';
  for (const button of el('tools').querySelectorAll('[data-tool]')) button.setAttribute('aria-pressed', String(button.dataset.tool === editor.tool));
  for (const button of el('classes').children) {
    const i = Number(button.dataset.label), box = editor.boxes?.[editor.chosen];
    button.setAttribute('aria-pressed', String(editor.boxes ? box?.label === i : editor.chosen.has(i)));
  }
  view.draw();
}

function button(text, key, act) {
  const made = document.createElement('button'), name = document.createElement('span'), mark = document.createElement('kbd');
  name.textContent = text; mark.textContent = key; made.append(name, mark); made.type = 'button';
  made.setAttribute('aria-keyshortcuts', key === 'Del' ? 'Delete' : key);
  made.addEventListener('click', () => { act(); refresh(); el('canvas').focus({ preventScroll: true }); });
  return made;
}

function drawTools({ editor }) {
  const { tools } = editor.constructor;
  el('tools').replaceChildren(...tools.map(([tool, name, key]) => {
    const made = button(name, key, () => editor.choose(tool));
    made.dataset.tool = tool;
    return made;
  }));
  if (editor.back) {
    if (tools.length) el('tools').append(document.createElement('hr'), button('Smaller', '[', () => editor.resize(0.8)), button('Larger', ']', () => editor.resize(1.25)), document.createElement('hr'));
    el('tools').append(button('Undo', 'Z', () => editor.back()), button(tools.length ? 'Empty' : 'Remove', 'Del', () => editor.empty()));
  }
  el('tools').hidden = !editor.back;
}

function drawClasses(found) {
  const { editor } = found;
  if (found.task === 'segmentation' || (found.task === 'detection' && found.labels.length < 2)) return;
  el('choices').hidden = false;
  el('choices-title').textContent = { multilabel: 'What it shows', detection: 'What the chosen box shows' }[found.task] ?? 'The class';
  el('classes').replaceChildren(...found.labels.map((label, i) => {
    const made = document.createElement('button'), key = document.createElement('kbd'), name = document.createElement('span'), p = found.result.probabilities?.[i];
    key.textContent = i < 10 ? String((i + 1) % 10) : ''; name.textContent = label;
    made.append(key, name);
    if (p !== undefined) {
      const share = document.createElement('small'), line = document.createElement('i');
      share.textContent = `${Math.round(p * 100)}%`; line.style.width = `${p * 100}%`;
      made.append(share, line);
    }
    made.type = 'button'; made.dataset.label = i;
    made.addEventListener('click', () => { (editor.relabel ?? editor.choose).call(editor, i); });
    return made;
  }));
}

function drawAnswers(found) {
  if (!found.answers.length) return;
  el('disputed').hidden = false;
  el('answers').replaceChildren(...found.answers.map((answer, i) => {
    const said = answer.kind === 'rejected' ? 'of no use' : words({ ...found, result: answer });
    return button(`Reader ${'AB'[i] ?? i + 1}: ${said}`, 'JK'[i] ?? '', () => (answer.kind === 'rejected' ? decide('rejected') : found.editor.load(answer)));
  }));
}

function drawWindow(found) {
  const { levels } = found;
  if (!levels) return;
  el('window').hidden = false;
  const most = Math.max(found.deep.most, found.deep.high);
  el('level').max = most; el('width').max = most; el('level').min = 0; el('width').min = 1;
  const put = () => { el('level').value = levels.level; el('width').value = levels.width; };
  const set = () => { levels.set(Number(el('level').value), Number(el('width').value)); view.draw(); };
  put();
  el('level').oninput = set; el('width').oninput = set;
  el('window-reset').onclick = () => { levels.reset(); put(); view.draw(); };
}

function drawKeys({ editor }) {
  el('keys').replaceChildren(...[...GENERAL, ...editor.constructor.keys].flatMap(([keys, text]) => {
    const dt = document.createElement('dt'), dd = document.createElement('dd');
    for (const key of keys.split(' ')) { const mark = document.createElement('kbd'); mark.textContent = key; dt.append(mark, ' '); }
    dd.textContent = text;
    return [dt, dd];
  }));
}

function say(text, bad = false) {
  const toast = el('toast');
  toast.textContent = text; toast.hidden = false; toast.classList.toggle('bad', bad);
  clearTimeout(toastEnds);
  toastEnds = setTimeout(() => { toast.hidden = true; }, bad ? 8000 : 2500);
}

function trouble(error) {
  say(error instanceof Trouble ? error.message : `Something went wrong on this page: ${error}`, true);
  if (!(error instanceof Trouble)) console.error(error);
}

async function decide(kind) {
  if (!current || busy) return;
  busy = true;
  const { number, editor, since } = current, edited = editor.edited && kind !== 'rejected';
  const began = performance.now();
  const answer = edited ? { kind: 'changed', ...editor.answer() } : { kind: kind ?? 'confirmed' };
  try {
    const { kept } = await post(`/review/cases/${number}/answer?seconds=${((performance.now() - since) / 1000).toFixed(2)}`, answer);
    performance.measure('kept', { start: began });
    say(`Kept: ${kept.split(',')[0]}.`);
    await goOn();
    performance.measure('shown', { start: began });
  } catch (error) {
    trouble(error);
    if (error instanceof Trouble && /already/.test(error.message)) await goOn();
  } finally { busy = false; }
}

async function goOn() {
  const done = current?.number;
  const found = await ahead;
  show(found ?? await fetchNext(done));
  fetchAhead();
  progress();
}

async function takeBack() {
  if (busy) return;
  busy = true;
  try {
    const found = await opened(await post('/review/undo'));
    if (!found) { say('There is nothing to take back.'); return; }
    show(found); fetchAhead(); progress();
    say('Taken back: decide it again.');
  } catch (error) { trouble(error); } finally { busy = false; }
}

async function progress() {
  const found = await get('/review/progress').catch(() => null);
  if (!found) return;
  el('open').textContent = found.open; el('mine').textContent = found.mine;
  el('pace').textContent = found.median_s === null ? '–' : found.median_s.toFixed(1);
}

async function start() {
  show(await fetchNext());
  fetchAhead();
  await progress();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const on = event.target;
  if (on instanceof HTMLInputElement) return;
  if ((on instanceof HTMLButtonElement || on.tagName === 'SUMMARY' || on.tagName === 'A') && ['Enter', ' ', 'Tab'].includes(event.key)) return;
  if (event.key === 'Tab' && on !== el('canvas')) return;
  // Between two cases a key would mean the one that is already decided.
  if (busy) { if (event.key !== 'Tab') event.preventDefault(); return; }
  if (current?.editor.key(event)) { event.preventDefault(); refresh(); return; }
  const act = {
    Enter: () => decide(), x: () => decide('rejected'), u: takeBack, h: () => { view.overlay = !view.overlay; view.draw(); },
    '+': () => view.zoom(1.25), '=': () => view.zoom(1.25), '-': () => view.zoom(0.8), 0: () => view.fit(),
    j: () => el('answers').children[0]?.click(), k: () => el('answers').children[1]?.click(),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || event.repeat) return;
  event.preventDefault();
  act();
}

document.addEventListener('keydown', pressed);
document.addEventListener('keyup', (event) => current?.editor.released(event));
el('confirm').addEventListener('click', () => decide());
el('reject').addEventListener('click', () => decide('rejected'));
el('undo').addEventListener('click', takeBack);
el('larger').addEventListener('click', () => view.zoom(1.25));
el('smaller').addEventListener('click', () => view.zoom(0.8));
el('fit').addEventListener('click', () => view.fit());
start().catch(trouble);
