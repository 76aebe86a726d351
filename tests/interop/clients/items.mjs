// What every TypeScript client is asked to do. `ts1.mjs` and `ts2.mjs` bring the SDK.
// The task comes as JSON in the first argument; each item answers with one line of JSON on stdout: {item, ok, got, error}.
import { createHash, randomUUID } from 'node:crypto';
import { assert, pause, textOf, until } from './checks.mjs';
import { ruled } from './ruled.mjs';

const WATCHED = 'test://watched-resource';
const FIXTURE = {
  call: { name: 'echo', arguments: { message: 'grüße 🎉 "\\u2028" 9007199254740993' } },
  large: { name: 'large', arguments: { bytes: 2 << 20 } },
  progress: { name: 'count', arguments: { steps: 200 } },
  steps: 200,
  slow: (key) => ({ name: 'slow', arguments: { ms: 30_000, key } }),
  log: { name: 'test_tool_with_logging', arguments: {} },
  logs: 3,
  sampling: { legacy: { name: 'test_sampling', arguments: { prompt: 'well?' } }, modern: { name: 'test_input_required_result_sampling', arguments: {} } },
  elicitation: {
    legacy: { name: 'test_elicitation', arguments: { message: 'who?' } }, modern: { name: 'test_input_required_result_elicitation', arguments: {} },
  },
  watch: WATCHED,
  touch: { name: 'touch', arguments: { uri: WATCHED } },
  again: true, // each touch is one update; the other server repeats by itself
  stats: true,
};
const EVERYTHING = {
  call: { name: 'echo', arguments: { message: FIXTURE.call.arguments.message } },
  listed: 'trigger-sampling-request', // registered only after the server has seen the client's capabilities
  progress: { name: 'trigger-long-running-operation', arguments: { duration: 0.5, steps: 5 } },
  steps: 5,
  slow: () => ({ name: 'trigger-long-running-operation', arguments: { duration: 30, steps: 60 } }),
  log: { name: 'toggle-simulated-logging', arguments: {} },
  logs: 1,
  sampling: { legacy: { name: 'trigger-sampling-request', arguments: { prompt: 'well?' } } },
  elicitation: { legacy: { name: 'trigger-elicitation-request', arguments: {} } },
  watch: 'demo://resource/dynamic/text/1',
  touch: { name: 'toggle-subscriber-updates', arguments: {} },
};

const alive = (pid) => { try { process.kill(pid, 0); return true; } catch { return false; } };

/** What the client was told and asked; the adapter feeds it, the items read it. */
const newInbox = () => ({ logs: [], updates: [], changes: 0, roots: 0, sampled: 0, elicited: 0 });

