// What is being shared, asked for every few seconds, and its switch.

import { get, Trouble } from './api.js';

const el = (id) => document.getElementById(id);
const EVERY_MS = 2000;

function show(now) {
  el('share').classList.toggle('on', now.on);
  el('share').classList.toggle('off', !now.on);
  const texts = { state: now.state, why: now.why, today: now.today, waiting: now.waiting, learner: now.learner };
  for (const [id, text] of Object.entries(texts)) if (el(`share-${id}`).textContent !== text) el(`share-${id}`).textContent = text;
  el('share-learner').title = now.learner_why;
  trouble(now.trouble);
  el('share-only').hidden = Boolean(now.may);
  el('share-button').hidden = !now.may;
  el('share-button').textContent = now.may === 'on' ? 'Switch on' : 'Switch off';
  el('share-to').value = now.may ?? 'off';
  const rows = now.outcomes.map(({ count, words }) => {
    const row = document.createElement('li'), number = document.createElement('b');
    number.textContent = count.toLocaleString('en');
    row.append(number, ` ${words}`);
    return row;
  });
  if (now.dropped) rows.push(Object.assign(document.createElement('li'), { textContent: `${now.dropped.toLocaleString('en')} not provided: no room` }));
  if (!rows.length) rows.push(Object.assign(document.createElement('li'), { className: 'soft', textContent: 'none provided yet' }));
  el('share-outcomes').replaceChildren(...rows);
}

function trouble(text) {
  el('share-trouble').hidden = !text;
  if (el('share-trouble').textContent !== (text ?? '')) el('share-trouble').textContent = text ?? '';
}

async function turn(event) {
  event.preventDefault();
  el('share-button').disabled = true;
  try {
    const response = await fetch('/live/sharing', {
      method: 'POST', headers: { Accept: 'application/json' }, body: new URLSearchParams(new FormData(el('share-form'))),
    });
    const said = await response.json();
    if (response.ok) show(said); else trouble(said.error);
  } catch {
    trouble('The device does not answer, so nothing was switched.');
  } finally { el('share-button').disabled = false; }
}

export function watchSharing() {
  el('share-form').addEventListener('submit', turn);
  setInterval(async () => {
    if (document.hidden) return;
    try { show(await get('/live/sharing')); } catch (error) { if (error instanceof Trouble) trouble(error.message); else throw error; }
  }, EVERY_MS);
}
