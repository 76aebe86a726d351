// The fixture server on the official TypeScript SDK (v2), both eras.
// `ts.mjs stdio`, or `ts.mjs http`, which prints {"url": …} on one line and serves on a free loopback port.
// The HTTP form checks neither Host nor Origin: the proxy in front of it has to.
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { NodeStreamableHTTPServerTransport, toNodeHandler, toWebRequest } from '@modelcontextprotocol/node';
import {
  McpServer, ProtocolError, createMcpHandler, createRequestStateCodec, fromJsonSchema,
  inputRequired, isLegacyRequest,
} from '@modelcontextprotocol/server';
import { serveStdio } from '@modelcontextprotocol/server/stdio';

const catalog = JSON.parse(readFileSync(new URL('catalog.json', import.meta.url)));
const CAPABILITIES = 'io.modelcontextprotocol/clientCapabilities';
const CAPABILITY = { 'elicitation/create': 'elicitation', 'sampling/createMessage': 'sampling', 'roots/list': 'roots' };
const state = createRequestStateCodec({ key: randomUUID() + randomUUID() });
const cancelled = new Set();
const watchers = new Map(); // legacy: uri → servers whose client subscribed

const text = (...lines) => ({ content: lines.map((text) => ({ type: 'text', text })) });
const sleep = (ms, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener('abort', () => { clearTimeout(timer); reject(new Error('cancelled')); }, { once: true });
});

const progress = async (ctx, progress, total) => {
  const progressToken = ctx.mcpReq._meta?.progressToken;
  if (progressToken !== undefined) {
    await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total, message: `${progress} of ${total}` } });
  }
};

/** Whether the client's answer to a question has the shape that the question asks for. */
const answers = (request, response) => {
  if (typeof response !== 'object' || response === null) return false;
  if (request.method === 'elicitation/create') return response.action === 'accept' && typeof response.content === 'object';
  if (request.method === 'sampling/createMessage') return response.content !== undefined;
  return Array.isArray(response.roots);
};
const answered = (questions, ctx) => Object.entries(questions).every(([key, request]) => answers(request, ctx.mcpReq.inputResponses?.[key]));

