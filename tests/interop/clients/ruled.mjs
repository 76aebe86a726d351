// Through a ziggurat with the rules of `rules.yaml`: what the SDK makes of each thing that a rule can do.
import { assert, textOf, until } from './checks.mjs';

/** How a call ended; nothing that nobody waits for is rejected. */
const outcome = (call) => call.then((result) => ({ result }), (error) => ({ error }));

/** The SDK's error of a call that a rule or an operator refused; `done` says whether the server had been asked. */
const refusal = ({ error, result }, words, done = 'rejected') => {
  assert(error, `the call was answered: ${JSON.stringify(result)}`);
  const { code, message, data } = error;
  const said = `${error.name} ${code} ${message} ${JSON.stringify(data)}`;
  assert(code === 403 && message.includes(words), `not the refusal: ${said}`);
  assert(data?.source === 'proxy' && data.kind === 'blocked' && data.outcome === done, `not a refusal of the proxy: ${said}`);
};

const api = async ({ admin: { url, token } }, name, order) => {
  const response = await fetch(`${url}/admin/v1/${name}`, {
    method: order ? 'POST' : 'GET', body: order && JSON.stringify(order), signal: AbortSignal.timeout(20_000),
    headers: { authorization: `Bearer ${token}`, ...(order && { 'content-type': 'application/json' }) },
  });
  const said = await response.text();
  assert(response.ok, `${name}: ${response.status} ${said}`);
  return JSON.parse(said);
};

/** What waits because of this rule, as soon as it does. */
const held = (task, rule) => until(`a call that waits for ${rule}`, async () => (await api(task, 'paused')).find((waiting) => waiting.rule === rule));

/** Counts with progress: what was told of it until the call ended, and how it ended. `meanwhile` runs when all but the answer is there. */
const count = async ({ client }, steps, meanwhile) => {
  const seen = [];
  const call = outcome(client.callTool({ name: 'count', arguments: { steps } }, { onprogress: ({ progress, message }) => seen.push({ progress, message }) }));
  await meanwhile?.(() => seen.length === steps);
  const ended = await call;
  assert(seen.length === steps && seen.every(({ progress }, n) => progress === n + 1), `${steps} steps, seen ${JSON.stringify(seen)}`);
  assert(seen.every(({ message }) => message === 'counting'), `the rule for progress did nothing: ${JSON.stringify(seen[0])}`);
  assert(!JSON.stringify(ended.result ?? {}).includes('counted to'), `the server's words got through: ${JSON.stringify(ended.result)}`);
  return ended;
};
const counted = async ({ error, result }) => { assert(result, `the call failed: ${error?.message} ${JSON.stringify(error?.data)}`); return textOf(result); };

const items = {
  async blocked({ client }) {
    refusal(await outcome(client.callTool({ name: 'crash', arguments: {} })), 'nothing crashes here');
  },
  async mocked({ client }) {
    await client.listTools(); // so that the SDK knows what each answer should look like
    const weather = await client.callTool({ name: 'weather', arguments: { city: 'Zürich' } });
    assert(textOf(weather) === 'weather: always sunny in Zürich', `answered ${textOf(weather)}`);
    const stats = await client.callTool({ name: 'stats', arguments: { key: 'mock' } });
    assert(textOf(stats) === 'no numbers' && stats.structuredContent.result === 'no numbers', `answered ${JSON.stringify(stats)}`);
    const { error } = await outcome(client.callTool({ name: 'slow', arguments: { ms: 30_000, key: 'mock' } }));
    assert(error?.code === -32050 && error.message.includes('too slow') && error.data?.ms === 30_000, `not the error of the rule: ${error?.message}`);
  },
  async modified({ client }, { era }) {
    const text = textOf(await client.callTool({ name: 'echo', arguments: { message: 'modify' } }));
    assert(text === 'modified: grüße 🎉', `echoed ${text}`);
    const renamed = textOf(await client.callTool({ name: 'large', arguments: { bytes: 7 } }));
    assert(renamed === 'renamed', `the other tool answered ${renamed}`);
    if (era === 'legacy') return;
    const seen = JSON.parse(textOf(await client.callTool({ name: 'test_custom_headers', arguments: { region: 'zürich ', shard: 42, note: 'modify' } })));
    assert(seen.region === ' genève' && seen.shard === 43 && seen.note === 'modify', `arrived ${JSON.stringify(seen)}`);
  },
  async streamed(world, task) {
    const masked = await counted(await count(world, 20));
    assert(masked === 'counted', `answered ${masked}`);
    refusal(await count(world, 21), 'not for you', 'unknown');
    const mocked = await counted(await count(world, 22));
    assert(mocked === 'uncounted', `answered ${mocked}`);
    const waited = await counted(await count(world, 23, async (all) => {
      const { id, direction } = await held(task, 'held-answer');
      assert(direction === 'response', `a ${direction} waits`);
      await until('all progress, while the answer waits', all);
      await api(task, 'decide', { id, decision: 'resume' });
    }));
    assert(waited === 'decided', `answered ${waited}`);
  },
  async paused({ client }, task) {
    const hold = () => outcome(client.callTool({ name: 'echo', arguments: { message: 'hold' } }));
    let call = hold();
    await api(task, 'decide', { id: (await held(task, 'held')).id, decision: 'resume' });
    assert(await counted(await call) === 'hold', 'it went on as something else');
    call = hold();
    const { id, message } = await held(task, 'held');
    message.params.arguments.message = 'let go';
    await api(task, 'decide', { id, decision: 'resume', message: JSON.stringify(message) });
    assert(await counted(await call) === 'let go', 'it went on as it was');
  },
  async withdrawn({ client }, task) {
    const gives = new AbortController();
    const call = outcome(client.callTool({ name: 'echo', arguments: { message: 'hold' } }, { signal: gives.signal }));
    const { id } = await held(task, 'held');
    gives.abort('changed my mind');
    assert((await call).error, 'it was answered though given up');
    await until('nothing waits any more', async () => !(await api(task, 'paused')).some((waiting) => waiting.id === id));
  },
  async refused({ client }, task) {
    const call = outcome(client.callTool({ name: 'echo', arguments: { message: 'hold' } }));
    await api(task, 'decide', { id: (await held(task, 'held')).id, decision: 'block', reason: 'not today' });
    refusal(await call, 'not today');
  },
};

/** Each item, and then the session goes on. */
const goesOn = (item) => async (world, task) => {
  const { client, profile } = world;
  const before = client.info().session;
  await item(world, task);
  textOf(await client.callTool(profile.call));
  assert(client.info().session === before, 'the session changed');
  return 'goes on';
};
export const ruled = Object.fromEntries(Object.entries(items).map(([name, item]) => [name, goesOn(item)]));
