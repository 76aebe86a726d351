// The official TypeScript SDK, v2, in either era.
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { ANSWERS, fill } from './answers.mjs';
import { run } from './items.mjs';

await run(async ({ url, command, era, auto }, inbox) => {
  const client = new Client({ name: 'interop-ts2', version: '1.0.0' }, {
    capabilities: { sampling: {}, elicitation: {}, roots: {} },
    versionNegotiation: { mode: auto ? 'auto' : 'legacy' },
  });
  client.setRequestHandler('sampling/createMessage', () => { inbox.sampled++; return ANSWERS.sampling; });
  client.setRequestHandler('elicitation/create', ({ params }) => { inbox.elicited++; return fill(params.requestedSchema); });
  client.setRequestHandler('roots/list', () => { inbox.roots++; return ANSWERS.roots; });
  client.setNotificationHandler('notifications/message', ({ params }) => { inbox.logs.push(params); });
  client.setNotificationHandler('notifications/resources/updated', ({ params }) => { inbox.updates.push(params.uri); });
  client.setNotificationHandler('notifications/tools/list_changed', () => { inbox.changes++; });
  const transport = url
    ? new StreamableHTTPClientTransport(new URL(url))
    : new StdioClientTransport({ command: command[0], args: command.slice(1), env: process.env, stderr: 'ignore' });
  await client.connect(transport);
  return {
    info: () => ({ version: client.getNegotiatedProtocolVersion(), server: client.getServerVersion()?.name, session: transport.sessionId }),
    listTools: () => client.listTools(undefined, { cacheMode: 'refresh' }),
    callTool: (params, { logLevel, onprogress, signal, timeout } = {}) => client.callTool(
      logLevel && era === 'modern' ? { ...params, _meta: { 'io.modelcontextprotocol/logLevel': logLevel } } : params, { onprogress, signal, timeout },
    ),
    getPrompt: (params) => client.getPrompt(params),
    setLevel: (level) => client.setLoggingLevel(level),
    ping: () => client.ping(),
    subscribe: (uri) => client.subscribeResource({ uri }),
    unsubscribe: (uri) => client.unsubscribeResource({ uri }),
    listen: (filter) => client.listen(filter),
    end: async () => { await transport.terminateSession?.(); await client.close(); },
    close: () => client.close(),
  };
});