const tools = {
  echo: ({ message }) => text(message),
  large: ({ bytes }) => text('x'.repeat(bytes)),
  count: async ({ steps }, ctx) => {
    for (let step = 1; step <= steps; step++) await progress(ctx, step, steps);
    return text(`counted to ${steps}`);
  },
  slow: async ({ ms, key }, ctx) => {
    await progress(ctx, 0, 1);
    try {
      await sleep(ms, ctx.mcpReq.signal);
    } catch (error) {
      cancelled.add(key);
      throw error;
    }
    return text('done');
  },
  stats: ({ key }) => text(JSON.stringify({ pid: process.pid, cancelled: cancelled.has(key) })),
  touch: async ({ uri }, ctx, host) => { await host.updated(uri); return text(`touched ${uri}`); },
  crash: () => process.exit(1),
  test_tool_with_logging: async (_, ctx) => {
    await ctx.mcpReq.log('info', 'Tool execution started');
    await sleep(50);
    await ctx.mcpReq.log('info', 'Tool processing data');
    await sleep(50);
    await ctx.mcpReq.log('info', 'Tool execution completed');
    return text('Logged three messages.');
  },
  test_logging_tool: async (_, ctx) => { await ctx.mcpReq.log('info', 'One message'); return text('Logged one message.'); },
  test_tool_with_progress: async (_, ctx) => {
    for (const step of [0, 50, 100]) {
      await progress(ctx, step, 100);
      if (step < 100) await sleep(50);
    }
    return text(String(ctx.mcpReq._meta?.progressToken ?? ''));
  },
  test_error_handling: () => { throw new Error('This tool intentionally returns an error for testing'); },
  test_sampling: async ({ prompt }, ctx) => {
    const answer = await ctx.mcpReq.send({
      method: 'sampling/createMessage', params: { messages: [{ role: 'user', content: { type: 'text', text: prompt } }], maxTokens: 100 },
    });
    return text(`LLM response: ${answer.content?.text}`);
  },
  test_custom_headers: (args) => text(JSON.stringify(args)),
  test_reconnection: async (_, ctx) => { ctx.http?.closeSSE?.(); await sleep(100); return text('Reconnection test completed'); },
  // The SDK itself refuses (-32021) to put a question that the client has not declared that it can answer.
  test_missing_capability: (_, ctx) => {
    const inputRequests = catalog.questions.test_input_required_result_sampling;
    return answered(inputRequests, ctx) ? text('The client can sample.') : inputRequired({ inputRequests });
  },
  test_trigger_tool_change: async (_, ctx, host) => { await host.toolsChanged(); return text('announced'); },
  test_trigger_prompt_change: async (_, ctx, host) => { await host.promptsChanged(); return text('announced'); },
  test_input_required_result_request_state: async (_, ctx) => {
    const questions = catalog.questions.test_input_required_result_request_state;
    if (ctx.mcpReq.requestState() && answered(questions, ctx)) return text('state-ok');
    return inputRequired({ inputRequests: questions, requestState: await state.mint({ round: 1 }) });
  },
  test_input_required_result_multi_round: async (_, ctx) => {
    const first = catalog.questions.test_input_required_result_multi_round;
    const second = catalog.questions['test_input_required_result_multi_round/2'];
    const round = ctx.mcpReq.requestState()?.round ?? 0;
    if (round === 2 && answered(second, ctx)) return text('multi-round-ok');
    if (round >= 1 && (round === 2 || answered(first, ctx))) {
      return inputRequired({ inputRequests: second, requestState: await state.mint({ round: 2 }) });
    }
    return inputRequired({ inputRequests: first, requestState: await state.mint({ round: 1 }) });
  },
  test_input_required_result_capabilities: (_, ctx) => {
    const able = ctx.mcpReq.envelope?.[CAPABILITIES] ?? {};
    const questions = Object.entries(catalog.questions.test_input_required_result_capabilities);
    const inputRequests = Object.fromEntries(questions.filter(([, request]) => able[CAPABILITY[request.method]]));
    if (Object.keys(inputRequests).length === 0 || answered(inputRequests, ctx)) return text('answered within the capabilities');
    return inputRequired({ inputRequests });
  },
};
tools.test_input_required_result_tampered_state = async (_, ctx) => {
  const questions = catalog.questions.test_input_required_result_tampered_state;
  if (ctx.mcpReq.requestState() && answered(questions, ctx)) return text('state-ok');
  return inputRequired({ inputRequests: questions, requestState: await state.mint({ round: 1 }) });
};
tools.test_input_required_result_multiple_inputs = async (_, ctx) => {
  const questions = catalog.questions.test_input_required_result_multiple_inputs;
  if (ctx.mcpReq.requestState() && answered(questions, ctx)) return text('all-inputs-ok');
  return inputRequired({ inputRequests: questions, requestState: await state.mint({ round: 1 }) });
};
for (const [name, content] of Object.entries(catalog.answers)) tools[name] = () => ({ content });
for (const [name, requestedSchema] of Object.entries(catalog.forms)) {
  tools[name] = async ({ message = 'Please fill in the form' }, ctx) => {
    const answer = await ctx.mcpReq.send({ method: 'elicitation/create', params: { message, requestedSchema } });
    return text(`Elicitation completed: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`);
  };
}
for (const [name, inputRequests] of Object.entries(catalog.questions)) {
  tools[name] ??= (_, ctx) => (answered(inputRequests, ctx)
    ? text(`answered: ${JSON.stringify(Object.keys(inputRequests).map((key) => ctx.mcpReq.inputResponses[key]))}`)
    : inputRequired({ inputRequests }));
}

const fill = (value, args) => JSON.parse(JSON.stringify(value).replace(/\{(\w+)\}/g, (_, key) => args?.[key] ?? ''));