const items = {
  async connect({ client }, { era }) {
    const { version, server } = client.info();
    assert(era === 'modern' ? version >= '2026' : version < '2026', `negotiated ${version}`);
    return { version, server };
  },
  async list({ client, profile }) {
    const tools = await until('the whole tool list', async () => {
      const { tools } = await client.listTools();
      return (!profile.listed || tools.some(({ name }) => name === profile.listed)) && tools;
    });
    return { count: tools.length, hash: createHash('sha256').update(JSON.stringify(tools)).digest('hex') };
  },
  async call({ client, profile }) {
    const text = textOf(await client.callTool(profile.call));
    assert(text.includes(profile.call.arguments.message), `echoed ${text}`);
    return text;
  },
  async large({ client, profile }) {
    const { length } = textOf(await client.callTool(profile.large));
    assert(length === profile.large.arguments.bytes, `${length} bytes`);
    return length;
  },
  // A tool whose arguments are mirrored in headers, which the SDK learns from the list: before that, it gets a refusal and lists by itself.
  async unlisted({ client }) {
    return textOf(await client.callTool({ name: 'test_custom_headers', arguments: { region: 'zürich ', shard: 42, note: 'free' } }));
  },
  async headers({ client }) {
    return textOf(await client.callTool({ name: 'test_custom_headers', arguments: { region: 'zürich ', shard: 42, note: 'free' } }));
  },
  async concurrent({ client, profile }) {
    const one = async (n) => textOf(await client.callTool({ ...profile.call, arguments: { message: `message ${n}` } }));
    const texts = await Promise.all(Array.from({ length: 20 }, (_, n) => one(n)));
    texts.forEach((text, n) => assert(text.endsWith(`message ${n}`), `${n} got ${text}`));
    return texts;
  },
  async progress({ client, profile }) {
    const seen = [];
    const text = textOf(await client.callTool(profile.progress, { onprogress: ({ progress }) => seen.push(progress) }));
    const atResult = seen.length; // whatever comes later has been overtaken by the result
    await client.callTool(profile.call);
    assert(atResult === profile.steps && seen.length === atResult, `${atResult} of ${profile.steps} before the result, ${seen.length} in all`);
    assert(seen.every((value, n) => value === n + 1), `out of order: ${seen}`);
    return { seen, text };
  },
  async logging({ client, inbox, profile }, { era }) {
    if (era === 'legacy') await client.setLevel('debug');
    inbox.logs.length = 0;
    const logs = () => inbox.logs.filter(({ data }) => !String(data).includes('Subscribe'));
    await client.callTool(profile.log, { logLevel: 'debug' });
    await until('log messages', () => logs().length >= profile.logs);
    if (profile.logs === 1) await client.callTool(profile.log);
    return profile.logs === 1 ? 'some' : logs().map(({ level, data }) => ({ level, data: data?.msg ?? data }));
  },
  async sampling({ client, inbox, profile }, { era }) {
    const text = textOf(await client.callTool(profile.sampling[era]));
    assert(text.includes('Paris') && inbox.sampled > 0, `answered ${text}`);
    return text;
  },
  async elicitation({ client, inbox, profile }, { era }) {
    const text = textOf(await client.callTool(profile.elicitation[era]));
    assert(text.includes('Ada') && inbox.elicited > 0, `answered ${text}`);
    return text;
  },
  async rounds({ client, inbox }) {
    inbox.elicited = 0;
    const text = textOf(await client.callTool({ name: 'test_input_required_result_multi_round', arguments: {} }));
    assert(text === 'multi-round-ok' && inbox.elicited === 2, `${text} after ${inbox.elicited} questions`);
    const many = textOf(await client.callTool({ name: 'test_input_required_result_multiple_inputs', arguments: {} }));
    const { messages } = await client.getPrompt({ name: 'test_input_required_result_prompt' });
    return { text, many, messages };
  },
  async roots({ inbox }) {
    await until('roots/list', () => inbox.roots > 0);
    return 'asked';
  },
  async subscribe({ client, inbox, profile }, { era }) {
    inbox.updates.length = 0;
    const subscription = era === 'modern' ? await client.listen({ resourceSubscriptions: [profile.watch], toolsListChanged: true }) : await client.subscribe(profile.watch);
    if (!profile.again) await client.callTool(profile.touch);
    // In the legacy era the notification needs the GET stream, which the SDK opens in its own time: so touch until it is there.
    await until('an update', async () => {
      if (profile.again) await client.callTool(profile.touch);
      await pause(50);
      return inbox.updates.includes(profile.watch);
    });
    if (era === 'modern') {
      await client.callTool({ name: 'test_trigger_tool_change', arguments: {} });
      await until('a changed tool list', () => inbox.changes > 0);
      await subscription.close();
      return 'updated, changed';
    }
    await client.unsubscribe(profile.watch);
    if (!profile.again) await client.callTool(profile.touch);
    return 'updated';
  },
  async cancel({ client, profile }) {
    const key = randomUUID();
    const abort = new AbortController();
    let started = false;
    const call = client.callTool(profile.slow(key), { signal: abort.signal, onprogress: () => { started = true; }, timeout: 60_000 })
      .then(() => 'finished', () => 'cancelled');
    await until('the slow call', () => started);
    abort.abort('enough');
    assert(await call === 'cancelled', 'the call went on');
    if (profile.stats) {
      await until('the server to be told', async () => JSON.parse(textOf(await client.callTool({ name: 'stats', arguments: { key } }))).cancelled);
    }
    textOf(await client.callTool(profile.call));
    return 'cancelled';
  },
  // Through ziggurat only, by way of a relay that cuts the stream again and again: the SDK comes back for the rest.
  async resume(world, task) { return items.progress(world, task); },
  async ping({ client }) { await client.ping(); return 'pong'; },
  async delete({ client, profile }, { url, stdio }) {
    const pid = stdio && profile.stats ? JSON.parse(textOf(await client.callTool({ name: 'stats', arguments: {} }))).pid : undefined;
    const { version, session } = client.info();
    await client.end();
    if (pid) await until('the child to end', () => !alive(pid));
    if (!url) return 'closed';
    const { status } = await fetch(url, {
      method: 'POST', body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list', params: {} }), signal: AbortSignal.timeout(20_000),
      headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream', 'mcp-session-id': session, 'mcp-protocol-version': version },
    });
    assert(status === 404 || (status === 400 && !stdio && !profile.again), `a call of the ended session got ${status}`);
    return stdio ? 'closed' : status;
  },
  // Through ziggurat only, with a deadline that is shorter than the call: the call fails, the session does not.
  async fail({ failing, profile }) {
    const before = failing.info().session;
    const started = Date.now();
    const error = await failing.callTool(profile.slow('late'), { timeout: 60_000 }).then(() => undefined, (error) => error);
    assert(error, 'the slow call succeeded');
    assert(Date.now() - started < 25_000, 'the deadline came late');
    assert(error.data?.source === 'proxy', `not a JSON-RPC error of the proxy: ${error.name} ${error.code} ${error.message} ${JSON.stringify(error.data)}`);
    textOf(await failing.callTool(profile.call));
    assert(failing.info().session === before, 'the session changed');
    return { code: error.code, kind: error.data.kind };
  },
  // Through ziggurat over stdio only: the child dies under a call.
  async crash({ failing, profile, connectFailing }, { era }) {
    const error = await failing.callTool({ name: 'crash', arguments: {} }, { timeout: 60_000 }).then(() => undefined, (error) => error);
    assert(error?.data?.source === 'proxy', `not a JSON-RPC error of the proxy: ${error?.message}`);
    // A legacy session dies with its child; in the modern era there is none to lose.
    const next = era === 'modern' ? failing : await connectFailing();
    await until('the next child', () => next.callTool(profile.call).then(textOf, () => undefined));
    if (next !== failing) await next.close();
    return 'recovered';
  },
  ...ruled,
};

export const run = async (connect) => {
  const task = JSON.parse(process.argv[2]);
  const profile = task.profile === 'everything' ? EVERYTHING : FIXTURE;
  const world = { profile, inbox: newInbox() };
  // Where the deadline is short, a child may be slow to start: connecting is not what is tested there.
  world.connectFailing = async (tries = 3) => {
    try {
      return await connect({ ...task, url: task.failing }, newInbox());
    } catch (error) {
      if (tries === 1) throw error;
      return world.connectFailing(tries - 1);
    }
  };
  for (const item of task.items) {
    let answer;
    let timer;
    const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('timed out')), 45_000); });
    const work = async () => {
      if (item === 'fail' || item === 'crash') world.failing ??= await world.connectFailing();
      else world.client ??= await connect(task, world.inbox);
      return items[item](world, task);
    };
    try {
      answer = { item, ok: true, got: await Promise.race([work(), late]) };
    } catch (error) {
      answer = { item, ok: false, error: `${error?.message ?? error}`.slice(0, 600) };
    }
    clearTimeout(timer);
    console.log(JSON.stringify(answer));
  }
  await Promise.race([Promise.allSettled([world.client?.close(), world.failing?.close()]), pause(5000)]);
  process.exit(0);
};
