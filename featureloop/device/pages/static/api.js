// Talking to the device: what changes something brings the session's secret along.

const form = document.querySelector('meta[name="form"]')?.content ?? '';

export class Trouble extends Error {}

async function answered(response) {
  if (response.status === 401) { window.location.assign('/login'); await new Promise(() => {}); }
  if (response.status === 204) return null;
  if (response.ok) return response.json();
  const said = await response.json().catch(() => ({}));
  throw new Trouble(said.error ?? `the device answered ${response.status}`);
}

async function ask(address, options) {
  try {
    return await fetch(address, { headers: { Accept: 'application/json', ...options?.headers }, ...options });
  } catch {
    throw new Trouble('the device does not answer; what was kept is safe');
  }
}

export const get = async (address) => answered(await ask(address));

export const post = async (address, body = {}) => answered(await ask(address, {
  method: 'POST', body: JSON.stringify(body),
  headers: { Accept: 'application/json', 'Content-Type': 'application/json', 'X-Form': form },
}));

export async function bytes(address) {
  const response = await ask(address);
  if (!response.ok) throw new Trouble(`the image can't be opened: ${response.status}`);
  return response;
}