/** `shared` announces to all listen streams of the modern HTTP entry; elsewhere the one connection of this server is told. */
const build = (shared) => {
  const mcp = new McpServer({ name: 'ziggurat-fixture-ts', version: '1.0.0' }, {
    capabilities: {
      tools: { listChanged: true }, prompts: { listChanged: true }, resources: { listChanged: true, subscribe: true }, logging: {}, completions: {},
    },
    requestState: { verify: state.verify },
  });
  const server = mcp.server;
  const host = shared ?? {
    toolsChanged: () => server.sendToolListChanged(),
    promptsChanged: () => server.sendPromptListChanged(),
    // The modern era over stdio filters by its listen streams; in the legacy era only subscribers are told.
    updated: (uri) => (server.getNegotiatedProtocolVersion() >= '2026'
      ? server.sendResourceUpdated({ uri })
      : Promise.all([...watchers.get(uri) ?? []].map((watcher) => watcher.sendResourceUpdated({ uri })))),
  };
  for (const { name, description, inputSchema } of catalog.tools) {
    mcp.registerTool(name, { description, inputSchema: fromJsonSchema(inputSchema) }, (args, ctx) => tools[name](args ?? {}, ctx, host));
  }
  server.setRequestHandler('resources/list', () => ({ resources: catalog.resources }));
  server.setRequestHandler('resources/templates/list', () => ({ resourceTemplates: catalog.templates }));
  server.setRequestHandler('resources/read', ({ params: { uri } }) => {
    const id = /^test:\/\/template\/([^/]+)\/data$/.exec(uri)?.[1];
    if (id) return { contents: [{ uri, mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }] };
    if (!catalog.contents[uri]) throw new ProtocolError(-32602, 'Resource not found', { uri });
    return { contents: [catalog.contents[uri]] };
  });
  server.setRequestHandler('resources/subscribe', ({ params: { uri } }) => {
    if (!watchers.has(uri)) watchers.set(uri, new Set());
    watchers.get(uri).add(server);
    return {};
  });
  server.setRequestHandler('resources/unsubscribe', ({ params: { uri } }) => { watchers.get(uri)?.delete(server); return {}; });
  server.onclose = () => watchers.forEach((servers) => servers.delete(server));
  server.setRequestHandler('prompts/list', () => ({ prompts: catalog.prompts }));
  server.setRequestHandler('prompts/get', ({ params: { name, arguments: args } }, ctx) => {
    if (!catalog.messages[name]) throw new ProtocolError(-32602, `Unknown prompt: ${name}`);
    const questions = catalog.questions[name];
    if (questions && !answered(questions, ctx)) return inputRequired({ inputRequests: questions });
    return { messages: fill(catalog.messages[name], args) };
  });
  server.setRequestHandler('completion/complete', () => ({ completion: { values: ['paris', 'park', 'party'], total: 3, hasMore: false } }));
  return mcp;
};

/** Keeps the events of one session, so that a stream that was closed can be resumed. */
const eventStore = () => {
  const events = [];
  return {
    storeEvent: async (stream, message) => `${stream}_${events.push({ stream, message })}`,
    getStreamIdForEventId: async (id) => id.slice(0, id.lastIndexOf('_')),
    replayEventsAfter: async (id, { send }) => {
      const cut = id.lastIndexOf('_');
      const stream = id.slice(0, cut);
      for (let i = Number(id.slice(cut + 1)); i < events.length; i++) {
        const { message } = events[i];
        if (events[i].stream === stream && message && Object.keys(message).length > 0) await send(`${stream}_${i + 1}`, message);
      }
      return stream;
    },
  };
};

const serveHttp = () => {
  const sessions = new Map();
  const modern = createMcpHandler(() => build({
    toolsChanged: () => modern.notify.toolsChanged(),
    promptsChanged: () => modern.notify.promptsChanged(),
    updated: (uri) => modern.notify.resourceUpdated(uri),
  }), { legacy: 'reject' });
  const serveModern = toNodeHandler(modern);
  const serveLegacy = async (req, res, body) => {
    const id = req.headers['mcp-session-id'];
    let transport = sessions.get(id);
    if (!transport && id) {
      res.writeHead(404, { 'content-type': 'application/json' });
      return res.end(JSON.stringify({ jsonrpc: '2.0', error: { code: -32001, message: 'Session not found' }, id: null }));
    }
    if (!transport) {
      transport = new NodeStreamableHTTPServerTransport({
        sessionIdGenerator: randomUUID, eventStore: eventStore(), retryInterval: 100,
        onsessioninitialized: (id) => { sessions.set(id, transport); },
        onsessionclosed: (id) => { sessions.delete(id); },
      });
      await build().connect(transport);
    }
    return transport.handleRequest(req, res, body);
  };
  const http = createServer(async (req, res) => {
    try {
      const chunks = [];
      for await (const chunk of req) chunks.push(chunk);
      let body;
      try { body = JSON.parse(Buffer.concat(chunks).toString()); } catch { body = undefined; }
      const legacy = await isLegacyRequest(await toWebRequest(req, body), body);
      await (legacy ? serveLegacy : serveModern)(req, res, body);
    } catch (error) {
      console.error(error);
      if (!res.headersSent) res.writeHead(500).end();
    }
  });
  http.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ url: `http://127.0.0.1:${http.address().port}/mcp` })));
};

if (process.argv[2] === 'http') serveHttp();
else serveStdio(() => build());
